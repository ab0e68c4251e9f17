"""SketchKeras: lines with pencil shading from colour pictures; the default extractor of the released application.

Source: lllyasviel/sketchKeras (Apache-2.0) and its PyTorch port, whose tensor names are kept (`model.pth`).
A U-Net on one grey channel. Every convolution reads mirrored borders and is followed by batch norm and ReLU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from ...pictures import blur
from .extractor import Extractor

SIGMA = 3.0  # pixels; what is more blurred than this is colour, not line
FAINT = 0.1  # answers below this are paper


def _layer(pad: int | tuple, inputs: int, outputs: int, size: int, stride: int = 1) -> list[nn.Module]:
    return [
        nn.ReflectionPad2d(pad),
        nn.Conv2d(inputs, outputs, size, stride=stride),
        nn.BatchNorm2d(outputs, eps=1e-3),
        nn.ReLU(),
    ]


def _up(inputs: int, middle: int, outputs: int) -> nn.Sequential:
    """Twice the size, then two convolutions; the even kernel needs one pixel more to the right and below."""
    double = nn.Upsample(scale_factor=2, mode="bicubic", align_corners=False)
    return nn.Sequential(double, *_layer((1, 2, 1, 2), inputs, middle, 4), *_layer(1, middle, outputs, 3))


class SketchKeras(Extractor):
    """x (N, 1, H, W), a high-pass of one colour channel with maximum 1 -> lines (N, 1, H, W), about 0..1."""

    title = "SketchKeras"
    mark = "downblock_1.1.weight"
    multiple = 16
    smallest = 32
    margin = 192  # covers the receptive field
    floats_per_pixel = 3 * 256

    def __init__(self, widths: Sequence[int] = (32, 64, 128, 256, 512)) -> None:  # of the five sizes, large to small
        super().__init__()
        first, *rest = widths
        self.downblock_1 = nn.Sequential(*_layer(1, 1, first, 3))
        for number, (inputs, outputs) in enumerate(zip(widths[:-2], rest[:-1]), start=2):
            block = nn.Sequential(*_layer(1, inputs, outputs, 4, stride=2), *_layer(1, outputs, outputs, 3))
            setattr(self, f"downblock_{number}", block)
        self.downblock_5 = nn.Sequential(*_layer(1, widths[3], widths[4], 4, stride=2))
        self.downblock_6 = nn.Sequential(*_layer(1, widths[4], widths[4], 3))
        for number, width in enumerate(reversed(widths[1:]), start=1):
            setattr(self, f"upblock_{number}", _up(2 * width, width, width // 2))
        self.last_pad = nn.ReflectionPad2d(1)
        self.last_conv = nn.Conv2d(2 * first, 1, 3)

    @classmethod
    def from_state_dict(cls, weights: Mapping[str, torch.Tensor]) -> SketchKeras:
        """The network with the widths that the tensors have; its weights are not filled in yet."""
        widths = [weights[f"downblock_{number}.1.weight"].shape[0] for number in range(1, 6)]
        if any(larger != 2 * smaller for smaller, larger in zip(widths, widths[1:])):
            raise ValueError(f"widths {widths} do not double")
        return cls(widths)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = []
        for number in range(1, 6):
            x = getattr(self, f"downblock_{number}")(x)
            skips.append(x)
        x = self.downblock_6(x)
        for number in range(1, 5):
            x = getattr(self, f"upblock_{number}")(torch.cat([skips.pop(), x], dim=1))
        return self.last_conv(self.last_pad(torch.cat([skips.pop(), x], dim=1)))

    def prepare(self, picture: torch.Tensor, variant: str = "paper") -> torch.Tensor:
        """Pictures (B, 3, H, W) in -1..1 -> x (3 B, 1, H, W): each colour minus its blur, divided by the maximum.

        The maximum is that of the whole picture; a flat picture, which has none, becomes 0.
        """
        colours = blur.levels(picture)
        high = (colours - blur.gaussian_of_levels(colours, SIGMA)) / 127.5
        strongest = high.flatten(1).amax(dim=1).clamp_min(1 / 127.5)  # one level, the least there is
        return (high / strongest.view(-1, 1, 1, 1)).flatten(0, 1)[:, None]

    def finish(self, answer: torch.Tensor, variant: str = "paper") -> torch.Tensor:
        """Lines (3 B, 1, H, W) -> model sketch (B, 1, H, W): the strongest of the three colours, -1 to about 1."""
        strongest = answer.unflatten(0, (-1, 3)).amax(dim=1)
        return (torch.where(strongest < FAINT, torch.zeros_like(strongest), strongest) - 0.5) * 2
