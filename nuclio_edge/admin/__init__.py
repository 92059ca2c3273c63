"""What a running processor answers to who administers it."""
