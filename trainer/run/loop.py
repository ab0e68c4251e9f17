"""The training loop: next batch, losses, backward, step, average, report, validate, sample, save.

What is drawn for a sample depends on (seed, its position in the stream of the data) and nothing else (draws.py), and
so does the order of the data: the same command resumes a run exactly where the last checkpoint left it, and one
process computes what several do that share the same batch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import logging
import math
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs

from trainer.config import Config, ConfigError, Optimizer
from trainer.data.folder import FolderDataset, PositionSampler
from trainer.draws import Draws
from trainer.models import checkpoint
from trainer.models.precision import arithmetic
from trainer.run import init_from, throughput, zero
from trainer.run.datasets import build_dataset
from trainer.run.ema import EMA
from trainer.run.report import Reporter
from trainer.run.run import Run
from trainer.run.validation import Validation
from trainer.stages.stage import Stage
from trainer.stages.table import build_stage
from trainer.workers import leave_interrupts_to_parent

log = logging.getLogger("trainer")


def learning_rate(optimizer: Optimizer, step: float, steps: int) -> float:
    """Learning rate of step number `step` (from 0): linear warm-up, then constant or half a cosine wave.

    Without optimizer.lowest_lr the warm-up's first step takes its share of the peak, and the cosine ends at a hundredth
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
    return end + (optimizer.lr - end) * 0.5 * (1 + math.cos(math.pi * progress))


def trained_parameters(stage: Stage, config: Config) -> dict[str, torch.nn.Parameter]:
    """Parameters by name that the optimiser owns; those under optimizer.freeze are switched off."""
    for name, parameter in stage.named_parameters():
        if name.startswith(config.optimizer.freeze):
            parameter.requires_grad_(False)
    return {name: p for name, p in stage.named_parameters() if p.requires_grad}


def make_accelerator(config: Config) -> Accelerator:
    """Accelerate for one process or many; with DeepSpeed when the configuration names it."""
    plugin = zero.plugin(config) if config.system.deepspeed else None
    precision = {"fp32": "no"}.get(config.system.precision, config.system.precision)
    if precision == "fp16" and not torch.cuda.is_available():
        raise ConfigError("system.precision = 'fp16' needs a GPU; use bf16 or fp32 here.")
    return Accelerator(
        mixed_precision=precision,
        gradient_accumulation_steps=config.optimizer.accumulate,
        deepspeed_plugin=plugin,
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


class Interrupt:
    """Turns Ctrl-C and SIGTERM into a flag, so that the step in progress ends and is saved.

    A launcher repeats the signal that it gets itself; only another Ctrl-C some time later stops at once.
    """

    PATIENCE = 2.0  # seconds

    def __init__(self, accelerator: Accelerator):
        self.accelerator = accelerator
        self.since: float | None = None
        self.previous: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers there only
            self.previous = {s: signal.signal(s, self._note) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def _note(self, number, frame) -> None:
        if self.since is None:
            self.since = time.monotonic()
            log.warning("stopping after this step; the run is saved and the same command resumes it")
        elif number == signal.SIGINT and time.monotonic() - self.since > self.PATIENCE:
            raise KeyboardInterrupt

    def raised(self) -> bool:
        """Whether any process was told to stop. Every process must ask at the same step."""
        raised = self.since is not None
        if self.accelerator.num_processes == 1:
            return raised
        flag = torch.tensor([float(raised)], device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag, "sum"))

    def __exit__(self, *error) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)


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
        worker_init_fn=leave_interrupts_to_parent,
    )
    return iter(loader)


def positions_of(micro_step: int, batch: int, rank: int, processes: int) -> range:
    """Numbers of the samples of one process's batch in the stream of the data; those PositionSampler reads."""
    first = (micro_step * processes + rank) * batch
    return range(first, first + batch)


def train(config: Config) -> Path:
    """Run the configured training to its end (or to an interrupt) and export the result; returns the exported file."""
    # 1. Parts
    if config.system.threads:
        torch.set_num_threads(config.system.threads)
    accelerator = make_accelerator(config)
    device, rank, processes = accelerator.device, accelerator.process_index, accelerator.num_processes
    output = Path(config.run.output)
    if accelerator.is_main_process:
        output.mkdir(parents=True, exist_ok=True)
    accelerator.wait_for_everyone()
    saved = checkpoint.folders(output)
    start = checkpoint.step_of(saved[-1]) if saved else 0
    torch.manual_seed(config.run.seed)  # random initialisation
    dataset = build_dataset(config)
    for problem in dataset.problems:
        log.warning("data: %s", problem)
    stage = build_stage(config, device)
    if config.model.init_from and not saved:
        init_from.start(stage, config.model.init_from, output if accelerator.is_main_process else None)
    parameters = trained_parameters(stage, config)
    stage.to(device)

    # 2. Data from where the last run stopped
    adam, micro = config.optimizer, config.optimizer.accumulate
    batches = batches_from(dataset, config, start * micro, rank, processes, device)

    def forward(module, batch, step: int, part: int) -> dict[str, torch.Tensor]:
        draws = Draws(config.run.seed, step, positions_of(step * micro + part, adam.batch, rank, processes))
        with arithmetic(config, device):
            return module(
                {k: v.to(device, non_blocking=True) for k, v in batch.items()}, draws, step / config.run.steps
            )

    utilisation = None
    if (peak := throughput.peak_flops(config.system, device)) and start < config.run.steps:
        first = next(batches)
        flops = micro * throughput.count_model_flops(lambda: sum(forward(stage, first, start, 0).values()))
        stage.zero_grad()
        batches = itertools.chain([first], batches)
        log.info("%.2f model TFLOPs per step and process; peak of the device %.0f TFLOP/s", flops / 1e12, peak / 1e12)
        utilisation = lambda seconds: flops / (seconds * peak)  # noqa: E731
    if config.system.compile:
        throughput.compile_networks(stage, config.system.compile)

    # 3. Optimiser, average, and their state
    optimizer = throughput.new_optimizer(parameters.values(), adam, device)
    accelerator.ddp_handler = DistributedDataParallelKwargs(find_unused_parameters=stage.rests)
    wrapped, optimizer = accelerator.prepare(stage, optimizer)
    ema = EMA(parameters, adam.ema, "cpu" if adam.ema_device == "cpu" else None) if adam.ema else None
    report = config.report
    validation = held_out_samples(config, rank, processes) if report.validate_every else None
    samples = validation or Validation(dataset.plain(squares=True), report.sample_count, 1, 1)
    run = Run(config, accelerator, wrapped, stage, optimizer, ema, samples, validation)
    if saved:
        run.resume(saved[-1])
    if accelerator.is_main_process:
        checkpoint.sweep(output)  # not before: a run that is refused changes nothing
        checkpoint.note_best(output, run.best)
        checkpoint.write_text(output / "config.json", json.dumps(config.to_dict(), indent=1))
    reporter = Reporter(
        output,
        start,
        config.run.steps,
        adam.batch * micro * processes,
        report.log_every,
        accelerator.is_main_process,
        run.combine,
        utilisation,
    )

    # 4. Steps
    with Interrupt(accelerator) as interrupt, contextlib.closing(reporter):
        for step in range(start, config.run.steps):
            rate = learning_rate(adam, step, config.run.steps)
            for group in optimizer.param_groups:
                group["lr"] = rate
            totals: dict[str, torch.Tensor] = {}
            for part in range(micro):
                with reporter.waiting():
                    batch = next(batches)
                with accelerator.accumulate(wrapped):
                    terms = forward(wrapped, batch, step, part)
                    accelerator.backward(sum(terms.values()))
                    if accelerator.sync_gradients:
                        norm = accelerator.clip_grad_norm_(parameters.values(), adam.clip or math.inf)
                    optimizer.step()
                    optimizer.zero_grad()
                for name, value in terms.items():
                    totals[name] = totals.get(name, 0) + value.detach() / micro
            if ema is not None:
                ema.update(parameters)
            done = step + 1
            stopping = interrupt.raised()
            last = done == config.run.steps or stopping
            validating = run.validation is not None and (last or done % report.validate_every == 0)
            saving = last or done % report.save_every == 0
            try:
                reporter.step(done, totals, rate, finite_or_skipped(norm, accelerator), device)
                if saving or validating:
                    reporter.means()
            except FloatingPointError as error:
                raise RuntimeError(
                    f"Up to step {done} these became infinite or not a number: {error}. The run is kept up to its last "
                    "checkpoint. Lower optimizer.lr, or use system.precision = 'bf16' or 'fp32'."
                ) from None
            with reporter.pause():
                better = validating and run.validate(done, reporter)
                if saving or better:
                    run.save(done)
                if report.sample_every and (last or done % report.sample_every == 0):
                    run.sample(done, reporter)
            if stopping:
                break
    return run.export()


def finite_or_skipped(norm: torch.Tensor | float | None, accelerator: Accelerator) -> torch.Tensor:
    """The norm of a step's gradient; 0 where DeepSpeed gives none, or where fp16's scaler left the step out."""
    norm = torch.as_tensor(0.0 if norm is None else norm)
    return norm if accelerator.scaler is None else torch.nan_to_num(norm, posinf=0.0)
