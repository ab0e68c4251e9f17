"""Where a stage gets its encodings: computed, remembered by picture number, or read from the cache folder."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from trainer.cache.recipes import KINDS, WHITE_KEY, recipes, row_key
from trainer.cache.store import Store, store_folder
from trainer.config import Config
from trainer.pictures import Batch

log = logging.getLogger("trainer")

KEY = "_key"
"""After a part's name in a batch: (B, 16) uint8, the key of its content."""


class Encodings:
    """Computes everything. The other two kinds differ in what they spare."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._white: torch.Tensor | None = None

    def rows(
        self,
        kind: str,  # of recipes.KINDS
        batch: Batch,
        compute: Callable[[], torch.Tensor],  # -> the rows of all chosen samples, float32
        chosen: torch.Tensor | None = None,  # (B,) booleans; None: all samples
        keep: bool = True,  # False: some depend on a threshold besides the parts of their kind
    ) -> torch.Tensor:
        """The encodings of the chosen samples of a batch."""
        return compute()

    def white(self, compute: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Local tokens (1, N, D) of a white reference, the same in every step."""
        if self._white is None:
            self._white = compute()
        return self._white


class Remembered(Encodings):
    """Keeps what was computed in main memory, by picture number (data.cache)."""

    def __init__(self, device: torch.device, kinds: Sequence[str]) -> None:
        super().__init__(device)
        self._kept: dict[str, dict[int, torch.Tensor]] = {kind: {} for kind in kinds}

    def rows(
        self,
        kind: str,
        batch: Batch,
        compute: Callable[[], torch.Tensor],
        chosen: torch.Tensor | None = None,
        keep: bool = True,
    ) -> torch.Tensor:
        kept = self._kept.get(kind)
        if kept is None or not keep:
            return compute()
        every = batch[KINDS[kind].number]
        numbers = (every if chosen is None else every[chosen.to(every.device)]).tolist()
        if any(number not in kept for number in numbers):
            for number, row in zip(numbers, compute(), strict=True):
                kept.setdefault(number, row.cpu())
        return torch.stack([kept[number] for number in numbers]).to(self.device)


class TensorCache(Encodings):
    """Reads what `python -m trainer cache` wrote (data.cache_folder); what is not there is computed, and said once.

    What depends on a threshold was never written, so nothing needs to know about `keep` here.
    """

    def __init__(self, config: Config, device: torch.device, kinds: Sequence[str]) -> None:
        super().__init__(device)
        self.stores = open_stores(config, kinds)
        self.missing: dict[str, int] = {}
        """Kind -> rows that had to be computed so far."""

    def rows(
        self,
        kind: str,
        batch: Batch,
        compute: Callable[[], torch.Tensor],
        chosen: torch.Tensor | None = None,
        keep: bool = True,
    ) -> torch.Tensor:
        store = self.stores.get(kind)
        if store is None:
            return compute()
        found = [store.get(key) for key in _row_keys(batch, kind, chosen)]
        computed = torch.empty(0)
        if missing := sum(row is None for row in found):
            if kind not in self.missing:
                log.warning(
                    "%s of some pictures are not in %s and are computed as they come, with the encoder in memory; "
                    "`python -m trainer cache` with this configuration adds them.", kind, store.folder,
                )  # fmt: skip
            self.missing[kind] = self.missing.get(kind, 0) + missing
            computed = compute()  # in rows that are in the cache the pixels may be blank; these are not used
        rows = [computed[n] if row is None else row.to(self.device).float() for n, row in enumerate(found)]
        return torch.stack(rows)

    def white(self, compute: Callable[[], torch.Tensor]) -> torch.Tensor:
        store = self.stores.get("tokens")
        row = None if store is None else store.get(WHITE_KEY)
        return super().white(compute if row is None else lambda: row.to(self.device).float()[None])


def build_encodings(config: Config, device: torch.device, kinds: Sequence[str]) -> Encodings:
    """What data.cache_folder and data.cache ask for, of the kinds that a run reads again and again."""
    if config.data.cache_folder:
        return TensorCache(config, device, kinds)
    return Remembered(device, kinds) if config.data.cache else Encodings(device)


class CachedParts:
    """What the data set asks while it reads a sample: which pictures it need not decode.

    Travels to loader processes, each of which maps the files for itself.
    """

    def __init__(self, config: Config, kinds: Sequence[str]) -> None:
        self.stores = open_stores(config, kinds)
        self.pixels = frozenset({"reference"} if config.loss.reference_inpaint else ())
        """Parts of a sample whose pixels are looked at all the same: references that lose parts to white (stage xl)."""
        self._skips = True

    def whole(self) -> CachedParts:
        """The same, for a data set that decodes everything."""
        parts = copy.copy(self)
        parts._skips = False
        return parts

    def encoded(self, keys: Mapping[str, bytes]) -> set[str]:
        """Those of the parts with these keys of which every encoding that the run wants is in the cache."""
        if not self._skips:
            return set()
        wanted: dict[str, list[str]] = {}
        for kind in self.stores:
            if KINDS[kind].parts[0] in keys:
                wanted.setdefault(KINDS[kind].parts[0], []).append(kind)
        return {
            part for part, kinds in wanted.items() if all(row_key(keys, kind) in self.stores[kind] for kind in kinds)
        }


def open_stores(config: Config, kinds: Sequence[str]) -> dict[str, Store]:
    """Kind -> its rows in data.cache_folder."""
    root = Path(config.data.cache_folder)
    return {kind: Store(store_folder(root, recipe)) for kind, recipe in recipes(config, kinds).items()}


def _row_keys(batch: Batch, kind: str, chosen: torch.Tensor | None) -> list[bytes]:
    parts = KINDS[kind].parts
    columns = [batch[part + KEY].cpu() for part in parts]
    if chosen is not None:
        columns = [keys[chosen.cpu()] for keys in columns]
    return [
        row_key({part: bytes(key.tolist()) for part, key in zip(parts, keys, strict=True)}, kind)
        for keys in zip(*columns, strict=True)
    ]
