"""Networks in pure torch, shared by the ComfyUI nodes and the trainer. Nothing in here imports ComfyUI."""
