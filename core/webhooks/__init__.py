"""From what happened to the receivers that want to hear of it."""
