"""Drawings by people for training and measuring: fetched from package registries, never part of this repository."""
