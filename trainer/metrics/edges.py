"""How well the edges of a result fall on the lines of its sketch."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from colorize.pictures.masks import dilate

TOLERANCE = 2  # pixels at 256 px; edges that close to a line count as on it
THRESHOLD = 0.1  # gradient magnitude of the luma (0..1) that makes a pixel an edge


def edge_f1(result: torch.Tensor, sketch: torch.Tensor) -> torch.Tensor:
    """F1 (B,) of the edges of result (B, 3, H, W) against the dark lines of sketch (B, 1, H, W), both in [-1, 1]."""
    tolerance = max(1, round(TOLERANCE * result.shape[-1] / 256))
    luma = (result * 0.5 + 0.5).clamp(0, 1).mean(1, keepdim=True)
    kernel = (
        torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]], device=luma.device).view(1, 1, 3, 3) / 4
    )
    padded = F.pad(luma, (1, 1, 1, 1), mode="replicate")
    gradient = (F.conv2d(padded, kernel) ** 2 + F.conv2d(padded, kernel.transpose(2, 3)) ** 2).sqrt()
    edges, lines = (gradient > THRESHOLD).float(), (sketch < 0).float()

    def near(mask: torch.Tensor) -> torch.Tensor:
        return dilate(mask, 2 * tolerance + 1)

    def share(part: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
        return (part * whole).sum((1, 2, 3)) / whole.sum((1, 2, 3)).clamp_min(1)

    precision, recall = share(near(lines), edges), share(near(edges), lines)
    return 2 * precision * recall / (precision + recall).clamp_min(1e-6)
