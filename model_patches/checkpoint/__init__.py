"""Files into loaded parts: detection's result, networks under ComfyUI's memory management."""
