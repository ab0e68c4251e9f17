"""lineart_sk: the generator of "informative drawings", for realistic pictures and soft shading.

Source: Chan, Durand, Isola, "Learning to generate line drawings that convey geometry and semantics" (CVPR 2022, MIT),
tensor names as in `sk_model.pth`. Instance norm measures the whole picture, so it cannot be cut into tiles.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from .extractor import Extractor


def _norm(width: int, activation: bool = True) -> list[nn.Module]:
    return [nn.InstanceNorm2d(width), nn.ReLU()] if activation else [nn.InstanceNorm2d(width)]


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv_block = nn.Sequential(
            nn.ReflectionPad2d(1), nn.Conv2d(width, width, 3), *_norm(width),
            nn.ReflectionPad2d(1), nn.Conv2d(width, width, 3), *_norm(width, activation=False),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv_block(x)


class LineartSk(Extractor):
    """x (B, 3, H, W) in 0..1 -> drawing (B, 1, H, W) in 0..1, dark lines on white."""

    title = "lineart_sk (informative drawings)"
    mark = "model0.1.weight"
    multiple = 4
    smallest = 8
    margin = None
    floats_per_pixel = 320

    def __init__(self, width: int = 64, residuals: int = 3, inputs: int = 3) -> None:
        super().__init__()
        down: dict[str, Any] = dict(stride=2, padding=1)
        up = down | dict(output_padding=1)
        half, quarter = 2 * width, 4 * width
        self.model0 = nn.Sequential(nn.ReflectionPad2d(3), nn.Conv2d(inputs, width, 7), *_norm(width))
        self.model1 = nn.Sequential(
            nn.Conv2d(width, half, 3, **down), *_norm(half), nn.Conv2d(half, quarter, 3, **down), *_norm(quarter)
        )
        self.model2 = nn.Sequential(*(_Residual(quarter) for _ in range(residuals)))
        self.model3 = nn.Sequential(
            nn.ConvTranspose2d(quarter, half, 3, **up), *_norm(half),
            nn.ConvTranspose2d(half, width, 3, **up), *_norm(width),
        )  # fmt: skip
        self.model4 = nn.Sequential(nn.ReflectionPad2d(3), nn.Conv2d(width, 1, 7), nn.Sigmoid())

    @classmethod
    def from_state_dict(cls, weights: Mapping[str, torch.Tensor]) -> LineartSk:
        """The network with the width and the residual blocks that the tensors have; its weights are not filled in."""
        width, inputs = weights[cls.mark].shape[:2]
        residuals = {key.split(".")[1] for key in weights if key.startswith("model2.")}
        return cls(width, len(residuals), inputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model4(self.model3(self.model2(self.model1(self.model0(x)))))

    def prepare(self, picture: torch.Tensor, variant: str = "paper") -> torch.Tensor:
        """Pictures in -1..1 -> 0..1, or 0..255 in the variant "released" (instance norm makes them nearly the same)."""
        return (picture + 1) * (127.5 if variant == "released" else 0.5)

    def finish(self, answer: torch.Tensor, variant: str = "paper") -> torch.Tensor:
        """Drawing -> model sketch; the released application only negates it, so that its lines reach 0 instead of 1."""
        return -answer if variant == "released" else 1 - 2 * answer
