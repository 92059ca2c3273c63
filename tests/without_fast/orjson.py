"""Stands before the real one in the path of processes that shall run as if the extra `fast` were not installed."""

raise ImportError("left out on purpose")
