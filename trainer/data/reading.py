"""From the file of one part of a sample to its pixels."""

from __future__ import annotations

from typing import BinaryIO

import numpy as np
from PIL import Image

from trainer.data import decode
from trainer.data.buckets import Canvas
from trainer.data.listing import LABEL_PARTS

# Parts of a sample that show the reference, and the part of the chosen picture they are in references of the set.
REFERENCE_PARTS = {"reference": "color", "reference_mask": "mask", "reference_regions": "regions"}


def resized(
    file: BinaryIO,
    kind: str,
    canvas: Canvas,
    size: int,  # side of references
    zoom: float = 1.0,
    picture_filter: Image.Resampling = decode.LANCZOS,  # of pictures
    luma: bool = False,  # a sketch in colours becomes grey by ITU-R 601 luma instead of the mean of its channels
) -> np.ndarray:
    """A file's pixels, covering the canvas `zoom` times, or squashed for references: (H, W) or (H, W, 3)."""

    def target(own: tuple[int, int]) -> tuple[int, int]:
        if kind in REFERENCE_PARTS:  # squashed, as the reference encoder will see it
            return size, size
        return decode.covering(own, canvas, zoom)

    if kind in LABEL_PARTS:
        return decode.read_resized(file, target, decode.NEAREST, "labels")
    if kind.endswith("mask"):
        return decode.read_resized(file, target, decode.BILINEAR, "L")
    pixels = decode.read_resized(file, target, picture_filter, "sketch" if kind == "sketch" else "RGB")
    if kind != "sketch" or pixels.ndim == 2:
        return pixels
    return decode.luma(pixels) if luma else decode.mean_of_channels(pixels)
