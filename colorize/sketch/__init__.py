"""Sketch encoders and line extractors."""
