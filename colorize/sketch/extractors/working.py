"""At which size a picture is extracted, and how a network gets it: enlarged or reduced, padded, in tiles. Pure torch.

Lines come out as wide as the networks were trained to see them, so the working size decides how fine the drawing is.
The result always has the size of the picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from ...pictures import blur, images
from ...pictures.ranges import levels_to_model
from .extractor import Extractor

SIDE = 768
"""Side in pixels of the square that the released XL application works on (SD1.5: 512)."""
LONGEST = 3  # times the side: a long strip is not enlarged any further
TILE = 1536  # pixels; longer sides of a working size are cut, where the network allows it
CALL_PIXELS = 2**20  # pictures share one call of a network up to this many pixels

Forward = Callable[[torch.Tensor], torch.Tensor]


def working_size(height: int, width: int, side: int = SIDE, squash: bool = False) -> tuple[int, int]:
    """(height, width) in pixels with the proportions of the picture and the area of a square of `side`.

    squash: the square itself, proportions ignored, as in the released applications.
    """
    if squash:
        return side, side
    scale = min(side / math.sqrt(height * width), LONGEST * side / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def at_size(
    compute: Forward, picture: torch.Tensor, size: tuple[int, int], resize: Callable[..., torch.Tensor] = images.resize
) -> torch.Tensor:
    """compute(picture brought to size), brought back to the size of the picture; bicubic, antialiased."""
    return images.resize(compute(resize(picture, *size).clamp(-1, 1)), *picture.shape[-2:])


def resize_in_levels(picture: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The released resizing: Pillow's bicubic on 8-bit pictures, which rounds after each direction."""
    for size in ((picture.shape[-2], width), (height, width)):
        picture = levels_to_model(blur.levels(images.resize(picture, *size)))
    return picture


def pad_to_multiple(picture: torch.Tensor, multiple: int, smallest: int) -> torch.Tensor:
    """Mirrored places at the right and the bottom until both sides are multiples and at least `smallest`.

    Mirrored content keeps the statistics of the picture, which instance norm measures.
    """
    for dim in (2, 3):
        length = picture.shape[dim]
        padded = max(smallest, math.ceil(length / multiple) * multiple)
        if padded > length:
            index = blur.mirrored(length, padded - length, picture.device)[padded - length :]
            picture = picture.index_select(dim, index)
    return picture


def tiles(height: int, width: int, margin: int | None, tile: int = TILE) -> list[tuple[slice, slice, slice, slice]]:
    """How a picture is cut: (rows read, columns read, rows kept, columns kept); kept counts from what is read.

    Every place is answered once, with `margin` pixels around it. A side of at most `tile` pixels is not cut, and with
    margin None no side is.
    """
    margin, tile = (0, max(height, width)) if margin is None else (margin, tile)
    if tile <= 2 * margin:
        raise ValueError(f"Tiles of {tile} pixels leave nothing between margins of {margin}; take at least twice that.")

    def cuts(length: int) -> list[tuple[slice, slice]]:
        if length <= tile:
            return [(slice(0, length), slice(0, length))]
        found = []
        core = tile - 2 * margin
        for start in range(0, length, core):
            first, last = max(0, start - margin), min(length, start + core + margin)
            found.append((slice(first, last), slice(start - first, min(length, start + core) - first)))
        return found

    return [(rows, columns, up, across) for rows, up in cuts(height) for columns, across in cuts(width)]


def tiled(forward: Forward, x: torch.Tensor, margin: int | None, tile: int = TILE) -> torch.Tensor:
    """forward(x) for x (N, C, H, W) -> (N, 1, H, W), one tile after the other. tile and margin: multiples of 16."""
    height, width = x.shape[-2:]
    answer = x.new_empty(0)
    for rows, columns, up, across in tiles(height, width, margin, tile):
        part = forward(x[..., rows, columns])[..., up, across]
        if part.shape[-2:] == (height, width):
            return part
        if not answer.numel():
            answer = part.new_empty(x.shape[0], 1, height, width)
        top, left = rows.start + up.start, columns.start + across.start
        answer[..., top : top + part.shape[-2], left : left + part.shape[-1]] = part
    return answer


def padded_size(network: Extractor, size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) that the network reads for a working size."""
    multiple, smallest = network.multiple, network.smallest
    height, width = (max(smallest, math.ceil(length / multiple) * multiple) for length in size)
    return height, width


def together(size: tuple[int, int]) -> int:
    """How many pictures of a size share one call."""
    return max(1, CALL_PIXELS // (size[0] * size[1]))


def extract(
    network: Extractor,
    picture: torch.Tensor,  # (B, 3, H, W) in -1..1
    side: int = SIDE,
    variant: str = "paper",
    forward: Forward | None = None,  # the network's, unless it must run elsewhere
    tile: int = TILE,
) -> torch.Tensor:
    """Pictures of any size -> model sketches (B, 1, H, W), white lines on black; may leave -1..1 a little.

    side: side in pixels of the square whose area the network works on. variant: "paper", or "released": squashed to
    that square, and what the application does around the network.
    """
    squash = variant == "released"
    height, width = picture.shape[-2:]
    size = working_size(height, width, side, squash)
    resize = resize_in_levels if squash else images.resize

    def compute(small: torch.Tensor) -> torch.Tensor:
        x = network.prepare(pad_to_multiple(small, network.multiple, network.smallest), variant)
        answer = tiled(forward or network, x, network.margin, tile)
        return network.finish(answer, variant)[..., : size[0], : size[1]]

    chunks = picture.float().nan_to_num(0.0).clamp(-1, 1).split(together(padded_size(network, size)))
    return torch.cat([at_size(compute, chunk, size, resize) for chunk in chunks])
