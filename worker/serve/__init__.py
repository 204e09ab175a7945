"""The generation server: OpenAI routes over bases and their adapters, behind the web side."""
