"""AnimeDiffusion inside ComfyUI."""
