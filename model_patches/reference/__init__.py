"""Encoders, taggers and text towers under ComfyUI's memory management."""
