"""Mutations of the source that must make a test fail; see __main__.py."""
