"""What a run tells: log.jsonl always, tensorboard when installed, wandb when asked for, a progress bar, sample sheets,
validation.jsonl."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from trainer.config import ConfigError
from trainer.json_file import JSON_ERRORS
from trainer.models import checkpoint
from trainer.run import tracker

log = logging.getLogger("trainer")


def peak_memory(device: torch.device) -> float:
    """Largest memory use of this process so far, in GiB: of the accelerator, or the resident set on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    if sys.platform == "win32":
        import psutil  # accelerate brings it

        return psutil.Process().memory_info().peak_wset / 2**30
    import resource

    unit = 2**30 if sys.platform == "darwin" else 2**20  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def trim(path: Path, step: int) -> None:
    """Drop the lines of a .jsonl file after `step`: a run that resumes there writes them again."""
    if not path.is_file():
        return
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    try:
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
    except (*JSON_ERRORS, TypeError, LookupError):
        raise ConfigError(
            f"{path} has lines that are no JSON with a step; move it away, and the run writes a new one."
        ) from None
    if kept != lines:
        checkpoint.write_text(path, "".join(kept))


class Reporter:
    """Collects loss terms and writes their means every `every` steps. Only the main process writes.

    Values stay on the device until a line is due, so that a GPU is not made to wait at every step.

    combine: mean of a tensor over all processes; called by all of them, when a line is due.
    utilisation: share of the device's peak that one step in so many seconds is (see throughput.py); None when unknown.
    """

    def __init__(
        self,
        output: Path,
        start: int,
        steps: int,
        samples_per_step: int,
        every: int,
        main: bool,
        combine: Callable[[torch.Tensor], torch.Tensor] = lambda values: values,
        utilisation: Callable[[float], float] | None = None,
        tracked: Any = None,  # a run of tracker.py
    ) -> None:
        self.output, self.every, self.main = output, every, main
        self.tracked = tracked
        self.samples_per_step, self.combine, self.utilisation = samples_per_step, combine, utilisation
        self.sums: dict[str, torch.Tensor] = {}
        self.count = 0
        self.timed = 0  # steps since `since`
        self.waited = 0.0
        self.since: float | None = None  # the first step is not timed: it compiles, fills caches, starts workers
        if main:
            for name in ("log.jsonl", "validation.jsonl"):
                trim(output / name, start)
        self.board: Any = self._tensorboard(start) if main else None
        self.bar = tqdm(total=steps, initial=start, disable=not main, unit="step", dynamic_ncols=True)

    def _tensorboard(self, start: int) -> Any:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            log.info("tensorboard is not installed; log.jsonl is written all the same")
            return None
        # what was written after the checkpoint that a resumed run begins at is written again
        return SummaryWriter(self.output / "tensorboard", purge_step=start + 1 if start else None)

    def step(
        self, step: int, terms: Mapping[str, torch.Tensor], lr: float, grad_norm: torch.Tensor, device: torch.device
    ) -> None:
        """Count one optimiser step that ended as number `step` (from 1). Raises FloatingPointError, when a line is
        due, if a value since the last one was not finite."""
        for name, value in {**terms, "grad_norm": grad_norm}.items():
            value = torch.as_tensor(value, device=device).detach().float()
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.count += 1
        self.timed += 1
        self.bar.update()
        if step % self.every == 0:
            self._line(step, lr, device)
        elif self.since is None:
            self._restart()

    def _line(self, step: int, lr: float, device: torch.device) -> None:
        means = self.means()
        line = {"step": step, **means, "lr": lr}
        if self.since is not None:
            seconds = time.monotonic() - self.since
            line |= {
                "images_per_s": self.timed * self.samples_per_step / seconds,
                "s_per_step": seconds / self.timed,
                "data_wait": self.waited / seconds,
            }
            if self.utilisation:
                line["utilisation"] = self.utilisation(seconds / self.timed)
        line["peak_gib"] = peak_memory(device)
        self._write("log.jsonl", line)
        shown = {"loss": f"{sum(v for k, v in means.items() if k != 'grad_norm'):.4f}"}
        shown |= {"img/s": f"{line['images_per_s']:.1f}"} if "images_per_s" in line else {}
        shown |= {"wait": f"{line['data_wait']:.0%}"} if line.get("data_wait", 0) >= 0.01 else {}
        shown |= {"mfu": f"{line['utilisation']:.0%}"} if "utilisation" in line else {}
        self.bar.set_postfix(shown)
        self.sums.clear()
        self.count = 0
        self._restart()

    def _restart(self) -> None:
        self.since, self.timed, self.waited = time.monotonic(), 0, 0.0

    def means(self) -> dict[str, float]:
        """Mean of every value since the last line, over all processes. FloatingPointError when one is not finite."""
        if not self.sums:
            return {}
        values = self.combine(torch.stack(list(self.sums.values())) / self.count).tolist()
        means = dict(zip(self.sums, values, strict=True))
        if bad := [name for name, value in means.items() if not np.isfinite(value)]:
            raise FloatingPointError(", ".join(bad))
        return means

    def _write(self, name: str, line: Mapping[str, float]) -> None:
        if not self.main:
            return
        with (self.output / name).open("a", encoding="utf-8") as file:
            file.write(json.dumps({k: round(v, 8) if isinstance(v, float) else v for k, v in line.items()}) + "\n")
        if self.tracked:
            self.tracked.log(dict(line))
        for key, value in line.items() if self.board else ():
            if key != "step":
                self.board.add_scalar(key, value, line["step"])

    def validation(self, step: int, values: Mapping[str, float]) -> None:
        """Write one validation of the state after `step`."""
        self._write("validation.jsonl", {"step": step, **values})
        self.bar.write(f"step {step}: validation {values['validation']:.5f}", file=sys.stderr) if self.main else None

    def sheet(self, step: int, image: np.ndarray) -> None:
        """Write a sample sheet (H, W, 3) uint8 of the state after `step`; its time does not count as training time."""
        if self.main:
            (self.output / "samples").mkdir(exist_ok=True)
            Image.fromarray(image).save(self.output / "samples" / f"step-{step:08d}.png")
            if self.board:
                self.board.add_image("samples", image, step, dataformats="HWC")
            if self.tracked:
                self.tracked.log({"samples": tracker.picture(image), "step": step})

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """A context whose time is waiting for data."""
        begin = time.monotonic()
        yield
        self.waited += time.monotonic() - begin

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """A context whose time is left out of the throughput: saving, sampling, validation."""
        begin = time.monotonic()
        yield
        if self.since is not None:
            self.since += time.monotonic() - begin

    def close(self) -> None:
        self.bar.close()
        if self.board:
            self.board.close()
        if self.tracked:
            self.tracked.finish()
