"""One file per verb of `python -m trainer`."""
