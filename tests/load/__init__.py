"""What a deployment carries: the floors of load, measured and held against."""
