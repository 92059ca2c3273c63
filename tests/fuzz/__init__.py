"""Fuzzers of what reads bytes from outside: `python -m tests.fuzz TARGET` runs one until Ctrl-C, guided by coverage."""
