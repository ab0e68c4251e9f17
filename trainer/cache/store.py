"""Rows of tensors by content key, in a few large safetensors files; the read side maps them and copies nothing.

A store is a folder: recipe.json (what its rows are, in words and hashes) and shards rows-<hash>.safetensors, each with
    keys   (n, 16) uint8
    rows   (n, ...) all of one shape
A shard appears whole or not at all (temporary name, fsync, rename), and its name is derived from its keys: writers that
were interrupted, or run at the same time, lose nothing and disturb nobody. Nothing is ever overwritten.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from trainer.config import ConfigError

KEY_BYTES = 16
SHARD_BYTES = 256 * 2**20
"""A shard is written when its rows reach this size: what a power cut can lose."""
LEFTOVER_SECONDS = 3600
"""A temporary file that has not changed for so long was left behind."""


def digest(*parts: bytes) -> bytes:
    """The key of some bytes; their lengths count, so that ("ab", "c") and ("a", "bc") differ."""
    hashed = hashlib.blake2b(digest_size=KEY_BYTES)
    for part in parts:
        hashed.update(len(part).to_bytes(8, "little"))
        hashed.update(part)
    return hashed.digest()


def as_tensor(key: bytes) -> torch.Tensor:
    """(16,) uint8, as keys travel in a batch."""
    return torch.frombuffer(bytearray(key), dtype=torch.uint8)


def store_folder(root: Path, recipe: Mapping[str, Any]) -> Path:
    """Where the rows of a recipe lie: another recipe is another folder."""
    text = json.dumps(recipe, sort_keys=True)
    return root / f"{recipe['kind']}-{digest(text.encode()).hex()[:16]}"


class StoreWriter:
    """Collects rows and writes them in shards, one size to a shard, as `values` (a dtype).

    Use it as a context: what was added is kept, however the context ends.
    """

    def __init__(
        self,
        root: Path,
        recipe: Mapping[str, Any],
        values: torch.dtype = torch.float32,
        shard_bytes: int = SHARD_BYTES,
    ) -> None:
        self.folder, self.values, self.shard_bytes = store_folder(root, recipe), values, shard_bytes
        self.folder.mkdir(parents=True, exist_ok=True)
        unfinished = (*self.folder.glob("rows-*.safetensors.*.part"), *self.folder.glob("recipe.json.*.part"))
        for leftover in unfinished:  # of a writer that was killed; a living one is younger
            if time.time() - leftover.stat().st_mtime > LEFTOVER_SECONDS:
                leftover.unlink(missing_ok=True)
        _write_atomically(self.folder / "recipe.json", json.dumps(recipe, indent=1, sort_keys=True).encode())
        self.existing = Store(self.folder)
        self._added: set[bytes] = set()
        self._waiting: dict[tuple[int, ...], dict[bytes, torch.Tensor]] = {}

    def __contains__(self, key: bytes) -> bool:
        return key in self._added or key in self.existing

    def claim(self, key: bytes) -> bool:
        """Whether the row of a key is wanted: it is not there, and nobody has claimed it. Then it is to be kept."""
        if key in self:
            return False
        self._added.add(key)
        return True

    def add(self, key: bytes, row: torch.Tensor) -> None:
        """Keep a row; one that is there already is left as it is."""
        if self.claim(key):
            self.keep(key, row)

    def keep(self, key: bytes, row: torch.Tensor) -> None:
        """Keep the row of a key that was claimed."""
        waiting = self._waiting.setdefault(tuple(row.shape), {})
        waiting[key] = row.detach().to("cpu", self.values, copy=True)
        if len(waiting) * row.numel() * self.values.itemsize >= self.shard_bytes:
            self._write(self._waiting.pop(tuple(row.shape)))

    def flush(self) -> None:
        """Write what has been collected, smaller shards than usual."""
        while self._waiting:
            self._write(self._waiting.popitem()[1])

    def _write(self, rows: Mapping[bytes, torch.Tensor]) -> None:
        name = f"rows-{digest(*rows).hex()}.safetensors"
        part = self.folder / f"{name}.{os.getpid()}.part"
        keys = torch.stack([as_tensor(key) for key in rows])
        save_file({"keys": keys, "rows": torch.stack(list(rows.values()))}, part)
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(self.folder / name)

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self.flush()


class Store:
    """Reads rows by key. Opening reads the keys only (16 bytes a row, and 12 for looking them up)."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._open()

    def _open(self) -> None:
        self._shards: list[torch.Tensor] = []
        keys, places = [np.zeros((0, KEY_BYTES), np.uint8)], [np.zeros((0, 2), np.uint32)]
        for path in sorted(self.folder.glob("rows-*.safetensors")):
            try:
                with safe_open(path, framework="pt") as file:
                    shard_keys, rows = file.get_tensor("keys").numpy(), file.get_tensor("rows")
            except (SafetensorError, OSError) as error:
                raise ConfigError(
                    f"{path} is damaged ({error}); delete this file and run `python -m trainer cache` again, which "
                    "fills the gap."
                ) from None
            count = len(shard_keys)
            keys.append(shard_keys)
            places.append(np.stack([np.full(count, len(self._shards)), np.arange(count)], axis=1).astype(np.uint32))
            self._shards.append(rows)
        self._keys, self._places = np.concatenate(keys), np.concatenate(places)
        order = np.argsort(_first_half(self._keys), kind="stable")
        self._keys, self._places = self._keys[order], self._places[order]
        self._sorted = _first_half(self._keys)

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder}  # a loader process maps the files itself

    def __setstate__(self, state: dict[str, Any]) -> None:
        Store.__init__(self, state["folder"])

    def __len__(self) -> int:
        return len(self._keys)

    def _find(self, key: bytes) -> int:
        """Which row has the key; -1 for none."""
        wanted = np.frombuffer(key, np.uint8)
        place = int(np.searchsorted(self._sorted, _first_half(wanted[None])[0]))
        while place < len(self._keys) and (self._keys[place, :8] == wanted[:8]).all():
            if (self._keys[place] == wanted).all():
                return place
            place += 1
        return -1

    def __contains__(self, key: bytes) -> bool:
        return self._find(key) >= 0

    def get(self, key: bytes) -> torch.Tensor | None:
        """The row, a view of the mapped file that must not be written to; None when there is none."""
        place = self._find(key)
        if place < 0:
            return None
        shard, row = self._places[place]
        return self._shards[shard][row]


def _first_half(keys: np.ndarray) -> np.ndarray:
    """(n, 16) uint8 -> (n,) uint64 to sort and search by."""
    return np.ascontiguousarray(keys[:, :8]).view(np.uint64).reshape(-1)


def _write_atomically(path: Path, content: bytes) -> None:
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_bytes(content)
    part.replace(path)
