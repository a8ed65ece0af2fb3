"""Fuzz jobs: one for each parser of bytes that strangers write. `python -m tests.fuzz --help`."""
