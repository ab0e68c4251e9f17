"""Reference masks that tell less of the figure's outline: grown to cells, boxed, partly erased, dilated.

Source: the released trainer of ColorizeDiffusion XL, which changes the masks of references in this order of choice. The
background's weights must not learn to read the figure off the edge of its background.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from colorize.pictures.masks import dilate, grow_to_grid

CELL = (60, 40)
"""Height and width in pixels of the released cells."""
DILATION = 21
"""Side in pixels of the released dilation of masks that are neither grown nor erased."""
ERASED_AREA = (0.2, 0.5)
"""Share of the mask that an erased rectangle covers."""
ERASED_RATIO = (0.2, 3.0)
"""Height over width of an erased rectangle."""


def grow(mask: torch.Tensor, cell: tuple[int, int] = CELL) -> torch.Tensor:
    """uint8 mask (1, H, W) -> every cell gets its largest value. The incomplete cells at the bottom and at the right
    are filled like all others; the released code leaves the mask as it is there."""
    return grow_to_grid(mask.float(), cell).to(torch.uint8)


def box(mask: torch.Tensor, threshold: int = 127) -> torch.Tensor:
    """uint8 mask (1, H, W) -> the smallest rectangle around all that is above the threshold; empty stays empty."""
    filled = torch.zeros_like(mask)
    rows, columns = ((mask[0] > threshold).any(dim).nonzero()[:, 0] for dim in (1, 0))
    if len(rows):
        filled[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = 255
    return filled


def erase(mask: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
    """uint8 mask (1, H, W) with a random rectangle of 255 (figure): torchvision's RandomErasing, drawn by `random`.

    The rectangle has a share ERASED_AREA of the mask and a shape ERASED_RATIO, uniform and log-uniform. One that does
    not fit is drawn again, ten times at most.
    """
    height, width = mask.shape[-2:]
    low, high = (math.log(ratio) for ratio in ERASED_RATIO)
    for _ in range(10):
        area = height * width * random.uniform(*ERASED_AREA)
        ratio = math.exp(random.uniform(low, high))
        rows, columns = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if rows < height and columns < width:
            top, left = random.integers(height - rows + 1), random.integers(width - columns + 1)
            mask = mask.clone()
            mask[:, top : top + rows, left : left + columns] = 255
            break
    return mask


def change(
    mask: torch.Tensor,
    random: np.random.Generator,
    grown: float = 0.0,
    erased: float = 0.0,
    boxed: float = 0.0,
    dilation: int = 1,
    cell: tuple[int, int] = CELL,
) -> torch.Tensor:
    """One change of a reference mask (1, H, W): with the given probabilities grown, else erased, else boxed, else
    dilated by a square of `dilation` pixels (odd; 1 leaves it).

    Released trainer: grown 0.33, erased 0.33 of the rest (and then only every second time), dilation 21.
    """
    draws = random.random(4)
    if draws[0] < grown:
        return grow(mask, cell)
    if draws[1] < erased:
        return erase(mask, random) if draws[3] < 0.5 else mask
    if draws[2] < boxed:
        return box(mask)
    return dilate(mask.float(), dilation).to(torch.uint8) if dilation > 1 else mask
