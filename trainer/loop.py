"""The training loop: next batch, losses, backward, step, average, report, sample, save.

All randomness of a step is derived from (seed, step, process), and the order of the data from (seed, position): the
same command resumes a run exactly where the last checkpoint left it.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import signal
from pathlib import Path

import torch
from accelerate import Accelerator, DataLoaderConfiguration

from trainer import checkpoint
from trainer.config import Config, ConfigError, Model, Optimizer
from trainer.data.folder import FolderDataset, PositionSampler
from trainer.ema import EMA
from trainer.report import Reporter
from trainer.stages import NEEDS, Stage, build_stage

log = logging.getLogger("trainer")


def learning_rate(optimizer: Optimizer, step: int, steps: int) -> float:
    """Learning rate of step number `step` (from 0): linear warm-up, then constant or cosine to a hundredth."""
    if step < optimizer.warmup:
        return optimizer.lr * (step + 1) / optimizer.warmup
    if optimizer.decay == "constant":
        return optimizer.lr
    progress = (step - optimizer.warmup) / max(1, steps - optimizer.warmup)
    return optimizer.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


def step_generator(seed: int, micro_step: int, rank: int) -> torch.Generator:
    """The random numbers of one micro step of one process; on the CPU, so every device sees the same."""
    mixed = (seed * 0x9E3779B97F4A7C15 + micro_step * 0xBF58476D1CE4E5B9 + rank * 0x94D049BB133111EB) % 2**63
    return torch.Generator().manual_seed(mixed)


def build_dataset(config: Config) -> FolderDataset:
    """The pictures of a run, with the parts its stage needs."""
    data = config.data
    needs = NEEDS[config.run.stage]
    return FolderDataset(data.folder, data.size, data.reference, config.run.seed, data.cache, needs, data.deform)


def trained_parameters(stage: Stage, config: Config) -> dict[str, torch.nn.Parameter]:
    """Parameters by name that the optimiser owns; those under optimizer.freeze are switched off."""
    for name, parameter in stage.named_parameters():
        if name.startswith(config.optimizer.freeze):
            parameter.requires_grad_(False)
    return {name: p for name, p in stage.named_parameters() if p.requires_grad}


def make_accelerator(config: Config) -> Accelerator:
    """Accelerate for one process or many; with a DeepSpeed config when one is named."""
    plugin = None
    if config.system.deepspeed:
        try:
            from accelerate import DeepSpeedPlugin

            plugin = DeepSpeedPlugin(hf_ds_config=config.system.deepspeed)
        except ImportError:
            raise ConfigError(
                "system.deepspeed needs the package deepspeed (Linux only): pip install deepspeed."
            ) from None
    precision = {"fp32": "no"}.get(config.system.precision, config.system.precision)
    if precision == "fp16" and not torch.cuda.is_available():
        raise ConfigError("system.precision = 'fp16' needs a GPU; use bf16 or fp32 here.")
    return Accelerator(
        mixed_precision=precision,
        deepspeed_plugin=plugin,
        dataloader_config=DataLoaderConfiguration(split_batches=False),
    )


class Interrupt:
    """Turns Ctrl-C and SIGTERM into a flag, so that the step in progress ends and is saved."""

    def __init__(self):
        self.raised = False

    def __enter__(self) -> Interrupt:
        self.previous = {s: signal.signal(s, self._note) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def _note(self, number, frame) -> None:
        if self.raised:  # the second time, stop at once
            raise KeyboardInterrupt
        self.raised = True
        log.warning("stopping after this step; the run is saved and the same command resumes it")

    def __exit__(self, *error) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)


def resume(config: Config, output: Path, stage: Stage, optimizer, ema: EMA | None) -> int:
    """Load the newest checkpoint of `output` into the parts; returns the number of steps already done."""
    saved = checkpoint.folders(output)
    if not saved:
        return 0
    step, parts, written_with = checkpoint.load(saved[-1])
    defaults = dataclasses.asdict(Model())  # of keys that are newer than the checkpoint
    if {**defaults, **written_with["model"]} != json.loads(json.dumps(config.to_dict()["model"])):
        raise ConfigError(
            f"{output} holds a run with another [model] section; choose another run.output, or delete the folder."
        )
    stage.load_state_dict(parts["model"])
    optimizer.load_state_dict(parts["optimizer"])
    if ema is not None:
        if "ema" not in parts:
            raise ConfigError(f"{saved[-1]} was saved without a moving average; set optimizer.ema = 0 to resume it.")
        ema.load_state_dict(parts["ema"])
    log.info("resuming %s after step %d", output, step)
    return step


def train(config: Config) -> Path:
    """Run the configured training to its end (or to an interrupt) and export the result; returns the exported file."""
    # 1. Parts
    if config.system.threads:
        torch.set_num_threads(config.system.threads)
    accelerator = make_accelerator(config)
    output = Path(config.run.output)
    output.mkdir(parents=True, exist_ok=True)
    (output / "config.json").write_text(json.dumps(config.to_dict(), indent=1))
    torch.manual_seed(config.run.seed)  # random initialisation
    dataset = build_dataset(config)
    for problem in dataset.problems:
        log.warning("data: %s", problem)
    stage = build_stage(config, accelerator.device)
    parameters = trained_parameters(stage, config)
    adam = config.optimizer
    optimizer = torch.optim.AdamW(
        parameters.values(), lr=adam.lr, betas=tuple(adam.betas), weight_decay=adam.weight_decay
    )
    wrapped, optimizer = accelerator.prepare(stage, optimizer)
    device = accelerator.device
    ema = EMA(parameters, adam.ema, "cpu" if adam.ema_device == "cpu" else None) if adam.ema else None

    # 2. Where the last run stopped
    deepspeed = bool(config.system.deepspeed)
    if deepspeed and (saved := checkpoint.folders(output)):
        accelerator.load_state(str(saved[-1]))
        start = int(checkpoint.NAME.match(saved[-1].name)[1])
    else:
        start = 0 if deepspeed else resume(config, output, stage, optimizer, ema)

    # 3. Data from there on
    micro = adam.accumulate
    rank, processes = accelerator.process_index, accelerator.num_processes
    sampler = PositionSampler(start * micro, config.run.steps * micro, adam.batch, rank, processes)
    batches = iter(torch.utils.data.DataLoader(dataset, batch_sampler=sampler, num_workers=config.data.workers))
    reporter = Reporter(
        output,
        start,
        config.run.steps,
        adam.batch * micro * processes,
        config.report.log_every,
        accelerator.is_main_process,
    )

    def save(step: int) -> None:
        if deepspeed:
            accelerator.save_state(str(output / f"step-{step:08d}"))
        elif accelerator.is_main_process:
            parts = {"model": stage.state_dict(), "optimizer": optimizer.state_dict()}
            if ema is not None:
                parts["ema"] = ema.state_dict()
            checkpoint.save(output, step, parts, config.to_dict(), config.report.keep)

    def sample(step: int) -> None:
        if accelerator.is_main_process:
            rows = torch.utils.data.default_collate([dataset[i] for i in range(config.report.sample_count)])
            with averaged(parameters, ema), accelerator.autocast():
                reporter.sheet(step, stage.sheet({k: v.to(device) for k, v in rows.items()}, step_generator(0, 0, 0)))

    # 4. Steps
    with Interrupt() as interrupt:
        for step in range(start, config.run.steps):
            rate = learning_rate(adam, step, config.run.steps)
            for group in optimizer.param_groups:
                group["lr"] = rate
            for part in range(micro):
                batch = {k: v.to(device) for k, v in next(batches).items()}
                generator = step_generator(config.run.seed, step * micro + part, rank)
                with accelerator.autocast():
                    terms = wrapped(batch, generator, step / config.run.steps)
                accelerator.backward(sum(terms.values()) / micro)
            norm = accelerator.clip_grad_norm_(parameters.values(), adam.clip) if adam.clip else torch.zeros(())
            if not torch.isfinite(torch.as_tensor(norm)):
                raise RuntimeError(
                    f"The gradient of step {step + 1} is not finite; the run is kept up to its last checkpoint. "
                    "Lower optimizer.lr, or use system.precision = 'bf16' or 'fp32'."
                )
            optimizer.step()
            optimizer.zero_grad()
            if ema is not None:
                ema.update(parameters)
            done = step + 1
            reporter.step(done, terms, rate, float(norm), device)
            last = done == config.run.steps or interrupt.raised
            with reporter.pause():
                if last or done % config.report.save_every == 0:
                    save(done)
                if config.report.sample_every and (last or done % config.report.sample_every == 0):
                    sample(done)
            if interrupt.raised:
                break
    reporter.close()
    exported = output / f"{output.name}.safetensors"
    if accelerator.is_main_process and not deepspeed:
        tensors, metadata = stage.export({**stage.state_dict(), **(ema.shadow if ema is not None else {})})
        checkpoint.write_tensors(exported, tensors, metadata)
    return exported


class averaged:
    """A context in which the parameters hold their moving averages."""

    def __init__(self, parameters: dict[str, torch.nn.Parameter], ema: EMA | None):
        self.parameters, self.ema = parameters, ema

    def _swap(self) -> None:
        for name, parameter in self.parameters.items() if self.ema else ():
            kept = parameter.data.clone()
            parameter.data.copy_(self.ema.shadow[name])
            self.ema.shadow[name].copy_(kept)

    def __enter__(self) -> None:
        self._swap()

    def __exit__(self, *error) -> None:
        self._swap()
