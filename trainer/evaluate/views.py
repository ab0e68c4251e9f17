"""`evaluate --views X Y`: what a point of the pictures looks at inside the U-Net while they are sampled.

The Gram matrix and the attention map of a query point, as in Fig. 3 and 6 of the XL paper, with the reference and
without: guidance asks the network for both in one call, so these are views of the very run that made the picture. Its
step is chosen by `Look.progress`. The node Show What a Place Looks At draws the same of finished pictures.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image

from colorize.pictures.place_sheet import NAMES, rows_of, sheet
from colorize.pictures.ranges import model_to_levels, unit_to_model
from colorize.unet.layers import TransformerBlock
from colorize.unet.place_views import PARTS, View, lowest_blocks, place_of, view_of
from colorize.unet.unet import UNet
from trainer.config import ConfigError
from trainer.models.denoising import Denoising

CONDITIONS = ("cond", "no_reference")
"""The row groups of guidance (models/denoising.py) that NAMES stand for."""


@dataclass(frozen=True)
class Look:
    """Where and when. Raises ConfigError for numbers out of range."""

    x: float
    """0 (left) to 1 (right)"""
    y: float
    """0 (top) to 1 (bottom)"""
    progress: float = 0.5
    """0 (all noise) to 1 (the last step)"""

    def __post_init__(self) -> None:
        for name, value in (("X", self.x), ("Y", self.y), ("--views-at", self.progress)):
            if not 0 <= value <= 1:
                raise ConfigError(f"{name} of the views is {value}; it lies between 0 and 1.")

    def step(self, steps: int) -> int:
        """The number, from 0, of the step that is looked at."""
        return min(int(self.progress * steps), steps - 1)


@dataclass
class Views:
    """Collects the views of a batch's runs and writes a sheet per pair: the settings below each other."""

    look: Look
    folder: Path
    suffix: str = ""
    """after the names, "-against" for a second model"""
    found: list[tuple[str, torch.Tensor, list[tuple[str, list[View]]]]] = field(default_factory=list)

    @contextlib.contextmanager
    def watching(self, unet: UNet, how: Denoising) -> Iterator[list[tuple[str, list[View]]]]:
        """Listens to one sampling run by this U-Net: afterwards the list holds its conditions' names and views."""
        heard: dict[str, Any] = {"call": -1}
        numbers = lowest_blocks(unet.attention_places)
        blocks = [module for module in unet.modules() if isinstance(module, TransformerBlock)]
        wanted = self.look.step(how.steps)

        def called(*_: Any) -> None:
            heard["call"] += 1

        def normed(part: str) -> Any:
            def keep(_: Any, __: Any, answer: torch.Tensor) -> None:
                if heard["call"] == wanted:
                    heard[f"{part} normed"] = answer

            return keep

        def answered(part: str) -> Any:
            def keep(_: Any, arguments: Sequence[Any], answer: tuple[torch.Tensor, Any]) -> None:
                if heard["call"] == wanted:
                    heard[part], heard["size"] = answer[0], arguments[2]

            return keep

        handles = [unet.register_forward_pre_hook(called)]
        for part, number in zip(PARTS, numbers, strict=True):
            handles.append(blocks[number].norm1.register_forward_hook(normed(part)))
            handles.append(blocks[number].register_forward_hook(answered(part)))
        views: list[tuple[str, list[View]]] = []
        try:
            yield views
        finally:
            for handle in handles:
                handle.remove()
        count = len(how.groups)
        for name, group in zip(NAMES, CONDITIONS, strict=True):
            if group in how.groups:
                row = how.groups.index(group)
                own = {key: value.chunk(count)[row] for key, value in heard.items() if torch.is_tensor(value)}
                parts = zip(PARTS, numbers, strict=True)
                views.append((name, [self._view(part, blocks[n], own, heard["size"]) for part, n in parts]))

    def _view(self, part: str, block: TransformerBlock, heard: dict[str, torch.Tensor], size: tuple[int, int]) -> View:
        normed = heard[f"{part} normed"].float()
        place = place_of((self.look.x, self.look.y), size)
        return view_of(part, block.attn1, heard[part], normed, normed, place, size)

    def keep(self, title: str, results: torch.Tensor, views: list[tuple[str, list[View]]]) -> None:
        """Of one setting: the pictures (B, 3, H, W) in [-1, 1] that came of it."""
        self.found.append((title, results, views))

    def write(self, protocol: str, names: Sequence[str]) -> None:
        """FOLDER/PROTOCOL-NAME.png for every pair of the batch."""
        point = self.look.x, self.look.y
        for number, name in enumerate(names):
            sheets = [sheet(made[number], rows_of(views, number), point, title) for title, made, views in self.found]
            width = max(picture.shape[1] for picture in sheets)
            wide = [F.pad(picture, (0, 0, 0, width - picture.shape[1]), value=1) for picture in sheets]
            file = self.folder / f"{protocol}-{name}{self.suffix}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            pixels = model_to_levels(unit_to_model(torch.cat(wide))).round().to(torch.uint8)
            Image.fromarray(pixels.numpy()).save(file)
        self.found.clear()
