"""Line extraction and segmentation under ComfyUI's memory management."""
