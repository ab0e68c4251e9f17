"""Deform training: the reference is the colour picture itself, bent by a thin plate spline or moving least squares.

Where no second picture of a character exists, the bent picture gives the colours without giving their exact places
(ColorizeDiffusion v1, arXiv 2401.01456, trains this way with a drop rate of 0.75; its paper bends by moving least
squares, the released code has neither). The spline (Bookstein 1989) is kornia's; moving least squares: mls.py.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from trainer.data import mls

KINDS = ("tps", *(f"mls_{variant}" for variant in mls.VARIANTS))
"""Thin plate spline, and moving least squares by rigid, similar and affine transformations."""
CONTROL_POINTS = 4  # per side, over the whole picture with its corners
LARGEST_MOVE = 0.25  # of half the picture's side, at strength 1: less than half the distance of two points
_COARSE = 33  # the deformation is evaluated on this many places per side and interpolated between them


def control_points() -> torch.Tensor:
    """The points (K, 2) as x, y from -1 to 1 that are moved."""
    line = torch.linspace(-1, 1, CONTROL_POINTS)
    return torch.cartesian_prod(line, line).flip(-1)


def draw_moves(random: np.random.Generator, strength: float) -> torch.Tensor:
    """Random moves (K, 2) of the control points for a strength of 0..1, in halves of the picture's side."""
    moves = random.uniform(-1, 1, (CONTROL_POINTS**2, 2)) * (strength * LARGEST_MOVE)
    return torch.from_numpy(moves).float()


def sampling_grid(moves: torch.Tensor, height: int, width: int, kind: str = "tps") -> torch.Tensor:
    """Where every pixel of the bent picture comes from: (1, H, W, 2) as x, y from -1 to 1. kind: one of KINDS."""
    points = control_points()
    moved = points + moves
    line = torch.linspace(-1, 1, _COARSE)
    places = torch.cartesian_prod(line, line).flip(-1)
    if kind == "tps":
        from kornia.geometry.transform import get_tps_transform, warp_points_tps

        kernel, affine = get_tps_transform(moved[None], points[None])  # from the bent picture back to the straight one
        coarse = warp_points_tps(places[None], moved[None], kernel, affine)
    else:
        coarse = mls.move(places, moved, points, kind.removeprefix("mls_"))
    coarse = coarse.view(1, _COARSE, _COARSE, 2)
    fine = F.interpolate(coarse.permute(0, 3, 1, 2), size=(height, width), mode="bilinear", align_corners=True)
    return fine.permute(0, 2, 3, 1)


def bend(values: torch.Tensor, grid: torch.Tensor, fill: int, nearest: bool = False) -> torch.Tensor:
    """uint8 (C, H, W) sampled at `grid`; `fill` (0..255) stands where it lies outside. nearest: for labels."""
    mode = "nearest" if nearest else "bilinear"
    bent = F.grid_sample(values[None].float() - fill, grid, mode=mode, padding_mode="zeros", align_corners=True)
    return (bent[0] + fill).round().clamp(0, 255).to(torch.uint8)
