"""What ColorizeDiffusion XL and v2 are told in numbers: the vector `y` of the U-Net of XL and of the picture readers.

Every number becomes a sinusoid of 256 values, like a time step. The U-Net gets two: the root of the picture's area in
pixels and an aesthetic score; the plugin four: where the background picture is cut; the picture encoders of v2 two: the
picture's sides over the drawing's. Source: released code.
"""

from __future__ import annotations

import math

import torch

from ..pictures.masks import shown_part
from .layers import timestep_embedding

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


def ratio_scalars(source: tuple[int, int], target: tuple[int, int], batch: int = 1) -> torch.Tensor:
    """(batch, 2) for `embed`: height and width of a picture over those of the drawing (v2), both (height, width).

    A picture that is smaller in height or width counts as larger by the drawing's longer side, as in the released code,
    so that enlarged pictures can be told from reduced ones.
    """
    height: float
    width: float
    height, width = source
    if height < target[0] or width < target[1]:
        height, width = height + max(target), width / height * (height + max(target))
    return torch.tensor([[height / target[0], width / target[1]]]).expand(batch, 2)
