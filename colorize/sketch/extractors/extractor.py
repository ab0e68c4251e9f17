"""What the four networks that extract lines have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import nn


class Extractor(nn.Module):
    """A network that makes a drawing of a picture, with what has to be known to run it. Only its subclasses are used.

    variant: "paper" is what the authors of the networks meant, "released" what the ColorizeDiffusion applications do.
    """

    title: ClassVar[str]
    """Name for people."""
    mark: ClassVar[str]
    """A tensor name that only this network's files have."""
    multiple: int
    """What H and W must be divisible by, in pixels."""
    smallest: int
    """The least H and W may be, in pixels."""
    margin: ClassVar[int | None]
    """Overlap of tiles in pixels; None when the network needs the whole picture at once."""
    floats_per_pixel: ClassVar[int]
    """Working memory of `forward` for one picture, counted in float32 values."""

    @classmethod
    def from_state_dict(cls, weights: Mapping[str, torch.Tensor]) -> Extractor:
        """The network with the sizes that the tensors have; its weights are not filled in yet."""
        raise NotImplementedError

    def prepare(self, picture: torch.Tensor, variant: str = "paper") -> torch.Tensor:
        """Pictures (B, 3, H, W) in -1..1 -> what `forward` reads, (B or 3 B, C, H, W)."""
        raise NotImplementedError

    def finish(self, answer: torch.Tensor, variant: str = "paper") -> torch.Tensor:
        """What `forward` answers -> model sketch (B, 1, H, W), white lines on black; may leave -1..1 a little."""
        raise NotImplementedError
