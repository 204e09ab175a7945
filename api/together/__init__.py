"""What many ask for at once is looked up, made or listened to once for all of them."""
