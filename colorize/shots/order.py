"""Which files are frames of a shot, and in which order: standard library alone, quickstart reads it too."""

from __future__ import annotations

import re

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".psd")
VIDEOS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")


def natural(name: str) -> list[tuple[int, int, str]]:
    """A sorting key by which frame2 comes before frame10."""
    parts = re.split(r"(\d+)", name.casefold())
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts if part]
