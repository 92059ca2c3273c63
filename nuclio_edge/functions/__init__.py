"""A function: its code, how that is loaded and imports, and what its handlers see of the world."""
