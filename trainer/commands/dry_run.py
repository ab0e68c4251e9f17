"""`train --dry-run`: what a run will cost, before it costs anything. Networks are built on the meta device."""

from __future__ import annotations

import os
from pathlib import Path

from trainer.config import Config, ConfigError
from trainer.run import memory
from trainer.run.datasets import build_dataset
from trainer.stages import table


def report(config: Config) -> str:
    """The text `--dry-run` prints. Problems of the configuration raise ConfigError as they would in training."""
    for name in ("init", "init_from", "vae", "encoder", "tagger"):
        if (path := getattr(config.model, name)) and not Path(path).is_file():
            raise ConfigError(f"model.{name} = {path!r} does not exist.")
    if config.data.holdout and not Path(config.data.holdout).is_dir():
        raise ConfigError(f"data.holdout = {config.data.holdout!r} does not exist.")
    dataset, batch = build_dataset(config), config.optimizer.batch
    cost = table.row(config).cost(config)
    total = sum(cost.trained.values())
    processes = int(os.environ.get("WORLD_SIZE", 1))
    needed = memory.estimate(config, total, sum(cost.frozen.values()), cost.activations, processes)
    samples = batch * config.optimizer.accumulate * processes
    epochs = samples * config.run.steps / len(dataset)
    lines = ["", f"stage     {config.run.stage}", *cost.shapes]
    lines += [f"trained   {name}: {count / 1e6:.2f} M" for name, count in cost.trained.items()]
    lines += [f"frozen    {name}: {count / 1e6:.2f} M" for name, count in cost.frozen.items()]
    lines += [
        f"exports   {', '.join(table.row(config).exports)}",
        f"trained   total: {total / 1e6:.2f} M",
        f"memory    {needed} ({config.system.precision})",
        f"batch     {samples} samples per step: {batch} x {config.optimizer.accumulate} micro steps "
        f"x {processes} processes",
        f"data      {len(dataset)} pictures; {epochs:.1f} epochs",
        f"groups    {dataset.groups.summary(dataset.items.names)}",
        *(f"problem   {problem}" for problem in dataset.problems),
    ]
    return "\n".join(lines)
