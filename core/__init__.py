"""What a job is, where things are kept, how a worker is told, how an example is rendered. No web, no torch."""
