"""Colour errors region by region, for pictures whose true answer and regions are known (the procedural world)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

SMALLEST_REGION = 0.002  # share of the picture; smaller regions have no colour worth measuring
SHOWN_PIXELS = 64  # of a 256 px reference, where it shows that much of a region it shows the region's colour
COLOURLESS = ("other", "lines")  # regions without one colour of their own
BACKGROUND = ("background", "background_second")


def lab(pictures: torch.Tensor) -> torch.Tensor:
    """sRGB (B, 3, H, W) in [-1, 1] -> CIE Lab, L 0..100."""
    from kornia.color import rgb_to_lab

    return rgb_to_lab(pictures.float().clamp(-1, 1) * 0.5 + 0.5)


def region_errors(result: torch.Tensor, truth: torch.Tensor, regions: torch.Tensor, count: int) -> torch.Tensor:
    """Distance in Lab (CIE76) between the median colours of each region, (B, count); NaN where a region is too small.

    result, truth (B, 3, H, W) in [-1, 1]; regions (B, 1, H, W) labels.
    """
    errors = torch.full((len(result), count), float("nan"))
    for row, (ours, wanted) in enumerate(zip(lab(result), lab(truth), strict=True)):
        for region in range(count):
            inside = regions[row, 0] == region
            if inside.float().mean() > SMALLEST_REGION:
                difference = ours[:, inside].median(dim=1).values - wanted[:, inside].median(dim=1).values
                errors[row, region] = difference.norm()
    return errors


def shown_regions(reference_regions: torch.Tensor, names: Sequence[str]) -> torch.Tensor:
    """(B, count) booleans: whether references with these labels (B, 1, H, W) show the colour of each region."""
    least = SHOWN_PIXELS * reference_regions.shape[-1] * reference_regions.shape[-2] / 256**2
    shown = [
        (reference_regions == label).sum((1, 2, 3)) >= least
        if name not in COLOURLESS
        else torch.zeros(len(reference_regions), dtype=torch.bool, device=reference_regions.device)
        for label, name in enumerate(names)
    ]
    return torch.stack(shown, dim=1)
