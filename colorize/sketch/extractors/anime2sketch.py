"""Anime2Sketch: clean lines from coloured anime pictures.

Source: Mukosame/Anime2Sketch (MIT), whose tensor names are kept (`netG.pth`): the U-Net of pix2pix with instance norm.
Instance norm measures the whole picture, so it cannot be cut into tiles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from .extractor import Extractor


class _Level(nn.Module):
    """Half the size, everything below, twice the size again; the answer is joined with what came in."""

    def __init__(self, outer: int, width: int, below: _Level | None = None) -> None:
        super().__init__()
        self.model = nn.Sequential(
            nn.LeakyReLU(0.2),
            nn.Conv2d(outer, width, 4, stride=2, padding=1),
            *([nn.InstanceNorm2d(width), below] if below is not None else []),
            nn.ReLU(),
            nn.ConvTranspose2d(width if below is None else 2 * width, outer, 4, stride=2, padding=1),
            nn.InstanceNorm2d(outer),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, self.model(x)], dim=1)


class _Outside(nn.Module):
    """The outermost level: colours in, tanh out."""

    def __init__(self, inputs: int, outputs: int, widths: Sequence[int]) -> None:
        super().__init__()
        inside: list[_Level] = []
        for outer, width in reversed(list(zip(widths, widths[1:]))):
            inside = [_Level(outer, width, *inside)]
        self.model = nn.Sequential(
            nn.Conv2d(inputs, widths[0], 4, stride=2, padding=1),
            *inside,
            nn.ReLU(),
            nn.ConvTranspose2d(2 * widths[0], outputs, 4, stride=2, padding=1),
            nn.Tanh(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x)


class Anime2Sketch(Extractor):
    """x (B, 3, H, W) in -1..1 -> drawing (B, 1, H, W) in -1..1, dark lines on white (+1)."""

    title = "Anime2Sketch"
    mark = "model.model.0.weight"
    margin = None
    floats_per_pixel = 192

    def __init__(self, widths: Sequence[int] = (64, 128, 256, 512, 512, 512, 512, 512), inputs: int = 3) -> None:
        super().__init__()
        self.multiple = self.smallest = 2 ** len(widths)
        self.model = _Outside(inputs, 1, widths)

    @classmethod
    def from_state_dict(cls, weights: Mapping[str, torch.Tensor]) -> Anime2Sketch:
        """The network with as many levels and the widths that the tensors have; its weights are not filled in yet."""
        widths, prefix = [weights["model.model.0.weight"].shape[0]], "model.model.1."
        while (key := f"{prefix}model.1.weight") in weights:
            widths.append(weights[key].shape[0])
            prefix += "model.3."
        if len(widths) < 2:
            raise ValueError("it has no levels")
        return cls(widths, weights["model.model.0.weight"].shape[1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x)

    def prepare(self, picture: torch.Tensor, variant: str = "paper") -> torch.Tensor:
        """The network reads pictures as they are."""
        return picture

    def finish(self, answer: torch.Tensor, variant: str = "paper") -> torch.Tensor:
        """Drawing -> model sketch."""
        return -answer
