"""Manga line extraction ("erika"): structural lines from screened manga pages; also cleans up drawings.

Source: Li, Liu, Wong, "Deep extraction of manga structural lines" (2017), and ljsabc/MangaLineExtraction_PyTorch (MIT),
whose tensor names are kept (`erika.pth`). A residual U-Net, activation before convolution, skips are additions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from ...pictures import blur
from ...weight_files import count_numbered
from .extractor import Extractor

WIDTHS = (24, 48, 96, 192, 384, 192, 96, 48, 24, 16)  # of the stages block0 ... block9
BLOCKS = (2, 3, 5, 7, 12, 7, 5, 3, 2, 2)  # residual blocks of each
UP = (5, 6, 7, 8)  # stages that double the size, and add the output of stage 3, 2, 1, 0 afterwards
SAME_SIZE = (0, 9)


def _conv(inputs: int, outputs: int, size: int, stride: int = 1, up: bool = False) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, size, stride=stride, padding=size // 2)
    return [conv, nn.Upsample(scale_factor=2, mode="nearest")] if up else [conv]


class _Layers(nn.Module):
    """A sequence under the name `model`."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.model = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x)


def _unit(inputs: int, outputs: int, size: int = 3, stride: int = 1, up: bool = False) -> _Layers:
    return _Layers(
        nn.BatchNorm2d(inputs, eps=1e-3), nn.LeakyReLU(0.2), *_conv(inputs, outputs, size, stride=stride, up=up)
    )


class _Block(nn.Module):
    """Two units plus a shortcut, which is a 1x1 convolution where size or width change."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, up: bool = False) -> None:
        super().__init__()
        self.conv1 = _unit(inputs, outputs, stride=stride, up=up)
        self.residual = _unit(outputs, outputs)
        changed = inputs != outputs or stride != 1 or up
        self.shortcut = _Layers(*_conv(inputs, outputs, 1, stride=stride, up=up)) if changed else nn.Identity()

    @property
    def joints(self) -> list[tuple[nn.Sequential, nn.Sequential]]:
        """(sequence, the sequence that alone reads its answer); for `folding`."""
        return [(self.conv1.model, self.residual.model)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.residual(self.conv1(x)) + self.shortcut(x)


def stage(inputs: int, outputs: int, blocks: int, kind: str) -> nn.Module:
    """`blocks` residual blocks; kind "down": the last one halves the size; "up": the first one doubles it; "same"."""
    return _Layers(
        *(
            _Block(
                outputs if number else inputs,
                outputs,
                stride=2 if kind == "down" and number == blocks - 1 else 1,
                up=kind == "up" and number == 0,
            )
            for number in range(blocks)
        )
    )


class MangaLine(Extractor):
    """x (B, 1, H, W), grey 0..255 -> drawing (B, 1, H, W), about 0..255, dark lines on white."""

    title = "MangaLine"
    mark = "block0.model.0.conv1.model.2.weight"
    multiple = 16
    smallest = 16
    margin = 256
    floats_per_pixel = 192
    block4: nn.Module
    block9: nn.Module

    def __init__(self, widths: Sequence[int] = WIDTHS, blocks: Sequence[int] = BLOCKS) -> None:
        super().__init__()
        inputs = 1
        for number, (width, count) in enumerate(zip(widths, blocks)):
            kind = "same" if number in SAME_SIZE else "up" if number in UP else "down"
            setattr(self, f"block{number}", stage(inputs, width, count, kind))
            inputs = width
        self.conv15 = _unit(inputs, 1, size=1)

    @classmethod
    def from_state_dict(cls, weights: Mapping[str, torch.Tensor]) -> MangaLine:
        """The network with the widths and blocks that the tensors have; its weights are not filled in yet."""
        numbers: dict[int, set[str]] = {}
        for key in weights:
            if match := re.match(r"block(\d)\.model\.(\d+)\.", key):
                numbers.setdefault(int(match[1]), set()).add(match[2])
        if sorted(numbers) != list(range(len(WIDTHS))):
            raise ValueError(f"it has the stages {sorted(numbers)}, expected 0 to {len(WIDTHS) - 1}")
        widths = [weights[f"block{number}.model.0.conv1.model.2.weight"].shape[0] for number in sorted(numbers)]
        return cls(widths, [count_numbered(numbers[n], f"blocks of stage {n}") for n in sorted(numbers)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = []
        for number in range(4):
            x = getattr(self, f"block{number}")(x)
            skips.append(x)
        x = self.block4(x)
        for number in UP:
            x = getattr(self, f"block{number}")(x) + skips.pop()
        return self.conv15(self.block9(x))

    def prepare(self, picture: torch.Tensor, variant: str = "paper") -> torch.Tensor:
        """Pictures (B, 3, H, W) in -1..1 -> levels 0..255: grey, or the red channel in the variant "released"."""
        colours = blur.levels(picture)
        return colours[:, :1] if variant == "released" else blur.grey_levels(colours)

    def finish(self, answer: torch.Tensor, variant: str = "paper") -> torch.Tensor:
        """Drawing -> model sketch."""
        return 1 - answer.clamp(0, 255) / 127.5
