"""The parts of a run, and what happens between its steps: resuming, saving, validating, sampling, exporting."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import nn

from trainer.config import Config, ConfigError
from trainer.draws import Draws
from trainer.failures import Failure, Stopped, in_words
from trainer.models import checkpoint
from trainer.models.precision import arithmetic
from trainer.models.usable import refuses_other_files
from trainer.pictures import Batch
from trainer.run.datasets import positions_of
from trainer.run.ema import Average
from trainer.run.fused import FusedBackward
from trainer.run.report import Reporter
from trainer.run.schedules import SHARE
from trainer.run.validation import Validation
from trainer.stages.stage import Stage

log = logging.getLogger("trainer")


@dataclass
class Run:
    """Everything that a step needs, and what happens between the steps."""

    config: Config
    accelerator: Accelerator
    wrapped: nn.Module
    """the stage as accelerate prepared it"""
    stage: Stage
    """the stage itself: whoever calls another method than forward calls this one's"""
    parameters: dict[str, nn.Parameter]
    """those that are trained, by name"""
    optimizer: torch.optim.Optimizer
    ema: Average | None
    batches: Iterator[dict[str, torch.Tensor]]
    """of this process, from `start` on"""
    start: int
    """steps that were done before"""
    reporter: Reporter
    samples: Validation
    """what sample sheets show"""
    validation: Validation | None
    best: dict[str, float] | None = None
    """step and loss of the best validation"""
    fused: FusedBackward | None = None
    """what steps the parameters in the backward pass, where optimizer.fused_backward_pass asks for it"""
    files: dict[str, str] = field(default_factory=dict)
    """hashes of the files that [model] names (resume.py)"""
    done: int | None = None
    """steps that weights, optimiser and average hold; None while a step changes them"""
    saved: int | None = None
    """step of the newest checkpoint"""
    saved_at: float = field(default_factory=time.monotonic)
    """when it was written, or this start of the run began"""

    @property
    def output(self) -> Path:
        return Path(self.config.run.output)

    def resume(self, folder: Path) -> None:
        """Go on from a checkpoint of this run (resume.check_same_run)."""
        config, accelerator, state = self.config, self.accelerator, checkpoint.read_state(folder)
        self.best, self.done, self.saved = state.get("best"), state["step"], state["step"]
        log.info("resuming %s after step %d", folder.parent, state["step"])
        if config.system.deepspeed:
            if not config.system.trust_checkpoint:
                raise ConfigError(
                    f"{folder} was saved by DeepSpeed: it holds pickles, which can run any program when they are read. "
                    "If this run is your own, go on with --system.trust_checkpoint true; if somebody gave you the "
                    "folder, start a new run from a .safetensors file of it (model.init_from)."
                )
            accelerator.load_state(str(folder))
            return
        if (folder / "pytorch_model").is_dir():
            raise ConfigError(
                f"{folder} was saved by DeepSpeed; set system.deepspeed to resume it, or start a new run from what "
                "`python -m trainer convert --trust` makes of it."
            )
        takes = refuses_other_files(str(folder), checkpoint.DAMAGED)(self._take)
        takes(folder, state)

    def _take(self, folder: Path, state: dict[str, Any]) -> None:
        """Weights, optimiser, average and scaler of a checkpoint."""
        config, accelerator = self.config, self.accelerator
        _, parts, _ = checkpoint.load(folder)
        # Frozen weights that a run kept in 8 bits are not saved: they are as model.init says, in whatever form.
        frozen = {name: p for name, p in self.stage.named_parameters() if not p.requires_grad}
        self.stage.load_state_dict(frozen | parts["model"])
        adam, shares = config.optimizer, [group.get(SHARE, 1.0) for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(parts["optimizer"])
        for group, share in zip(self.optimizer.param_groups, shares, strict=True):
            # the file's settings came along; the configuration's count
            group |= {"betas": tuple(adam.betas), "weight_decay": adam.weight_decay, SHARE: share}
        if self.ema is not None:
            if "ema" not in parts:
                raise ConfigError(f"{folder} was saved without a moving average; set optimizer.ema = 0 to resume it.")
            self.ema.load_state_dict(parts["ema"])
        if accelerator.scaler is not None and "scaler" in state:
            accelerator.scaler.load_state_dict(state["scaler"])

    def losses(self, batch: Batch, step: int, part: int) -> dict[str, torch.Tensor]:
        """Loss terms by name of micro step `part` of step number `step` (from 0)."""
        return losses(self.config, self.accelerator, self.wrapped, batch, step, part)

    def tell(self, step: int, terms: Mapping[str, torch.Tensor], rate: float, norm: torch.Tensor, surely: bool) -> None:
        """Report the step that ended as number `step` (from 1). Failure when a value since the last line was not
        finite; it is looked at when a line is due, and `surely` before anything is saved or validated."""
        try:
            self.reporter.step(step, terms, rate, norm, self.accelerator.device)
            if surely:
                self.reporter.means()
        except FloatingPointError as error:
            raise Failure(
                f"Up to step {step} these became infinite or not a number: {error}. {self.kept()} Lower optimizer.lr, "
                "or use system.precision = 'bf16' or 'fp32'."
            ) from None

    def show_start(self) -> None:
        """The sheet and the validation of the model before the first step; what comes later is compared with them."""
        self.measure(0)
        self.sample(0)

    def measure(self, step: int) -> float | None:
        """Measure and report the averaged weights; their loss, or None where no samples are held out."""
        if self.validation is None:
            return None
        device = self.accelerator.device
        with averaged(self.stage, self.ema), arithmetic(self.config, device):
            values = self.validation.run(self.stage, device, functools.partial(combine, self.accelerator, how="sum"))
        self.reporter.validation(step, values)
        return values["validation"]

    def validate(self, step: int) -> bool:
        """As `measure`; whether these weights are the best so far."""
        if (loss := self.measure(step)) is None:
            return False
        better = math.isfinite(loss) and (self.best is None or loss < self.best["validation"])
        if better:
            self.best = {"step": step, "validation": loss}
        return better

    def kept(self) -> str:
        """What of the run is on the disk, in words."""
        if self.saved is None:
            return f"Nothing of {self.output} is saved yet."
        return f"{self.output} is kept up to step {self.saved}; the same command goes on from there."

    def stopped(self, step: int) -> str:
        """The last words of a run that was told to stop."""
        return (
            f"stopped after step {step} of {self.config.run.steps}. The same command goes on; `python -m trainer "
            f"convert {self.output} --output FILE.safetensors` makes a model of what there is."
        )

    @contextlib.contextmanager
    def rescued(self) -> Iterator[None]:
        """A context whose errors end the run only after its steps are saved, where its state is whole.

        Not in several processes, which would have to agree on it, nor where the numbers are what is wrong.
        """
        try:
            yield
        except (Failure, Stopped, ConfigError):
            raise
        except Exception as error:
            done = self.done
            if done is not None and done != self.saved and self.accelerator.num_processes == 1:
                self._save_after(done, error)
            if (words := explained(error)) is None:
                log.error("%s", self.kept())
                raise
            raise Failure(f"{words} {self.kept()}") from error

    def _save_after(self, done: int, error: Exception) -> None:
        """Save the step that is done, though something failed; a failure of that is only told."""
        log.warning("saving step %d after an error: %s", done, str(error).partition("\n")[0])
        try:
            self.reporter.means()  # raises where they are not finite
            self.save(done)
        except Exception as second:  # the disk that was the first reason, say
            log.warning("step %d could not be saved: %s", done, str(second).partition("\n")[0])

    def overdue(self) -> bool:
        """Whether report.save_minutes have gone by since the last checkpoint, by the main process's clock. Every
        process must ask at the same step."""
        minutes, accelerator = self.config.report.save_minutes, self.accelerator
        if not minutes:
            return False
        late = accelerator.is_main_process and time.monotonic() - self.saved_at > 60 * minutes
        return bool(combine(accelerator, torch.tensor([float(late)]), "sum"))

    def save(self, step: int) -> None:
        """Write a checkpoint; every process must call it."""
        state = {"step": step, "config": self.config.to_dict(), "files": self.files, "best": self.best}
        main, keep = self.accelerator.is_main_process, self.config.report.keep
        if self.config.system.deepspeed:
            temporary = [str(checkpoint.begin(self.output, step)) if main else ""]
            broadcast_object_list(temporary)
            self.accelerator.save_state(temporary[0])
            self.accelerator.wait_for_everyone()
            if main:
                checkpoint.commit(Path(temporary[0]), state, keep)
        elif main:
            parts: dict[str, Any] = {"model": self.stage.state_dict(), "optimizer": self.optimizer.state_dict()}
            if self.ema is not None:
                parts["ema"] = self.ema.state_dict()
            if self.accelerator.scaler is not None:
                state["scaler"] = self.accelerator.scaler.state_dict()
            checkpoint.save(self.output, parts, state, keep)
        self.accelerator.wait_for_everyone()
        self.saved, self.saved_at = step, time.monotonic()

    def sample(self, step: int) -> None:
        """Write a sample sheet: the first held-out samples, or of the training set where none are held out."""
        if not self.accelerator.is_main_process:
            return
        device = self.accelerator.device
        rows = self.samples.rows(range(min(self.config.report.sample_count, self.samples.count)), device)
        with averaged(self.stage, self.ema), arithmetic(self.config, device):
            self.reporter.sheet(step, self.stage.sheet(rows, Draws.plain(0)))

    def export(self) -> Path:
        """Write the file the nodes load; every process must call it."""
        exported = self.output / f"{self.output.name}.safetensors"
        ds = self.config.system.deepspeed
        state = self.accelerator.get_state_dict(self.wrapped) if ds else self.stage.state_dict()
        if self.accelerator.is_main_process:
            shadow = self.ema.shadow if self.ema is not None else {}
            weights = {**{k: v.float() for k, v in state.items()}, **shadow}
            files = {"": self.stage.export(weights), **self.stage.further_exports(weights)}
            for suffix, (tensors, metadata) in files.items():
                checkpoint.write_tensors(exported.with_stem(exported.stem + suffix), tensors, metadata)
        self.accelerator.wait_for_everyone()
        return exported


def explained(error: Exception) -> str | None:
    """What ended a run and what to do, for errors that come from outside; None for others."""
    if isinstance(error, torch.OutOfMemoryError):
        first = str(error).partition(". ")[0]
        return (
            f"There is not enough memory ({first}): lower optimizer.batch (and raise optimizer.accumulate), or set "
            "system.gradient_checkpointing = true."
        )
    if isinstance(error, RuntimeError) and "DataLoader worker (pid" in str(error):
        return (
            "A process that reads pictures was ended from outside, most often for want of memory: lower data.workers, "
            "or give the machine more shared memory."
        )
    if isinstance(error, OSError):
        return in_words(error)
    return None


def combine(accelerator: Accelerator, values: torch.Tensor, how: str = "mean") -> torch.Tensor:
    """Mean or sum of a tensor over all processes; every process must call it."""
    if accelerator.num_processes == 1:
        return values
    return accelerator.reduce(values.to(accelerator.device), how)


def losses(
    config: Config, accelerator: Accelerator, stage: nn.Module, batch: Batch, step: int, part: int
) -> dict[str, torch.Tensor]:
    """Loss terms by name of micro step `part` of step number `step` (from 0); stage: as it is, or as prepared."""
    adam, device = config.optimizer, accelerator.device
    numbers = positions_of(
        step * adam.accumulate + part, adam.batch, accelerator.process_index, accelerator.num_processes
    )
    with arithmetic(config, device):
        moved = {name: values.to(device, non_blocking=True) for name, values in batch.items()}
        return stage(moved, Draws(config.run.seed, step, numbers), step / config.run.steps)


class averaged:
    """A context in which the parameters of a stage hold their moving averages."""

    def __init__(self, stage: Stage, ema: Average | None) -> None:
        self.parameters, self.shadow = dict(stage.named_parameters()), {} if ema is None else ema.shadow

    def _swap(self) -> None:
        for name, average in self.shadow.items():
            parameter = self.parameters[name]
            kept = parameter.data.clone()
            parameter.data.copy_(average)
            average.copy_(kept)

    def __enter__(self) -> None:
        self._swap()

    def __exit__(self, *error: object) -> None:
        self._swap()
