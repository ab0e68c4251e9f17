"""The pictures of a run: its data set, its batches in their order, and what is held out."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Iterator
from pathlib import Path

import torch

from spread.processes import leave_interrupts_to_parent
from trainer.cache.encodings import CachedParts
from trainer.config import Config
from trainer.data.buckets import PositionSampler
from trainer.data.folder import FaceDataset, FolderDataset, SamplePairs
from trainer.run.interrupt import HANGUP
from trainer.run.validation import Validation
from trainer.stages import table
from trainer.workers import process_count


def build_dataset(config: Config) -> FolderDataset:
    """The pictures of a run, with the parts its stage needs."""
    row, output = table.row(config), Path(config.run.output)
    kind = FaceDataset if row.warps else FolderDataset
    return kind(
        dataclasses.replace(config.data, deform=0.0) if row.warps else config.data,  # the stage bends them itself
        table.needs_of(config),
        seed=config.run.seed,
        batch=config.optimizer.batch * process_count(),
        augment=config.augment,
        cached=CachedParts(config, row.encodings(config)) if config.data.cache_folder else None,
        unreadable=output / "unreadable.jsonl" if output.is_dir() else None,
    )


def held_out_samples(config: Config, rank: int, processes: int) -> Validation:
    """The fixed samples of data.holdout: the same for every seed of a run."""
    data, report = config.data.held_out(), config.report
    dataset = build_dataset(dataclasses.replace(config, data=data, run=dataclasses.replace(config.run, seed=0)))
    return Validation(
        dataset.plain(squares=True),
        report.validate_count,
        report.validate_bins,
        config.optimizer.batch,
        rank,
        processes,
    )


def own_samples(config: Config) -> Validation:
    """The pairs of report.samples, for the sheets: what changes or keeps the pictures of a run is none of theirs."""
    data = dataclasses.replace(
        config.data.held_out(),
        folder=config.report.samples,
        reference="folder",
        deform=0.0,
        cache=False,
        cache_folder="",
        decoded_folder="",
    )
    dataset = SamplePairs(data, table.needs_of(config))
    return Validation(dataset, len(dataset), 1, 1)


def batches_from(
    dataset: FolderDataset, config: Config, first: int, rank: int, processes: int, device: torch.device
) -> Iterator[dict[str, torch.Tensor]]:
    """Batches of one process from micro step `first` to the end of the run, read ahead by data.workers processes."""
    adam, workers = config.optimizer, config.data.workers
    sampler = PositionSampler(first, config.run.steps * adam.accumulate, adam.batch, rank, processes)
    loader = torch.utils.data.DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=workers,
        # spawn on every system: a fork of a process that has used torch's threads, or a GPU, can hang
        multiprocessing_context="spawn" if workers else None,
        pin_memory=device.type == "cuda",
        # a batch that is still to come must come, so that the step in progress ends and is saved (`Interrupt`)
        worker_init_fn=_leave_signals_to_parent,
    )
    return iter(loader)


def _leave_signals_to_parent(*_: object) -> None:
    """Neither Ctrl-C nor the end of the terminal ends a process that reads: torch ends it with its parent."""
    leave_interrupts_to_parent()
    for number in HANGUP:
        signal.signal(number, signal.SIG_IGN)


def positions_of(micro_step: int, batch: int, rank: int, processes: int) -> range:
    """Numbers of the samples of one process's batch in the stream of the data; those PositionSampler reads."""
    first = (micro_step * processes + rank) * batch
    return range(first, first + batch)
