"""What a run would refuse, found without its memory: the dry run passes nothing that training stops at.

The stage itself is built, on the device "meta" and from the headers of its files, so that whatever its constructor
finds wrong with a file is found here as well.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from trainer.config import Config, ConfigError
from trainer.models import checkpoint
from trainer.models.precision import for_device
from trainer.run import init_from, optimizers, resume, schedules, throughput, tracker, zero
from trainer.run.datasets import build_dataset, held_out_samples, own_samples
from trainer.stages import table
from trainer.workers import device, process_count


def check_run(config: Config) -> None:
    """ConfigError for files that do not fit each other or the stage, held-out pictures that are not there, and a folder
    that holds another run."""
    saved, _ = resume.newest_whole(checkpoint.folders(Path(config.run.output)))
    with warnings.catch_warnings(), checkpoint.headers_only(), torch.device("meta"):
        warnings.simplefilter("ignore")  # that nothing is copied between tensors without values
        stage = table.build_stage(config, torch.device("meta"))
        if config.model.init_from and not saved:
            init_from.check(stage, config.model.init_from)
    if config.report.validate_every:
        held_out_samples(config, 0, 1)
    if config.report.samples:
        own_samples(config)
    if saved:
        state, pictures = checkpoint.read_state(saved), len(build_dataset(config)) if config.run.epochs else 0
        config = schedules.with_steps(config, pictures, process_count())
        resume.check_same_run(config, resume.file_digests(config.model), saved, state)
        resume.tell_when_done(config, state["step"])


def check_machine(config: Config) -> None:
    """ConfigError for what this computer lacks: training may be meant for another one."""
    if config.system.precision == "fp16" and device().type == "cpu":
        raise ConfigError("system.precision = 'fp16' needs a GPU; use bf16 or fp32 here.")
    for_device(config.system.precision, device())  # says what would be taken instead
    if config.system.deepspeed:
        zero.settings(config)
        zero.check_package()
    if config.system.compile:
        throughput.check_backend(config.system.compile)
    if config.report.wandb:
        tracker.check_package()
    if config.optimizer.fused_backward_pass and process_count() > 1:
        raise ConfigError(
            "optimizer.fused_backward_pass steps before the processes have put their gradients together: start one "
            "process, or set optimizer.fused_backward_pass = false."
        )
    optimizers.check(config.optimizer, device().type)
