"""The portable core: runs unchanged on CPython and MicroPython; single-threaded, only the loop touches it."""
