"""What a protocol measures: a batch of pairs, and what a method made of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from trainer.models.denoising import Denoising
from trainer.pictures import Batch

NO_REFERENCE = "no-reference"
"""A mode of the command line beside those of colorize/modes.py: the reference is not shown at all."""
CUT_OUT = " cut out"  # after a mode's name: its figure read the reference without its background


@dataclass(frozen=True)
class Setting:
    """One way to colour the pairs: a row of the report."""

    title: str
    """Mode and whatever differs from the plain settings; results of another method have its name."""
    how: Denoising | None = None
    """None: pictures of another method."""
    mode: str = "vanilla"
    cut_out: bool = False
    """The figure's tokens come from the reference without its background."""

    @property
    def guidance(self) -> float | None:
        """Reference guidance scale; None where it is not ours to say."""
        return None if self.how is None else self.how.guidance

    @property
    def denoising(self) -> Denoising:
        """`how`, of a model."""
        if self.how is None:
            raise ValueError(f"{self.title} are pictures of another method: nothing is sampled.")
        return self.how


@dataclass(frozen=True)
class Pairs:
    """A batch of pairs and what a method made of them without the reference. Pictures (B, 3, H, W) in [-1, 1], float32
    on the CPU."""

    batch: Batch
    """uint8 parts as the data set gives them"""
    sketches: torch.Tensor
    """as the model sees them: white lines on black"""
    references: torch.Tensor
    truth: torch.Tensor
    without: torch.Tensor | None = None
    """from the same noise, without reference"""
    base: torch.Tensor | None = None
    """from other noise, without reference"""

    @property
    def blind(self) -> torch.Tensor:
        """`without`, for protocols that ask for it (Protocol.blind)."""
        if self.without is None:
            raise ValueError("This protocol has no run without reference.")
        return self.without


@dataclass(frozen=True)
class Made:
    """What a method made of a batch."""

    pairs: Pairs
    results: Mapping[Setting, torch.Tensor] = field(default_factory=dict)
    """(B, 3, H, W) in [-1, 1] by setting"""
