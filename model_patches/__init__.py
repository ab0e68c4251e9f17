"""What is attached to a diffusion model. Importing this package imports nothing; `networks` also serves the trainer."""
