"""`train --dry-run`: what a run will cost, before it costs anything, and what it still lacks.

Networks are built on the meta device. Files that are not there are counted by their known sizes, so that the memory of
every preset is told on a fresh clone.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from trainer.config import Config, ConfigError
from trainer.run import memory
from trainer.run.checks import check_machine, check_run
from trainer.run.datasets import build_dataset
from trainer.run.schedules import with_steps
from trainer.stages import file_sizes, table
from trainer.workers import process_count


def run(config: Config) -> None:
    """Prints the report. Behind it, ConfigError names all that is missing, or else what training would refuse."""
    missing = file_sizes.missing(config)
    if config.data.holdout and not Path(config.data.holdout).is_dir():
        missing.append(f"data.holdout = {config.data.holdout!r} does not exist")
    print("\n".join(["", *cost_lines(config)]))
    try:
        print("\n".join(data_lines(config, cached=not missing)))
    except ConfigError as error:
        missing.append(str(error).rstrip("."))
    if missing:
        told, are = "".join(f"\n  {line}." for line in missing), "thing is" if len(missing) == 1 else "things are"
        raise ConfigError(f"the run cannot begin yet, {len(missing)} {are} missing:{told}")
    check_run(config)
    check_machine(config)  # last: the numbers are wanted on a computer that could not train, too


def report(config: Config) -> str:
    """The whole text, of a run that lacks nothing. Problems of the configuration raise ConfigError as in training."""
    return "\n".join(["", *cost_lines(config), *data_lines(config)])


def _samples(config: Config) -> tuple[int, int]:
    """Samples of a step, and processes."""
    count = process_count()
    return config.optimizer.batch * config.optimizer.accumulate * count, count


def cost_lines(config: Config) -> list[str]:
    """Networks, memory and batches; files that are not there are counted by their known sizes."""
    cost, (samples, processes) = table.row(config).cost(config), _samples(config)
    total = sum(cost.trained.values())
    needed = memory.estimate(config, total, cost.frozen_bytes, cost.activations, processes, cost.largest)
    return [
        f"stage     {config.run.stage}",
        *cost.shapes,
        *(f"trained   {name}: {count / 1e6:.2f} M" for name, count in cost.trained.items()),
        *(f"frozen    {name}: {count / 1e6:.2f} M" for name, count in cost.frozen.items()),
        f"exports   {', '.join(table.exports_of(config))}",
        f"trained   total: {total / 1e6:.2f} M",
        f"memory    {needed} ({config.system.precision})",
        f"batch     {samples} samples per step: {config.optimizer.batch} x {config.optimizer.accumulate} micro steps "
        f"x {processes} processes",
    ]


def data_lines(config: Config, cached: bool = True) -> list[str]:
    """The pictures and their problems. cached: False asks no cache of encodings, whose names follow from the files."""
    if not cached:
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, cache_folder=""))
    dataset = build_dataset(config)
    samples, processes = _samples(config)
    steps = with_steps(config, len(dataset), processes).run.steps
    return [
        f"data      {len(dataset)} pictures; {samples * steps / len(dataset):.1f} epochs, {steps} steps",
        f"groups    {dataset.groups.summary(dataset.items.names)}",
        *(f"problem   {problem}" for problem in dataset.problems),
    ]
