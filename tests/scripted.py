"""Draws whose numbers a test gives."""

from __future__ import annotations

from collections.abc import Sequence

import torch


class Scripted:
    """A `Draws` that answers with the numbers of a list, in the order in which a step asks for them.

    An answer is (what is drawn, its values): ("rand", (B, ...)), ("randn", (B, ...)) or ("timesteps", (B,)).
    """

    def __init__(self, answers: Sequence[tuple[str, torch.Tensor]], shared: int = 0) -> None:
        self._answers = list(answers)
        self.shared = torch.Generator().manual_seed(shared)

    @property
    def left(self) -> int:
        """How many answers nobody asked for."""
        return len(self._answers)

    def rand(self, shape: Sequence[int]) -> torch.Tensor:
        return self._next("rand", tuple(shape))

    def randn(self, shape: Sequence[int]) -> torch.Tensor:
        return self._next("randn", tuple(shape))

    def timesteps(self, steps: int, batch: int) -> torch.Tensor:
        return self._next("timesteps", (batch,))

    def _next(self, kind: str, shape: tuple[int, ...]) -> torch.Tensor:
        assert self._answers, f"the step draws {kind} {shape}, which the test does not give"
        expected, values = self._answers.pop(0)
        assert (expected, tuple(values.shape)) == (kind, shape), (
            f"the step draws {kind} {shape}, the test gives {expected} {tuple(values.shape)}"
        )
        return values.clone()
