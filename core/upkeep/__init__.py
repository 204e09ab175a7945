"""What keeps a deployment well: checks, counts, cleaning, backups."""
