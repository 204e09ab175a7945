"""What comes and goes in pieces: forms, uploads, downloads, streamed answers."""
