"""What an evaluation has measured so far, a file per batch: it survives a kill, and processes share it.

A batch's file holds the numbers of its pairs by setting, what all settings share, and for the first batches their
sheet. Memory holds one number per pair; features, of which there are thousands per picture, stay on the disk and are
read in order (metrics/frechet.py). Files lie in a folder named after everything the numbers depend on, so a command
with other settings never meets them, and the same command goes on where it was stopped. When the report is written
the folder goes.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from trainer.metrics.frechet import Rows
from trainer.models import checkpoint

Numbers = Mapping[str, "torch.Tensor | Rows"]
"""Measurements of all pairs by name: (P, ...), or features that are read when they are needed."""
COMMON, SHEET = "common", "sheet"
FEATURES = (":result", ":truth")
"""Ends of the names of features (B, D), which are read from the disk when they are needed."""


class Parts:
    """The measurements of one method under one protocol. settings: titles, in the order of the report."""

    def __init__(self, folder: Path, facts: Mapping[str, Any], settings: Sequence[str]) -> None:
        """facts: everything the numbers depend on, as JSON values."""
        text = json.dumps({**facts, "settings": list(settings)}, sort_keys=True)
        self.folder = folder / hashlib.sha256(text.encode()).hexdigest()[:24]
        self.settings = tuple(settings)

    def file(self, start: int) -> Path:
        """Of the batch that begins at pair `start`."""
        return self.folder / f"{start:09d}.safetensors"

    def holds(self, start: int) -> bool:
        """Whether a batch is measured and its file whole."""
        try:
            with safe_open(self.file(start), framework="pt") as file:
                return bool(file.keys())
        except (OSError, SafetensorError):
            return False

    def write(
        self,
        start: int,
        values: Mapping[str, Mapping[str, torch.Tensor]],  # by title: the numbers of a batch's pairs
        common: Mapping[str, torch.Tensor],
        sheet: np.ndarray | None,  # (H, W, 3) uint8
    ) -> None:
        """Keep a batch, whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        numbered = {str(self.settings.index(title)): own for title, own in values.items()} | {COMMON: common}
        tensors = {f"{who}/{name}": value for who, own in numbered.items() for name, value in own.items()}
        if sheet is not None:
            tensors[SHEET] = torch.from_numpy(sheet)
        checkpoint.write_tensors(self.file(start), {k: v.clone() for k, v in tensors.items()}, {})

    def read(self, starts: Sequence[int]) -> dict[str, Numbers]:
        """By title: the numbers (P, ...) of all pairs, and features as Rows; what is common stands in each."""
        parts: dict[str, list[torch.Tensor]] = {}
        for start in starts:
            with safe_open(self.file(start), framework="pt") as file:
                for name in file.keys():
                    if name != SHEET and not name.endswith(FEATURES):
                        parts.setdefault(name, []).append(file.get_tensor(name))
                features = [name for name in file.keys() if name.endswith(FEATURES)]
        joined: dict[str, torch.Tensor | Rows] = {name: torch.cat(values) for name, values in parts.items()}
        joined |= {name: Rows(functools.partial(self._chunks, name, starts)) for name in features}
        found: dict[str, Numbers] = {}
        for number, title in enumerate(self.settings):
            who = {COMMON: 0, str(number): 1}
            own = {name.partition("/")[2]: value for name, value in joined.items() if name.partition("/")[0] in who}
            found[title] = own
        return found

    def _chunks(self, name: str, starts: Sequence[int]) -> Iterator[torch.Tensor]:
        for start in starts:
            with safe_open(self.file(start), framework="pt") as file:
                yield file.get_tensor(name)

    def sheets(self, starts: Sequence[int]) -> list[np.ndarray]:
        """The sheets of these batches, where there are any."""
        found = []
        for start in starts:
            with safe_open(self.file(start), framework="pt") as file:
                if SHEET in file.keys():
                    found.append(file.get_tensor(SHEET).numpy())
        return found

    def remove(self) -> None:
        """When the report is written: another run of the command measures anew, maybe with other code."""
        shutil.rmtree(self.folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # not empty: what other commands have not finished
            self.folder.parent.rmdir()


def arrays(numbers: Numbers) -> dict[str, np.ndarray]:
    """What every pair has a number of, without the features."""
    return {name: value.numpy() for name, value in numbers.items() if isinstance(value, torch.Tensor)}


def identity(path: str | Path | None) -> list[Any] | None:
    """What tells a file from another in its place: path, size and time of the last change."""
    if not path:
        return None
    file = Path(path).resolve()
    status = file.stat() if file.is_file() else None
    return [str(file), *((status.st_size, status.st_mtime_ns) if status else ())]
