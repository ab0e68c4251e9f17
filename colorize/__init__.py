"""The method itself, in pure torch: what ComfyUI runs and the trainer trains. Imports neither of them."""
