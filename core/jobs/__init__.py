"""The life of a job: what it may be made of, who may work on it, and how it ends."""
