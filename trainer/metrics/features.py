"""How alike two pictures are to a network that knows photographs: cosine of pooled EfficientNet-lite0 features."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from colorize.reference.feature_vision import EfficientNetLite

SIDE = 224


def feature_similarity(network: EfficientNetLite) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """A function of pictures (B, 3, H, W) in [-1, 1] and true ones -> (B,), -1..1; 1 for equal pictures."""

    @torch.no_grad()
    def pooled(pictures: torch.Tensor) -> torch.Tensor:
        squares = F.interpolate(pictures.float().clamp(-1, 1), (SIDE, SIDE), mode="bicubic", antialias=True)
        return network(squares)[-1].mean((2, 3))

    return lambda result, truth: F.cosine_similarity(pooled(result), pooled(truth), dim=-1)
