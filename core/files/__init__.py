"""Uploaded files, at once or in parts."""
