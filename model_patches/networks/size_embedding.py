"""What ColorizeDiffusion XL is told in numbers: the vector `y` of its U-Net and of its background plugin.

Every number becomes a sinusoid of 256 values, like a time step. The U-Net gets two: the root of the picture's area in
pixels and an aesthetic score; the plugin four: where the background picture is cut. Source: released code.
"""

from __future__ import annotations

import math

import torch

from .masks import shown_part
from .unet import timestep_embedding

WIDTH = 256
"""Values per number."""
SCORE = 7.0
"""Aesthetic score asked for when drawing (released application); training pictures have about 5.5 to 7."""


def embed(values: torch.Tensor, dim: int = WIDTH) -> torch.Tensor:
    """Numbers (B, n) -> (B, n * dim): [cos, sin] of each, one number after the other; float32."""
    return timestep_embedding(values.flatten(), dim).view(len(values), -1)


def picture_scalars(height: int, width: int, score: float = SCORE, batch: int = 1) -> torch.Tensor:
    """(batch, 2) for `embed`: [sqrt(height * width), score], sides of the picture to draw in pixels."""
    return torch.tensor([[math.sqrt(height * width), score]]).expand(batch, 2)


def training_scalars(
    sizes: torch.Tensor,  # (B, 3): height and width of the source picture, short side it was resized to
    crop: tuple[int, int],  # height and width of the crop in pixels
    scores: torch.Tensor,  # (B,)
    variant: str = "paper",
) -> torch.Tensor:
    """(B, 2) for `embed`: the root of the area that the crop had in the source, and the score.

    The factor back to the source is its short side over the resized short side. "released" takes the height instead,
    which is too large a number for upright pictures.
    """
    if variant not in ("paper", "released"):
        raise ValueError(f"Size variant {variant!r} is unknown; choose paper or released.")
    sizes = sizes.double()
    side = sizes[:, 0] if variant == "released" else sizes[:, :2].amin(dim=1)
    factor = side / sizes[:, 2]
    area = (crop[0] * factor).floor() * (crop[1] * factor).floor()
    return torch.stack([area.sqrt(), scores.to(area)], dim=1).float()


def crop_scalars(source: tuple[int, int], target: tuple[int, int], batch: int = 1) -> torch.Tensor:
    """(batch, 4) for `embed`: [top, left, height, width] of what a target shows of a background, both (height, width).

    Fractions of the background's sides; drawing always shows the top left part.
    """
    return torch.tensor([[0.0, 0.0, *shown_part(source, target)]]).expand(batch, 4)
