"""The flight recorder: the last events of chosen triggers, on disk, with what came of each."""
