"""The command line: a client over HTTP, and the supervisor of `attune up`."""
