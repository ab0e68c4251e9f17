"""What a protocol measures: a batch of pairs, and what a model made of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from trainer.pictures import Batch


@dataclass(frozen=True)
class Sample:
    """A batch of pairs and what the model made of it. Pictures (B, 3, H, W) in [-1, 1], float32 on the CPU."""

    batch: Batch
    """uint8 parts as the data set gives them"""
    sketches: torch.Tensor
    """as the model sees them: white lines on black"""
    references: torch.Tensor
    truth: torch.Tensor
    result: torch.Tensor
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
