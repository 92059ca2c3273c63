"""What brings events in: one file a kind. Import no kind here: the registry names them as strings."""
