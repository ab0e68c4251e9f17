"""The blur and the clean paper of the released preprocessing in their plainest form: one convolution per direction."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from colorize.pictures.blur import mirrored

PAPER_BLUR_SIGMA = 6.0  # pixels; the released "invert-webui" mode


def even_paper(picture: torch.Tensor) -> torch.Tensor:
    """Drawing (B, 3, H, W) in -1..1, dark on light -> model sketch freed from shaded or yellowed paper.

    Released mode "invert-webui", in units of 0..255: lines = min over channels of blur_6(x) - x, not below 0, divided
    by max(16, median of the values above 8), times 127, not above 255, whole numbers. Three equal channels.
    """
    rows = []
    for row in (picture + 1) * 127.5:
        lines = (gaussian_blur(row[None], PAPER_BLUR_SIGMA)[0] - row).amin(dim=0).clamp(0, 255)
        visible = lines[lines > 8]
        strength = max(16.0, median(visible)) if visible.numel() else 16.0
        rows.append((lines / strength * 127).clamp(0, 255).floor())
    return (torch.stack(rows)[:, None] / 127.5 - 1).expand(-1, 3, -1, -1)


def median(values: torch.Tensor) -> float:
    """Middle value; the mean of the two middle ones for an even count (numpy's rule)."""
    ordered = values.flatten().sort().values
    count = ordered.numel()
    return ((ordered[(count - 1) // 2].double() + ordered[count // 2].double()) / 2).item()


def gaussian_blur(picture: torch.Tensor, sigma: float) -> torch.Tensor:
    """Blur (B, C, H, W) as OpenCV's GaussianBlur does for float pictures: 8 sigma + 1 taps, edges mirrored (101)."""
    size = round(sigma * 8 + 1) | 1
    offsets = torch.arange(size, dtype=torch.float64) - size // 2
    kernel = torch.exp(-(offsets**2) / (2 * sigma * sigma))
    kernel = (kernel / kernel.sum()).to(picture)
    for dim in (2, 3):
        padded = picture.index_select(dim, mirrored(picture.shape[dim], size // 2, picture.device))
        shape = [1, 1, 1, 1]
        shape[dim] = size
        weights = kernel.view(shape).expand(picture.shape[1], 1, *shape[2:])
        picture = F.conv2d(padded, weights, groups=picture.shape[1])
    return picture
