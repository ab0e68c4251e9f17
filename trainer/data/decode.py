"""From a picture file to uint8 pixels of the asked size.

Pictures come from strangers: `open_picture` is the only way in. It knows the formats that are promised and no other
(Pillow alone would hand an EPS file, whatever its name, to Ghostscript), and refuses what would fill the memory.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from trainer.config import ConfigError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
"""What a picture may be, by content; those of sources.SUFFIXES."""
MAX_PIXELS = 89_478_485
"""Largest picture: where Pillow begins to warn (256 MiB as RGB)."""
PICTURE_ERRORS = (
    OSError, ValueError, SyntaxError, TypeError, LookupError, EOFError, ArithmeticError, MemoryError, RecursionError,
    struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip
"""What Pillow raises for files that are damaged, no pictures, or too large: one picture's failure, not a run's."""

ORIENTATION = 0x0112
"""EXIF's tag."""
SIDEWAYS = (5, 6, 7, 8)
"""Orientations in which width and height are exchanged."""
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

LANCZOS, BILINEAR, NEAREST = Image.Resampling.LANCZOS, Image.Resampling.BILINEAR, Image.Resampling.NEAREST


def open_picture(file: Path | BinaryIO) -> Image.Image:
    """A picture of one of FORMATS, its pixels not yet decoded, as the file has them: `upright` turns them, and
    `upright_size` has the size that is seen. Raises one of PICTURE_ERRORS."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit stands there
        image = Image.open(file, formats=FORMATS)
    try:
        check_pixels(image.size)
    except ValueError:
        image.close()
        raise
    return image


def orientation(image: Image.Image) -> int:
    """How a camera or a scanner was held, EXIF's 1 (upright) to 8; 1 where a picture does not say it."""
    if "exif" not in image.info:  # not asked for: Pillow would decode a whole PNG to look for it behind the pixels
        return 1
    try:
        found = image.getexif().get(ORIENTATION, 1)
    except PICTURE_ERRORS:  # what cannot be read says nothing
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def upright_size(image: Image.Image) -> tuple[int, int]:
    """width, height of a picture as people see it."""
    width, height = image.size
    return (height, width) if orientation(image) in SIDEWAYS else (width, height)


def upright(image: Image.Image) -> Image.Image:
    """The picture as people see it; decodes it where it has to be turned."""
    turned = TURNS.get(orientation(image))
    return image if turned is None else image.transpose(turned)


def turned(content: bytes) -> str:
    """What `upright` does to the picture of a file's bytes, in words; nothing for those that are upright."""
    try:
        with open_picture(io.BytesIO(content)) as image:
            held = orientation(image)
    except PICTURE_ERRORS:
        return ""
    return "" if held == 1 else f" from orientation {held}"


def check_pixels(size: tuple[int, int]) -> None:
    """ValueError when a picture of this width and height is larger than MAX_PIXELS."""
    if size[0] * size[1] > MAX_PIXELS:
        raise ValueError(
            f"{size[0]}x{size[1]} pixels are more than the {MAX_PIXELS / 1e6:.0f} million that are read; reduce it"
        )


def why(error: Exception) -> str:
    """One of PICTURE_ERRORS in words."""
    if isinstance(error, UnidentifiedImageError):
        return f"it is empty, or no picture of a known kind ({', '.join(FORMATS)})"
    if isinstance(error, MemoryError):
        return "there is not enough memory for it"
    return getattr(error, "reason", None) or str(error) or type(error).__name__


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
        check_pixels(wanted)
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
    """A picture as RGB, see `as_rgb`, upright."""
    with open_picture(file) as image:
        return as_rgb(upright(image))


def read_given(file: Path, size: int | None = None, resample: Image.Resampling = LANCZOS) -> Image.Image:
    """A picture that the user named, as RGB; with a size, cut to a square of that side. ConfigError when it is none."""
    try:
        image = read_rgb(file)
        return image if size is None else cover(image, size, resample=resample)
    except PICTURE_ERRORS as error:
        raise ConfigError(
            f"{file} cannot be read as a picture ({why(error)}); save it again as PNG, or choose another."
        ) from None


def read_resized(
    file: Path | BinaryIO,
    target: Callable[[tuple[int, int]], tuple[int, int]],
    resample: Image.Resampling,
    mode: str = "RGB",
) -> np.ndarray:
    """Pixels of a picture at the size `target` gives for its own (width, height): (H, W, 3), or (H, W) uint8; upright.

    mode: "RGB"; "sketch" leaves grey files grey; "L" for masks; "labels" keeps the numbers as they are. A large JPEG is
    decoded at 1/2, 1/4 or 1/8 of its size where that is still enough.
    """
    with open_picture(file) as image:
        wanted, sideways = target(upright_size(image)), orientation(image) in SIDEWAYS
        check_pixels(wanted)  # of a picture one pixel wide, a canvas makes millions of rows
        image.draft(None, wanted[::-1] if sideways else wanted)
        seen = upright(image)
        if mode == "labels" or (mode == "sketch" and seen.mode == "L" and "transparency" not in seen.info):
            seen.load()
        else:
            seen = seen.convert("L") if mode == "L" else as_rgb(seen)
        if seen.size != wanted:
            seen = seen.resize(wanted, resample)
        return np.array(seen)


def mean_of_channels(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> (H, W), rounded: what the trainer takes as the grey of a sketch."""
    return ((pixels.sum(-1, dtype=np.uint16) + 1) // 3).astype(np.uint8)


def luma(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> (H, W), ITU-R 601, as Pillow's mode L."""
    return np.array(Image.fromarray(pixels).convert("L"))
