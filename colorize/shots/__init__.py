"""Shots: colours that stay on the same thing from drawing to drawing."""
