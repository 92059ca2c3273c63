"""What handlers read from and write to: one file a kind. Import no kind here: the registry names them as strings."""
