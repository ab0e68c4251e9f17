"""Random numbers that belong to samples, not to processes.

Every sample of a run has a number, its position in the stream of the data. What is drawn for it is a function of
(seed, position), and what is drawn once for a whole batch (a common permutation, say) one of (seed, step). So a step
sees the same numbers whether its batch is computed at once, in several micro steps, or by several processes, and a
resumed run goes on exactly.

A stage gets one generator. It draws what belongs to samples with the functions of this module, whose first dimension
is the batch, and what all samples share with torch's own functions. With a plain torch.Generator (tests, sample
sheets) the functions are torch's. Everything is drawn on the CPU, so every device sees the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch


def mixed(*numbers: int | str) -> int:
    """A seed 0..2^63 - 1 in which every bit depends on all numbers (torch's generator uses the low 32 bits only)."""
    digest = hashlib.blake2b(repr(numbers).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class Draws(torch.Generator):
    """The generator of one micro step: itself what all samples share, `rows` one generator per sample.

    seed: of the run. step: the optimiser step. positions: of the batch's samples in the stream of the data.
    levels: the share of the noise schedule, from and to in 0..1, that `timesteps` draws from; validation narrows it.
    """

    def __new__(cls, *arguments, **keywords):
        return super().__new__(cls)

    def __init__(self, seed: int, step: int, positions: Sequence[int], levels: tuple[float, float] = (0.0, 1.0)):
        self.manual_seed(mixed(seed, "step", step))
        self.rows = [torch.Generator().manual_seed(mixed(seed, "sample", position)) for position in positions]
        self.levels = levels

    def per_sample(self, draw, shape: Sequence[int]) -> torch.Tensor:
        """draw(shape of one sample, generator) for every sample, stacked to `shape`."""
        if shape[0] != len(self.rows):
            raise ValueError(
                f"Draws of {len(self.rows)} samples cannot fill {tuple(shape)}: the first dimension is the batch. "
                "What all samples share is drawn with torch's own functions."
            )
        return torch.stack([draw(tuple(shape[1:]), row) for row in self.rows])


def rand(shape: Sequence[int], generator: torch.Generator | None) -> torch.Tensor:
    """Uniform numbers in [0, 1) of shape (B, ...), float32."""
    if isinstance(generator, Draws):
        return generator.per_sample(lambda size, row: torch.rand(size, generator=row), shape)
    return torch.rand(tuple(shape), generator=generator)


def randn(shape: Sequence[int], generator: torch.Generator | None) -> torch.Tensor:
    """Normal numbers of shape (B, ...), float32."""
    if isinstance(generator, Draws):
        return generator.per_sample(lambda size, row: torch.randn(size, generator=row), shape)
    return torch.randn(tuple(shape), generator=generator)


def timesteps(steps: int, batch: int, generator: torch.Generator | None) -> torch.Tensor:
    """(B,) steps of a noise schedule of `steps`: uniform over all, or over the levels that `generator` names."""
    if isinstance(generator, Draws):
        low, high = (round(steps * level) for level in generator.levels)
        return generator.per_sample(lambda size, row: torch.randint(low, high, size, generator=row), (batch,))
    return torch.randint(0, steps, (batch,), generator=generator)
