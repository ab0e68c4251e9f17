"""Sketches, masks and the index of a data set, made from its pictures."""
