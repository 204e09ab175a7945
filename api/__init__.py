"""HTTP in, JSON out. No torch."""
