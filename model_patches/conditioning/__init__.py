"""References, masks and settings into conditioning."""
