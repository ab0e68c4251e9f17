"""The training loop: next batch, losses, backward, step, average, report, validate, sample, save.

What is drawn for a sample depends on (seed, its position in the stream of the data) and nothing else (draws.py), and
so does the order of the data: the same command resumes a run exactly where the last checkpoint left it, and one
process computes what several do that share the same batch.
"""

from __future__ import annotations

import contextlib
import math
from pathlib import Path

import torch
from accelerate import Accelerator

from trainer.config import Config
from trainer.failures import Stopped
from trainer.run import lock
from trainer.run.interrupt import Interrupt
from trainer.run.prepare import prepare
from trainer.run.run import Run
from trainer.run.schedules import SHARE, learning_rate


def train(config: Config) -> Path:
    """Run the configured training to its end and export the result; returns the exported file.

    Whatever else ends it, steps that are done are saved where that is possible. Stopped when it was told to stop.
    """
    with lock.held(Path(config.run.output)):
        return _train(prepare(config))


def _train(run: Run) -> Path:
    config = run.config
    adam, report = config.optimizer, config.report
    accelerator, optimizer, reporter = run.accelerator, run.optimizer, run.reporter
    with Interrupt(accelerator) as interrupt, contextlib.closing(reporter), run.rescued():
        if run.start == 0 and (report.sample_at_start or report.samples):
            run.show_start()
        for step in range(run.start, config.run.steps):
            rate = learning_rate(adam, step, config.run.steps)
            for group in optimizer.param_groups:
                group["lr"] = rate * group.get(SHARE, 1.0)
            totals: dict[str, torch.Tensor] = {}
            for part in range(adam.accumulate):
                with reporter.waiting():
                    batch = next(run.batches)
                with accelerator.accumulate(run.wrapped):
                    terms = run.losses(batch, step, part)
                    if run.fused is not None:
                        run.done = None  # its backward pass changes weights
                    accelerator.backward(sum(terms.values()))
                    if accelerator.sync_gradients:
                        run.done = None  # from here to the end of the average the state is of no step
                        norm = accelerator.clip_grad_norm_(run.parameters.values(), adam.clip or math.inf)
                        norm = norm if run.fused is None else run.fused.norm()
                    optimizer.step()
                    optimizer.zero_grad()
                for name, value in terms.items():
                    totals[name] = totals.get(name, 0) + value.detach() / adam.accumulate
            if run.ema is not None:
                run.ema.update(run.parameters)

            run.done = done = step + 1
            stopping = interrupt.raised()
            last = done == config.run.steps or stopping
            validating = run.validation is not None and (last or done % report.validate_every == 0)
            saving = last or done % report.save_every == 0 or run.overdue()
            run.tell(done, totals, rate, finite_or_skipped(norm, accelerator), surely=saving or validating)
            with reporter.pause():
                better = validating and run.validate(done)
                if saving or better:
                    run.save(done)
                if report.sample_every and (last or done % report.sample_every == 0):
                    run.sample(done)
            if stopping and done < config.run.steps:
                raise Stopped(run.stopped(done), 128 + interrupt.signal)
        return run.export()


def finite_or_skipped(norm: torch.Tensor | float | None, accelerator: Accelerator) -> torch.Tensor:
    """The norm of a step's gradient; 0 where DeepSpeed gives none, or where fp16's scaler left the step out."""
    norm = torch.as_tensor(0.0 if norm is None else norm)
    return norm if accelerator.scaler is None else torch.nan_to_num(norm, posinf=0.0)
