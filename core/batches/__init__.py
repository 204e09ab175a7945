"""Files of requests that workers answer into files."""
