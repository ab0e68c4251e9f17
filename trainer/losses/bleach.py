"""Background bleaching: some samples get a white background, so that a white background can be asked for.

The released trainer of ColorizeDiffusion XL does this (v2's configuration names a probability of 0.05): the background
of the picture becomes white, that of the sketch is erased, and the background reference is white. v1.5 has no such
option; we offer it because its background weights answer a background reference: bleached samples there get pure white.
XL draws the white of the reference from 0.95 to 1 (`background_reference`), and for its plugin the sketch's background
is erased in every sample (stages/xl_regions.py).
"""

from __future__ import annotations

import torch

from trainer.draws import Draws


def draw_bleached(batch: int, rate: float, draws: Draws) -> torch.Tensor:
    """(B,) of booleans: a sample is bleached with probability `rate`."""
    return draws.rand((batch,)) < rate


def whiten_background(
    pictures: torch.Tensor,  # (B, C, H, W), any range
    figure: torch.Tensor,  # (B, 1, H, W) booleans, where the figure is
    bleached: torch.Tensor,  # (B,) booleans
    white: float,
) -> torch.Tensor:
    """Pictures whose bleached rows are `white` outside the figure."""
    keep = figure | ~bleached.to(figure.device).view(-1, 1, 1, 1)
    return torch.where(keep, pictures, torch.full_like(pictures, white))


def background_reference(
    references: torch.Tensor,  # (B, 3, H, W) in -1..1
    figure: torch.Tensor,  # (B, 1, H, W) booleans, where the reference's figure is
    bleached: torch.Tensor,  # (B,) booleans
    shade: torch.Tensor,  # (B, 1, 1, 1), uniform in 0..1
) -> torch.Tensor:
    """What the released XL trainer gives the background's weights to read: a white of 0.95..1 in bleached rows, else
    the reference with its figure painted white."""
    everything = torch.ones_like(bleached)
    background = whiten_background(references, ~figure, everything, 1.0)
    white = (0.95 + 0.05 * shade).expand_as(references)
    return torch.where(bleached.view(-1, 1, 1, 1), white, background)
