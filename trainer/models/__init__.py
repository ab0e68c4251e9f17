"""Trained and frozen models, and the files they live in."""
