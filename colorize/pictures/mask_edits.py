"""Repairs of a figure mask, in the order of `edit`: keep the largest parts, fill holes, cut, grow or shrink, feather.

A mask is (B, H, W) in 0..1, 1 = figure; float32 on the CPU. Connected parts and distances come from scipy, which
ComfyUI ships. Every repair of a mask without a figure, or without a background, is defined and gives it back.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from . import blur
from .masks import binary

EDGES = ("soft", "hard")
RIM_SIGMAS = 4.0  # a blurred step passes from 2 % to 98 % within four standard deviations


@dataclass(frozen=True)
class MaskEdits:
    """What is done to a mask. The defaults change nothing but tell figure from background at 0.5."""

    threshold: float = 0.5
    """Above it a pixel is figure, 0..1; decides what is a part and what a hole, and where a hard edge lies."""
    edges: str = "soft"
    """"soft" keeps the values, "hard" makes 0 and 1 of them."""
    largest: int = 0
    """Number of connected parts that stay, the largest first; 0 = all."""
    fill_holes: float = 0.0
    """Holes up to this share of the picture, in percent, become figure; 0 = none, 100 = all."""
    grow: int = 0
    """Pixels by which the figure grows, negative: shrinks."""
    feather: int = 0
    """Width in pixels of the soft rim, centred on the edge; 0 = none."""

    def __post_init__(self) -> None:
        if self.edges not in EDGES:
            raise ValueError(f"edges is {self.edges!r}; choose one of {', '.join(EDGES)}.")
        for name, low, high in (("threshold", 0, 1), ("fill_holes", 0, 100)):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} is {getattr(self, name)}; it lies between {low} and {high}.")
        for name in ("largest", "feather"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it is 0 (off) or more.")


def edit(mask: torch.Tensor, edits: MaskEdits) -> torch.Tensor:
    """Masks (B, H, W) -> the same with all repairs."""
    if edits.largest:
        mask = keep_largest(mask, edits.largest, edits.threshold)
    if edits.fill_holes:
        mask = fill_holes(mask, edits.fill_holes, edits.threshold)
    if edits.edges == "hard":
        mask = binary(mask, edits.threshold)
    return feather(grow(mask, edits.grow), edits.feather)


def keep_largest(mask: torch.Tensor, count: int = 1, threshold: float = 0.5) -> torch.Tensor:
    """Only the `count` largest connected parts (corners do not connect) of what is above the threshold stay.

    Soft rims go with the part they are nearest to.
    """
    from scipy import ndimage

    rows = []
    for row in mask:
        labels, found = ndimage.label((row > threshold).numpy())
        if found > count:
            sizes = torch.bincount(torch.from_numpy(labels).flatten().long(), minlength=found + 1)[1:]
            kept = torch.zeros(found + 1, dtype=torch.bool)
            kept[sizes.argsort(descending=True, stable=True)[:count] + 1] = True
            down, across = ndimage.distance_transform_edt(labels == 0, return_distances=False, return_indices=True)
            row = row * kept[torch.from_numpy(labels[down, across]).long()]
        rows.append(row)
    return torch.stack(rows)


def fill_holes(mask: torch.Tensor, percent: float = 100.0, threshold: float = 0.5) -> torch.Tensor:
    """Background that the figure encloses becomes figure, if the hole is at most `percent` of the picture's area.

    Figure is what is above the threshold; what touches the picture's edge is no hole.
    """
    from scipy import ndimage

    rows = []
    for row in mask:
        figure = (row > threshold).numpy()
        labels, found = ndimage.label(ndimage.binary_fill_holes(figure) & ~figure)
        if found:
            holes = torch.from_numpy(labels).long()
            small = torch.bincount(holes.flatten(), minlength=found + 1) <= percent / 100 * row.numel()
            small[0] = False
            row = torch.where(small[holes], 1.0, row)
        rows.append(row)
    return torch.stack(rows)


def grow(mask: torch.Tensor, pixels: int) -> torch.Tensor:
    """Figure grown by a square of `pixels` on every side; negative: shrunk. The picture's edge takes nothing away."""
    if pixels == 0:
        return mask
    if pixels < 0:
        return 1 - grow(1 - mask, -pixels)
    height, width = mask.shape[-2:]
    for size, window in ((width, (1, 0)), (height, (0, 1))):
        reach = min(pixels, size)
        kernel = tuple(2 * reach * on + 1 for on in reversed(window))
        mask = F.max_pool2d(mask[:, None], kernel, stride=1, padding=tuple(side // 2 for side in kernel))[:, 0]
    return mask


def feather(mask: torch.Tensor, pixels: int) -> torch.Tensor:
    """Blurred so that a hard edge becomes a rim of about `pixels`, half inside and half outside."""
    return mask if pixels == 0 else blur.gaussian(mask[:, None], pixels / RIM_SIGMAS)[:, 0].clamp(0, 1)
