"""Runs: the command lines, the run directory with its manifest, resuming."""
