"""Encodings of a run's pictures, computed once and kept in files: `python -m trainer cache` writes, the stages read."""
