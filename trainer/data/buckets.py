"""Batches of one shape from pictures of many shapes: aspect buckets, and the order in which they are visited.

A bucket is a canvas (height, width). An epoch visits every bucket's pictures in a new order, in batches that hold one
bucket only; the batches are shuffled. The order is a function of (seed, epoch) and the size of the global batch, so a
resumed run and any number of processes see the same batches.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike

from trainer.config import ConfigError

Canvas = tuple[int, int]


def table(size: int, step: int = 64, ratio: float = 2.0, sides: str = "sum") -> tuple[Canvas, ...]:
    """Canvases whose sides are multiples of `step` and add up to 2 * size, the longer at most `ratio` times the other.

    sides: "short" gives canvases whose shorter side is `size` instead. With "sum" none has more pixels than the
    square. This rule gives both released tables: 1024, 32, 1.8 those of XL and 768, 64,
    1.7 those of v1 and v2. ConfigError when size is no multiple of step.
    """
    if step < 1 or size % step:
        raise ConfigError(f"data.bucket_step = {step} does not divide data.size = {size}; 64 suits v1, 32 suits XL.")
    if sides == "short":
        longer = range(size, int(ratio * size) + 1, step)
        return tuple(sorted({canvas for long in longer for canvas in ((size, long), (long, size))}))
    shorter = [short for short in range(step, size + 1, step) if 2 * size - short <= ratio * short]
    return tuple(sorted({canvas for s in shorter for canvas in ((s, 2 * size - s), (2 * size - s, s))}))


def nearest(width: np.ndarray, height: np.ndarray, canvases: Sequence[Canvas]) -> np.ndarray:
    """Number of the canvas whose aspect ratio is closest to each picture's, by the logarithm of the ratio: (N,) uint8.

    Pictures of unknown size (0) get the most square canvas.
    """
    shapes = np.log([columns / rows for rows, columns in canvases])
    known = (np.asarray(width) > 0) & (np.asarray(height) > 0)
    ratios = np.log(np.where(known, width, 1) / np.where(known, height, 1))
    order = np.argsort(shapes, kind="stable")
    between = (shapes[order][1:] + shapes[order][:-1]) / 2
    return order[np.searchsorted(between, ratios)].astype(np.uint8)


# -- order -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spot:
    """What stands at a position of the run: a picture, and the canvas of its batch."""

    row: int
    canvas: Canvas


class PermutedOrder:
    """One canvas for all: every epoch is a new permutation of the pictures."""

    def __init__(self, count: int, canvas: Canvas, seed: int) -> None:
        self.count, self.canvas, self.seed = count, canvas, seed
        self._epoch: tuple[int, np.ndarray] | None = None

    def at(self, position: int) -> Spot:
        epoch, place = divmod(position, self.count)
        if self._epoch is None or self._epoch[0] != epoch:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            self._epoch = (epoch, torch.randperm(self.count, generator=generator).numpy())
        return Spot(int(self._epoch[1][place]), self.canvas)

    def another(self, spot: Spot, draw: np.random.Generator) -> int:
        """A picture that can take the place of the one at `spot`."""
        return int(draw.integers(self.count))


class BucketOrder:
    """Batches of one bucket each. Every picture is visited once per epoch; a bucket's last batch is filled up with
    pictures of its own that were there before."""

    def __init__(self, buckets: np.ndarray, canvases: Sequence[Canvas], batch: int, seed: int) -> None:
        """buckets (N,): the number of each picture's canvas. batch: pictures of one batch over all processes."""
        self.canvases, self.batch, self.seed = tuple(canvases), batch, seed
        self.counts = np.bincount(buckets, minlength=len(self.canvases))
        self._sorted = np.argsort(buckets, kind="stable").astype(np.int32)
        self._starts = np.concatenate([[0], np.cumsum(self.counts)])
        self._buckets = buckets
        self.batches = int(np.sum(-(-self.counts // batch)))  # per epoch
        self._epoch: tuple[int, np.ndarray] | None = None

    def epoch(self, number: int) -> np.ndarray:
        """Rows of an epoch's batches, (batches, batch) int32."""
        draw = np.random.default_rng((self.seed, number))
        rows = []
        for first, count in zip(self._starts, self.counts):
            shuffled = self._sorted[first : first + count][draw.permutation(count)]
            rows.append(np.resize(shuffled, (-(-count // self.batch), self.batch)))  # repeats from the start
        return np.concatenate(rows)[draw.permutation(self.batches)]

    def at(self, position: int) -> Spot:
        number, place = divmod(position, self.batch)
        epoch, batch = divmod(number, self.batches)
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = (epoch, self.epoch(epoch))
        row = int(self._epoch[1][batch, place])
        return Spot(row, self.canvases[self._buckets[row]])

    def another(self, spot: Spot, draw: np.random.Generator) -> int:
        """A picture of the same bucket."""
        bucket = self._buckets[spot.row]
        return int(self._sorted[self._starts[bucket] + draw.integers(self.counts[bucket])])


# -- the released sampler ----------------------------------------------------------------------------------------------


def released_batches(width: ArrayLike, height: ArrayLike, batch: int, seed: int, block_batches: int = 8) -> np.ndarray:
    """Rows of the batches of one epoch as the released XL trainer composes them, (batches, batch).

    Landscapes, portraits and squares apart, pictures are sorted by width / height (ties at random), shuffled within
    blocks of `block_batches` batches and cut into whole batches; what is left over is not visited. The batches are
    shuffled. seed: 42 + epoch in the released trainer, whose draws (Python's random) are reproduced.
    """
    draw = random.Random(seed)
    widths, heights = np.asarray(width), np.asarray(height)
    batches = []
    for members in (widths > heights, widths < heights, widths == heights):
        found = np.flatnonzero(members)
        ties = [draw.random() for _ in found]
        rows = found[np.lexsort((ties, widths[found] / heights[found]))].tolist()
        mixed: list[int] = []
        for first in range(0, len(rows), block_batches * batch):
            block = rows[first : first + block_batches * batch]
            draw.shuffle(block)
            mixed += block
        batches += [mixed[first : first + batch] for first in range(0, len(mixed) - batch + 1, batch)]
    draw.shuffle(batches)
    return np.array(batches, np.int64).reshape(-1, batch)


def released_canvases(sizes: Sequence[tuple[int, int]], canvases: Sequence[Canvas]) -> list[Canvas]:
    """The canvases that the released collate may take for a batch; `sizes` are (height, width) of its pictures.

    The first picture's orientation decides. Landscapes and portraits: the canvas closest to the least extreme ratio r
    (long / short) of the batch, of those whose long side is at most int(r * short) - 2, or square ones, which every
    picture covers. Squares: any square canvas, drawn at random by the released code.
    """
    rows, columns = sizes[0]
    squares = [canvas for canvas in canvases if canvas[0] == canvas[1]]
    if rows == columns:
        return squares
    wide = columns > rows
    least = min((w / h if wide else h / w) for h, w in sizes)
    fitting = []
    for canvas in canvases:
        short, long = (canvas[0], canvas[1]) if wide else (canvas[1], canvas[0])
        if short == long or (short < long and long <= int(least * short) - 2):
            fitting.append((abs(long / short - least), canvas))
    if not fitting:
        raise ConfigError(f"No bucket fits pictures of ratio {least:.3f}: add a square one to the table.")
    return [min(fitting)[1]]


class ReleasedOrder:
    """The released trainer's batches and canvases; squares take a random square canvas per batch."""

    def __init__(
        self, width: np.ndarray, height: np.ndarray, canvases: Sequence[Canvas], batch: int, seed: int
    ) -> None:
        self.width, self.height, self.canvases, self.batch, self.seed = width, height, tuple(canvases), batch, seed
        self._epoch = (0, released_batches(width, height, batch, seed))
        self.batches = len(self._epoch[1])
        if not self.batches:
            raise ConfigError(
                f'data.bucket_order = "released" visits whole batches only, and no orientation has {batch} pictures: '
                'use "balanced", or a smaller optimizer.batch.'
            )

    def at(self, position: int) -> Spot:
        number, place = divmod(position, self.batch)
        epoch, batch = divmod(number, self.batches)
        if self._epoch[0] != epoch:
            self._epoch = (epoch, released_batches(self.width, self.height, self.batch, self.seed + epoch))
        rows = self._epoch[1][batch]
        allowed = released_canvases([(int(self.height[row]), int(self.width[row])) for row in rows], self.canvases)
        choice = np.random.default_rng((self.seed, number)).integers(len(allowed)) if len(allowed) > 1 else 0
        return Spot(int(rows[place]), allowed[choice])

    def another(self, spot: Spot, draw: np.random.Generator) -> int:
        """A picture of the same batch, which fits its canvas."""
        return int(draw.choice(self._epoch[1][np.nonzero(self._epoch[1] == spot.row)[0][0]]))


Order = PermutedOrder | BucketOrder | ReleasedOrder


class PositionSampler(torch.utils.data.Sampler):
    """Batches of positions from `start` micro steps on, to `stop`; each process takes its own share of every batch."""

    def __init__(self, start: int, stop: int, batch: int, rank: int = 0, processes: int = 1) -> None:
        self.steps, self.batch, self.rank, self.processes = range(start, stop), batch, rank, processes

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[list[int]]:
        for step in self.steps:
            first = (step * self.processes + self.rank) * self.batch
            yield list(range(first, first + self.batch))
