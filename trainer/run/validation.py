"""Validation during training: the loss on held-out pictures, told apart by noise level, always for the same draws.

Every sample of the fixed set is asked once in each of `bins` equal parts of the noise schedule, with the step, the
noise and whatever else the stage draws taken from (sample, part). Two validations differ by the weights only, and the
numbers do not depend on how many processes share the work. The loss is the one that is trained, with the strategies of
the end of the run.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator

import torch
from torch.utils.data import Dataset, default_collate

from trainer.data.folder import FolderDataset
from trainer.draws import Draws
from trainer.pictures import Batch
from trainer.stages.stage import Stage

SEED = 0x5EED  # of the draws; no part of the configuration, so that runs with other seeds can be compared


def parts_of_schedule(bins: int) -> Iterator[tuple[int, tuple[float, float]]]:
    """(number, share of the noise schedule from and to) of `bins` equal parts, cleanest first."""
    for part in range(bins):
        yield part, (part / bins, (part + 1) / bins)


class Validation:
    """Fixed samples of a held-out dataset: the first `count` of its stream.

    batch: samples computed at once, which changes no loss that is a mean over samples. rank, processes: the share this
    process computes; every process has at least one sample.
    """

    def __init__(self, dataset: Dataset, count: int, bins: int, batch: int, rank: int = 0, processes: int = 1) -> None:
        self.dataset = dataset.whole() if isinstance(dataset, FolderDataset) else dataset
        self.count, self.bins, self.batch = max(count, processes), bins, batch
        self.mine = range(rank, self.count, processes)

    def rows(self, positions: range, device: torch.device) -> Batch:
        """The samples at some positions as a batch. Their numbers are negative, so that no cache mistakes them for
        pictures of the training set."""
        batch = default_collate([self.dataset[position] for position in positions])
        for name in ("index", "reference_index", "other_index"):
            if name in batch:
                batch[name] = -1 - batch[name]
        return {name: values.to(device) for name, values in batch.items()}

    @torch.no_grad()
    def run(
        self, stage: Stage, device: torch.device, combine: Callable[[torch.Tensor], torch.Tensor] = lambda sums: sums
    ) -> dict[str, float]:
        """Mean losses by name: `validation`, `validation_<term>`, `validation_t0` (cleanest) and so on, and the stage's
        own curves. combine: sum of a tensor over all processes."""
        sums: dict[str, torch.Tensor] = defaultdict(lambda: torch.zeros((), dtype=torch.float64))
        for start in range(0, len(self.mine), self.batch):
            positions = self.mine[start : start + self.batch]
            batch = self.rows(positions, device)
            for part, levels in parts_of_schedule(self.bins):
                numbers = [position * self.bins + part for position in positions]
                terms = stage(batch, Draws(SEED, part, numbers, levels), 1.0)
                for name, value in terms.items():
                    share = value.double().cpu() * len(positions)
                    sums[f"validation_{name}"] += share / self.bins
                    sums[f"validation_t{part}"] += share
                    sums["validation"] += share / self.bins
        totals = combine(torch.stack(list(sums.values()))).tolist()
        means = {name: total / self.count for name, total in zip(sums, totals, strict=True)}
        first = range(min(self.count, max(self.batch, 2)))  # two, because some curves compare samples with each other
        return means | stage.curves(self.rows(first, device), Draws(SEED, 0, first))
