"""What runs beside the requests in a web process."""
