"""Random numbers that belong to samples, not to processes.

Every sample of a run has a number, its position in the stream of the data. What is drawn for it is a function of
(seed, position), and what is drawn once for a whole batch (a common permutation, say) one of (seed, step). So a step
sees the same numbers whether its batch is computed at once, in several micro steps, or by several processes, and a
resumed run goes on exactly.

A stage gets `Draws`. What belongs to samples comes from its methods, whose first dimension is the batch; what all
samples share is drawn with torch's own functions from `shared`. Everything is drawn on the CPU, so every device sees
the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import torch


def mixed(*numbers: int | str) -> int:
    """A seed 0..2^63 - 1 in which every bit depends on all numbers (torch's generator uses the low 32 bits only)."""
    digest = hashlib.blake2b(repr(numbers).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class Draws:
    """The random numbers of one micro step."""

    def __init__(
        self, seed: int, step: int, positions: Sequence[int], levels: tuple[float, float] = (0.0, 1.0)
    ) -> None:
        """seed: of the run. step: the optimiser step. positions: of the batch's samples in the stream of the data.

        levels: the share of the noise schedule, from and to in 0..1, that `timesteps` draws from; validation narrows
        it.
        """
        self.shared = torch.Generator().manual_seed(mixed(seed, "step", step))
        """what all samples of the batch have in common"""
        self._rows: list[torch.Generator] | None = [
            torch.Generator().manual_seed(mixed(seed, "sample", position)) for position in positions
        ]
        self.levels = levels

    @classmethod
    def plain(cls, seed: int) -> Draws:
        """Everything from one generator, for batches of any size that belong to no run: sample sheets, commands."""
        draws = cls(0, 0, ())
        draws.shared, draws._rows = torch.Generator().manual_seed(seed), None
        return draws

    @property
    def seed(self) -> int:
        """The seed of `shared`."""
        return self.shared.initial_seed()

    def rand(self, shape: Sequence[int]) -> torch.Tensor:
        """Uniform numbers in [0, 1) of shape (B, ...), float32."""
        return self._drawn(lambda size, generator: torch.rand(size, generator=generator), shape)

    def randn(self, shape: Sequence[int]) -> torch.Tensor:
        """Normal numbers of shape (B, ...), float32."""
        return self._drawn(lambda size, generator: torch.randn(size, generator=generator), shape)

    def timesteps(self, steps: int, batch: int) -> torch.Tensor:
        """(B,) steps of a noise schedule of `steps`, uniform over `levels`."""
        low, high = (round(steps * level) for level in self.levels)
        return self._drawn(lambda size, generator: torch.randint(low, high, size, generator=generator), (batch,))

    def _drawn(
        self, draw: Callable[[tuple[int, ...], torch.Generator], torch.Tensor], shape: Sequence[int]
    ) -> torch.Tensor:
        """draw(shape of one sample, its generator) for every sample, stacked to `shape`."""
        if self._rows is None:
            return draw(tuple(shape), self.shared)
        if shape[0] != len(self._rows):
            raise ValueError(
                f"Draws of {len(self._rows)} samples cannot fill {tuple(shape)}: the first dimension is the batch. "
                "What all samples share is drawn with torch's own functions from `shared`."
            )
        return torch.stack([draw(tuple(shape[1:]), row) for row in self._rows])
