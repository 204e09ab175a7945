"""Base models: the catalog of them, where they come from, and what their files say."""
