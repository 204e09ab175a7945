"""Objects in a folder or in S3: streamed, hashed, never overwritten."""
