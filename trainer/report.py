"""What a run tells: log.jsonl always, tensorboard when installed, a progress bar, sample sheets."""

from __future__ import annotations

import json
import logging
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

log = logging.getLogger("trainer")


def peak_memory(device: torch.device) -> float:
    """Largest memory use of this process so far, in GiB: of the accelerator, or the resident set on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    try:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    except ImportError:  # Windows
        return 0.0


class Reporter:
    """Collects loss terms and writes their means every `every` steps. Silent on all but the main process."""

    def __init__(self, output: Path, start: int, steps: int, samples_per_step: int, every: int, main: bool):
        self.output, self.every, self.main = output, every, main
        self.samples_per_step = samples_per_step
        self.sums: dict[str, float] = defaultdict(float)
        self.count = 0
        self.since = time.monotonic()
        self.board = self._tensorboard() if main else None
        self.bar = tqdm(total=steps, initial=start, disable=not main, unit="step", dynamic_ncols=True)

    def _tensorboard(self):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            log.info("tensorboard is not installed; log.jsonl is written all the same")
            return None
        return SummaryWriter(self.output / "tensorboard")

    def step(
        self, step: int, terms: dict[str, torch.Tensor], lr: float, grad_norm: float, device: torch.device
    ) -> None:
        """Count one optimiser step that ended as number `step` (from 1)."""
        for name, value in terms.items():
            self.sums[name] += float(value.detach())
        self.count += 1
        self.bar.update()
        if step % self.every:
            return
        seconds = time.monotonic() - self.since
        line = {"step": step, **{name: total / self.count for name, total in self.sums.items()}}
        line |= {
            "lr": lr,
            "grad_norm": grad_norm,
            "images_per_s": self.count * self.samples_per_step / seconds,
            "s_per_step": seconds / self.count,
            "peak_gib": peak_memory(device),
        }
        self._write(line)
        self.bar.set_postfix(
            {"loss": f"{sum(self.sums.values()) / self.count:.4f}", "img/s": f"{line['images_per_s']:.1f}"}
        )
        self.sums.clear()
        self.count = 0
        self.since = time.monotonic()

    def _write(self, line: dict[str, float]) -> None:
        if not self.main:
            return
        with (self.output / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({k: round(v, 8) if isinstance(v, float) else v for k, v in line.items()}) + "\n")
        for name, value in line.items() if self.board else ():
            if name != "step":
                self.board.add_scalar(name, value, line["step"])

    def sheet(self, step: int, image: np.ndarray) -> None:
        """Write a sample sheet (H, W, 3) uint8 of the state after `step`; its time does not count as training time."""
        if self.main:
            (self.output / "samples").mkdir(exist_ok=True)
            Image.fromarray(image).save(self.output / "samples" / f"step-{step:08d}.png")
            if self.board:
                self.board.add_image("samples", image, step, dataformats="HWC")

    def pause(self):
        """A context whose time is left out of the throughput: saving, sampling."""
        return _Pause(self)

    def close(self) -> None:
        self.bar.close()
        if self.board:
            self.board.close()


class _Pause:
    def __init__(self, reporter: Reporter):
        self.reporter = reporter

    def __enter__(self):
        self.begin = time.monotonic()

    def __exit__(self, *error):
        self.reporter.since += time.monotonic() - self.begin
