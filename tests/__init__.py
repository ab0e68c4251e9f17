"""Tests: the tree mirrors the repository; golden/ runs the golden numbers, bench/ measures, comfy/ needs a real ComfyUI."""
