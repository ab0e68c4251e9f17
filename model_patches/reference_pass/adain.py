"""AdaIN: the features of the picture take on the mean and the spread of the reference's, channel by channel.

Adaptive instance normalisation (Huang and Belongie 2017, arXiv 1703.06868) between the picture's run and the
reference's (reference_pass.py) at the same step. Which features is our choice: those that enter each block of the
decoder, before the skip connection joins. The encoder and the skips stay as they are, because they carry the sketch.
Every row is matched to the same row of the reference's run, so guidance still sees the difference of its conditions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ...colorize.unet.injection import match_statistics, statistics
from ..payload import with_patch
from .reference_pass import Source, check_window


@dataclass(frozen=True, eq=False)
class AdaIN:
    """The settings of the node AdaIN."""

    source: Source
    strength: float = 0.5
    """0 (features as they are) .. 1 (the reference's statistics)."""
    start: float = 0.0
    """Share of the run from which it acts, 0..1."""
    end: float = 1.0
    """Share of the run up to which it acts, 0..1."""
    title = "AdaIN"

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 1:
            raise ValueError(f"strength is {self.strength}; it lies between 0 and 1.")
        check_window(self.start, self.end)

    @property
    def off(self) -> bool:
        """Whether it changes nothing."""
        return self.start >= 1 or self.strength == 0

    def record(self, network: torch.nn.Module, options: dict, kept: dict) -> dict:
        """See reference_pass.Effect. kept: block -> (mean, standard deviation), each (B, C, 1, 1)."""

        def store(h: torch.Tensor, skip: torch.Tensor, extra: dict[str, Any]) -> Any:
            kept[extra["block"]] = statistics(h)
            return h, skip

        return with_patch(options, "output_block_patch", store)

    def apply(self, options: dict, kept: dict, pictures: int) -> dict:
        """See reference_pass.Effect."""

        def match(h: torch.Tensor, skip: torch.Tensor, extra: dict[str, Any]) -> Any:
            if extra["block"] in kept:
                mean, spread = kept[extra["block"]]
                h = match_statistics(h, mean, spread, self.strength)
            return h, skip

        return with_patch(options, "output_block_patch", match)
