"""How the lines of one drawing move to those of the next: a coarse-to-fine search, in torch.

A drawing has no texture, so its lines are made wide first: two maps that fall off with the distance to the nearest
line. From cells of 16 working pixels down to cells of 2, every cell looks in its neighbourhood for the shift that lays
the maps of a window upon each other, and takes the mean of all shifts by how well they fit (a soft choice), which is
then smoothed. BasicPBC (Dai, Zhou, Li, Li, Loy: Learning Inclusion Matching for Animation Paint Bucket Colorization,
CVPR 2024) begins with the motion of the lines too, by a trained network; none is used here.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch.nn import functional

LINE = 90  # 0..255; ink above is line
DECAYS = (3.0, 10.0)  # units; how far a line is felt
CELLS = (16, 8, 4, 2)  # units
FIRST_REACH, REACH = 4, 2  # cells that a shift may be long, at first and then
WINDOW = 3  # cells to each side
LONG = 0.002  # cost of a shift's squared length in cells, against maps that fit everywhere
SHARPNESS = 12.0  # of the soft choice, in mean costs


def line_maps(ink: np.ndarray, unit: float = 1.0) -> torch.Tensor:
    """(1, 2, H, W) float32: how near a line is, 1 on it, from ink (H, W) uint8. unit: pixels of DECAYS' unit."""
    lines = ink > LINE
    away = ndimage.distance_transform_edt(~lines) if lines.any() else np.full(ink.shape, 1e3)
    return torch.from_numpy(np.stack([np.exp(-away / (decay * unit)) for decay in DECAYS]).astype(np.float32))[None]


def motion(source: torch.Tensor, target: torch.Tensor) -> np.ndarray:
    """(2, H, W) float32 rows and columns: what is at p in the target was at p + motion in the source.

    source, target: maps of `line_maps`, of one size.
    """
    height, width = target.shape[-2:]
    padding = (0, -width % CELLS[0], 0, -height % CELLS[0])
    source, target = (functional.pad(maps, padding, mode="replicate") for maps in (source, target))
    shift = torch.zeros(1, 2, *(side // (2 * CELLS[0]) + 1 for side in target.shape[-2:]))
    for cell in CELLS:
        before, after = functional.avg_pool2d(source, cell), functional.avg_pool2d(target, cell)
        shift = 2 * functional.interpolate(shift, after.shape[-2:], mode="bilinear", align_corners=False)
        shift = _means(shift + _better(before, after, shift, FIRST_REACH if cell == CELLS[0] else REACH), 1)
    full = functional.interpolate(shift, target.shape[-2:], mode="bilinear", align_corners=False)
    return (full[0, :, :height, :width] * CELLS[-1]).numpy()


def _better(before: torch.Tensor, after: torch.Tensor, shift: torch.Tensor, reach: int) -> torch.Tensor:
    """(1, 2, h, w) what is to be added to a shift: the mean of all shifts in reach, weighted by how well they fit."""
    steps = range(-reach, reach + 1)
    offsets = [(down, right) for down in steps for right in steps]
    costs = []
    for down, right in offsets:
        moved = warped(before, shift + torch.tensor([down, right], dtype=torch.float32)[None, :, None, None])
        unlike = ((moved - after) ** 2).sum(dim=1, keepdim=True)
        costs.append(_means(unlike, WINDOW) + LONG * (down * down + right * right))
    cost = torch.cat(costs, dim=1)
    weight = torch.softmax(-SHARPNESS * cost / (cost.mean() + 1e-6), dim=1)
    return torch.einsum("bkhw,kc->bchw", weight, torch.tensor(offsets, dtype=torch.float32))


def warped(maps: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Maps (1, C, h, w) read at p + shift (1, 2, h, w) for every p; beyond the edge the edge's values."""
    height, width = maps.shape[-2:]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    y, x = rows + shift[0, 0], columns + shift[0, 1]
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)[None]
    return functional.grid_sample(maps, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _means(maps: torch.Tensor, reach: int) -> torch.Tensor:
    """Means over windows of `reach` to each side; the edge's values go on beyond it."""
    return functional.avg_pool2d(functional.pad(maps, (reach,) * 4, mode="replicate"), 2 * reach + 1, 1)
