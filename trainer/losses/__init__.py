"""Losses and training-time transforms, one idea per file, each a pure function with its source."""
