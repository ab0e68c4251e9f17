"""The tests mirror the tree; tests/comfy needs a real ComfyUI, tests/golden runs the recorded numbers."""
