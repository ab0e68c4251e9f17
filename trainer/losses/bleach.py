"""Background bleaching: some samples get a white background, so that a white background can be asked for.

The released trainer of ColorizeDiffusion XL does this (v2's configuration names a probability of 0.05): the background
of the picture becomes white, that of the sketch is erased, and the background reference is white. v1.5 has no such
option; we offer it because its background weights answer a background reference. XL erases the sketch's background in
every sample and draws the white from 0.95 to 1; here only bleached samples are changed, to pure white.
"""

from __future__ import annotations

import torch


def draw_bleached(batch: int, rate: float, generator: torch.Generator | None = None) -> torch.Tensor:
    """(B,) of booleans: a sample is bleached with probability `rate`."""
    return torch.rand(batch, generator=generator) < rate


def whiten_background(
    pictures: torch.Tensor,  # (B, C, H, W), any range
    figure: torch.Tensor,  # (B, 1, H, W) booleans, where the figure is
    bleached: torch.Tensor,  # (B,) booleans
    white: float,
) -> torch.Tensor:
    """Pictures whose bleached rows are `white` outside the figure."""
    keep = figure | ~bleached.to(figure.device).view(-1, 1, 1, 1)
    return torch.where(keep, pictures, torch.full_like(pictures, white))
