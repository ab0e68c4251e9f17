"""The tests mirror the tree; what needs ComfyUI asks for the fixture `pack`, tests/golden runs recorded numbers."""
