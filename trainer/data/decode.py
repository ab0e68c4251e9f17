"""From a picture file to uint8 pixels of the asked size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

LANCZOS, BILINEAR, NEAREST = Image.Resampling.LANCZOS, Image.Resampling.BILINEAR, Image.Resampling.NEAREST


def covering(size: tuple[int, int], canvas: tuple[int, int], zoom: float = 1.0) -> tuple[int, int]:
    """width, height to which a picture of `size` (width, height) is resized to cover `canvas` (height, width).

    One side fits, the other is rounded down, as in the released trainers. zoom: how often it covers it, 1 or more.
    """
    (width, height), (rows, columns) = size, (round(side * zoom) for side in canvas)
    if width * rows >= height * columns:
        return max(columns, width * rows // height), rows
    return columns, max(rows, height * columns // width)


def corner(size: tuple[int, int], canvas: tuple[int, int], place: tuple[float, float]) -> tuple[int, int]:
    """left, top of a canvas (height, width) in a picture (width, height) for a `place` of 0..1 along x and y."""
    return round((size[0] - canvas[1]) * place[0]), round((size[1] - canvas[0]) * place[1])


def shown_part(size: tuple[int, int], canvas: tuple[int, int], at: tuple[int, int]) -> tuple[float, ...]:
    """top, left, height, width of a canvas at left, top in a picture (width, height), as fractions of the picture."""
    (width, height), (left, top) = size, at
    return top / height, left / width, canvas[0] / height, canvas[1] / width


def cover(
    image: Image.Image,
    size: int | tuple[int, int],
    place: tuple[float, float] = (0.5, 0.5),
    resample: Image.Resampling = LANCZOS,
) -> Image.Image:
    """Resize to the smallest picture that covers `size` (a square's side, or height and width) and cut at `place`."""
    canvas = (size, size) if isinstance(size, int) else size
    wanted = covering(image.size, canvas)
    if image.size != wanted:
        image = image.resize(wanted, resample)
    left, top = corner(image.size, canvas, place)
    return image.crop((left, top, left + canvas[1], top + canvas[0]))


def as_rgb(image: Image.Image) -> Image.Image:
    """Transparent parts become white, 16 bits become 8."""
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.uint32)
        image = Image.fromarray((values >> 8 if values.max(initial=0) > 255 else values).astype(np.uint8))
    return image.convert("RGB")


def read_rgb(file: Path | BinaryIO) -> Image.Image:
    """A picture as RGB, see `as_rgb`."""
    with Image.open(file) as image:
        return as_rgb(image)


def read_resized(
    file: Path | BinaryIO,
    target: Callable[[tuple[int, int]], tuple[int, int]],
    resample: Image.Resampling,
    mode: str = "RGB",
) -> np.ndarray:
    """Pixels of a picture at the size `target` gives for its own (width, height): (H, W, 3), or (H, W) uint8.

    mode: "RGB"; "sketch" leaves grey files grey; "L" for masks; "labels" keeps the numbers as they are. A large JPEG is
    decoded at 1/2, 1/4 or 1/8 of its size where that is still enough.
    """
    with Image.open(file) as image:
        wanted = target(image.size)
        image.draft(None, wanted)
        if mode == "labels" or (mode == "sketch" and image.mode == "L" and "transparency" not in image.info):
            image.load()
        else:
            image = image.convert("L") if mode == "L" else as_rgb(image)
        if image.size != wanted:
            image = image.resize(wanted, resample)
        return np.array(image)


def mean_of_channels(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> (H, W), rounded: what the trainer takes as the grey of a sketch."""
    return ((pixels.sum(-1, dtype=np.uint16) + 1) // 3).astype(np.uint8)


def luma(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> (H, W), ITU-R 601, as Pillow's mode L."""
    return np.array(Image.fromarray(pixels).convert("L"))
