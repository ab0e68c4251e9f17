"""What stands between a configuration and the first step of its run."""

from __future__ import annotations

import functools
import itertools
import json
import logging
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import InitProcessGroupKwargs

from trainer.config import Config, Optimizer
from trainer.data.folder import FolderDataset
from trainer.models import checkpoint
from trainer.run import init_from, optimizers, resume, schedules, throughput, tracker, zero
from trainer.run.checks import check_machine
from trainer.run.datasets import batches_from, build_dataset, held_out_samples, own_samples
from trainer.run.ema import EMA, Average
from trainer.run.fused import FusedBackward
from trainer.run.report import Reporter
from trainer.run.run import Run, combine, losses
from trainer.run.validation import Validation
from trainer.stages.stage import Stage
from trainer.stages.table import build_stage

log = logging.getLogger("trainer")


def prepare(config: Config) -> Run:
    """The parts of a run where its last checkpoint left it, or at its beginning."""
    check_machine(config)
    if config.system.threads:
        torch.set_num_threads(config.system.threads)
    accelerator = make_accelerator(config)
    device, rank, processes = accelerator.device, accelerator.process_index, accelerator.num_processes
    saved, damaged = resume.newest_whole(_checkpoints(config, accelerator))
    start, files = checkpoint.step_of(saved) if saved else 0, resume.file_digests(config.model)
    dataset = build_dataset(config)
    config = schedules.with_steps(config, len(dataset), processes)
    if saved:
        resume.check_same_run(config, files, saved, checkpoint.read_state(saved))
    torch.manual_seed(config.run.seed)  # random initialisation
    for problem in dataset.problems:
        log.warning("data: %s", problem)
    stage = build_stage(config, device)
    if config.model.init_from and not saved:
        output = Path(config.run.output) if accelerator.is_main_process else None
        init_from.start(stage, config.model.init_from, output)
    parameters = trained_parameters(stage, config)
    stage.to(device)

    batches = batches_from(dataset, config, start * config.optimizer.accumulate, rank, processes, device)
    utilisation = None
    if (peak := throughput.peak_flops(config.system, device)) and start < config.run.steps:
        first = next(batches)
        utilisation = _utilisation(config, accelerator, stage, first, start, peak)
        batches = itertools.chain([first], batches)
    if config.system.compile:
        throughput.compile_networks(stage, config.system.compile)

    adam = config.optimizer
    optimizer = optimizers.new_optimizer(schedules.parameter_groups(parameters, adam), adam, device)
    accelerator.ddp_handler = DistributedDataParallelKwargs(
        find_unused_parameters=stage.rests,
        broadcast_buffers=False,  # they are equal and stay so; frozen weights in 8 bits would be sent at every step
    )
    if config.system.deepspeed:  # it sends weights as bytes, which other layouts do not allow, and lays them flat
        stage.to(memory_format=torch.contiguous_format)
    wrapped, optimizer = accelerator.prepare(stage, optimizer)
    run = Run(
        config,
        accelerator,
        wrapped,
        stage,
        parameters,
        optimizer,
        _average(parameters, optimizer, adam),
        batches,
        start,
        _reporter(config, accelerator, start, utilisation),
        *_shown(config, dataset, rank, processes),
        fused=FusedBackward(optimizer.optimizer) if adam.fused_backward_pass else None,
        files=files,
    )
    _continue(run, saved, damaged)
    return run


def _average(
    parameters: dict[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer, adam: Optimizer
) -> Average | None:
    """The weights that are shown and exported in the place of the last ones."""
    if adam.kind == "schedule_free":
        return optimizers.ScheduleFreeAverage(parameters, optimizer)
    return EMA(parameters, adam.ema, "cpu" if adam.ema_device == "cpu" else None) if adam.ema else None


def make_accelerator(config: Config) -> Accelerator:
    """Accelerate for one process or many; with DeepSpeed when the configuration names it."""
    plugin = zero.plugin(config) if config.system.deepspeed else None
    precision = {"fp32": "no"}.get(config.system.precision, config.system.precision)
    return Accelerator(
        mixed_precision=precision,
        gradient_accumulation_steps=config.optimizer.accumulate,
        deepspeed_plugin=plugin,
        # accelerate knows no backend for DeepSpeed on a CPU; with a GPU it takes nccl by itself
        kwargs_handlers=[] if plugin is None or torch.cuda.is_available() else [InitProcessGroupKwargs(backend="gloo")],
    )


def trained_parameters(stage: Stage, config: Config) -> dict[str, torch.nn.Parameter]:
    """Parameters by name that the optimiser owns; those under optimizer.freeze are switched off."""
    for name, parameter in stage.named_parameters():
        if name.startswith(config.optimizer.freeze):
            parameter.requires_grad_(False)
    return {name: p for name, p in stage.named_parameters() if p.requires_grad}


def _checkpoints(config: Config, accelerator: Accelerator) -> list[Path]:
    """The checkpoints in the run's folder, oldest first."""
    output = Path(config.run.output)
    if accelerator.is_main_process:
        output.mkdir(parents=True, exist_ok=True)
    accelerator.wait_for_everyone()
    return checkpoint.folders(output)


def _utilisation(
    config: Config, accelerator: Accelerator, stage: Stage, batch: dict[str, torch.Tensor], step: int, peak: float
) -> Callable[[float], float]:
    """Share of the device's peak FLOP/s that a step of so many seconds uses; counted on a batch."""
    one = functools.partial(losses, config, accelerator, stage, batch, step, 0)
    flops = config.optimizer.accumulate * throughput.count_model_flops(lambda: torch.stack(list(one().values())).sum())
    stage.zero_grad()
    log.info("%.2f model TFLOPs per step and process; peak of the device %.0f TFLOP/s", flops / 1e12, peak / 1e12)
    return lambda seconds: flops / (seconds * peak)


def _reporter(
    config: Config, accelerator: Accelerator, start: int, utilisation: Callable[[float], float] | None
) -> Reporter:
    adam = config.optimizer
    return Reporter(
        Path(config.run.output),
        start,
        config.run.steps,
        adam.batch * adam.accumulate * accelerator.num_processes,
        config.report.log_every,
        accelerator.is_main_process,
        functools.partial(combine, accelerator),
        utilisation,
        tracker.start(config) if config.report.wandb and accelerator.is_main_process else None,
    )


def _shown(config: Config, dataset: FolderDataset, rank: int, processes: int) -> tuple[Validation, Validation | None]:
    """What sample sheets show, and what is validated: held-out pictures, where the run validates."""
    report = config.report
    validation = held_out_samples(config, rank, processes) if report.validate_every else None
    if report.samples:
        return own_samples(config), validation
    return validation or Validation(dataset.plain(squares=True), report.sample_count, 1, 1), validation


def _continue(run: Run, saved: Path | None, damaged: list[Path]) -> None:
    """Take the last checkpoint's state and write what the run is; a run that is refused there has deleted nothing.

    damaged: newer checkpoints that cannot be read; they get another name, under which nobody looks for them.
    """
    if saved:
        run.resume(saved)
        resume.tell_when_done(run.config, run.start)
    if run.accelerator.is_main_process:
        for folder in damaged:
            checkpoint.set_aside(folder)
        checkpoint.sweep(run.output)
        checkpoint.note_best(run.output, run.best)
        checkpoint.write_text(run.output / "config.json", json.dumps(run.config.to_dict(), indent=1))
