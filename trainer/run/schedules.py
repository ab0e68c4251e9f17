"""How fast is learned, step by step and part by part, and how many steps so many epochs are."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from torch import nn

from trainer.config import Config, ConfigError, Optimizer

SHARE = "share"
"""Key of a parameter group: its learning rate over the run's."""


def shape(optimizer: Optimizer, progress: float) -> float:
    """What is left of the learning rate at `progress` 0..1 of a decay: 1 where it begins, 0 where it ends.

    cosine_restarts: SGDR (Loshchilov and Hutter, arXiv 1608.03983), cycles of one length. rex: REX (Chen et al., arXiv
    2107.04197), (1 - p) / (1/2 + (1 - p) / 2).
    """
    left = 1 - progress
    if optimizer.decay == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    if optimizer.decay == "cosine_restarts":
        within = progress * optimizer.cycles % 1 if progress < 1 else 1.0
        return 0.5 * (1 + math.cos(math.pi * within))
    if optimizer.decay == "linear":
        return left
    if optimizer.decay == "polynomial":
        return left**optimizer.power
    if optimizer.decay == "rex":
        return left / (0.5 + 0.5 * left)
    return 1.0


def learning_rate(optimizer: Optimizer, step: float, steps: int) -> float:
    """Learning rate of step number `step` (from 0): linear warm-up, then constant or a decay of `shape`.

    Without optimizer.lowest_lr the warm-up's first step takes its share of the peak, and a decay ends at a hundredth
    of it; with one, both start and end there (AnimeDiffusion's schedule).
    """
    lowest = optimizer.lowest_lr
    if step < optimizer.warmup:
        if lowest >= 0:
            return lowest + (optimizer.lr - lowest) * step / optimizer.warmup
        return optimizer.lr * (step + 1) / optimizer.warmup
    if optimizer.decay == "constant":
        return optimizer.lr
    end = lowest if lowest >= 0 else optimizer.lr * 0.01
    progress = (step - optimizer.warmup) / max(1, steps - optimizer.warmup)
    return end + (optimizer.lr - end) * shape(optimizer, progress)


def parameter_groups(parameters: Mapping[str, nn.Parameter], optimizer: Optimizer) -> list[dict[str, Any]]:
    """The trained parameters as the optimiser wants them, a group for each of optimizer.rates and one of the rest.

    ConfigError for a prefix that no parameter is left for.
    """
    left, groups = dict(parameters), []
    for prefix, share in optimizer.shares().items():
        chosen = [name for name in left if name.startswith(prefix)]
        if not chosen:
            heads = ", ".join(sorted({name.partition(".")[0] + "." for name in parameters}))
            raise ConfigError(f"optimizer.rates: no trained parameter begins with {prefix!r}; they begin with {heads}")
        groups.append({"params": [left.pop(name) for name in chosen], SHARE: share})
    return [*groups, {"params": list(left.values()), SHARE: 1.0}] if left else groups


def with_steps(config: Config, pictures: int, processes: int) -> Config:
    """The configuration with the steps that run.epochs are; as it is without them."""
    if not config.run.epochs:
        return config
    samples = config.optimizer.batch * config.optimizer.accumulate * processes
    steps = max(1, math.ceil(config.run.epochs * pictures / samples))
    return dataclasses.replace(config, run=dataclasses.replace(config.run, steps=steps))
