"""The trainer: `python -m trainer COMMAND`. It stands alone and never imports ComfyUI."""
