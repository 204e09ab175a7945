"""The training and generation programs: files in, files out. No database, no network, no service."""
