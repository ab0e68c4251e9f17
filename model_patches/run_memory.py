"""What the steps of a run share: which rows show a reference, and what the layers compute of its tokens only once.

A row whose tokens are all zero (the condition without reference) has keys and values of zero, so its cross-attention
answers exactly zero and is not computed. The others' keys, values and query projections are made in the first step
that has these tokens (colorize/unet/kept.py). Nothing of it outlives the run: a `RunMemory` is made with the conds.

Where anything but our layers decides what cross-attention reads (patches of other packs, weights that hooks change from
step to step, compiled networks, whose traces would keep what was decided for another run) nothing is shared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import comfy.conds
import torch
import torch.nn.functional as F

from ..colorize.unet.kept import KeptLayer, keep
from .model import compiled

MEMORY = "colorize_memory"  # its name among ComfyUI's conds
BYTES = 256 << 20  # more is not kept: it would take memory that ComfyUI counts as free
WIDEST = 640  # channels of a layer whose query projections are kept; wider ones have many weights and few queries
CALLS = 4  # different calls of the network in one step whose tokens are kept: conditions that run apart, areas


@dataclass(frozen=True, eq=False)
class Shown:
    """The rows of one call that show a reference, and what is kept of their tokens."""

    given: tuple[torch.Tensor, ...] = field(repr=False)
    """(B, M, D) tokens of every region, of all rows."""
    rows: tuple[int, ...] | None
    """None: all of them."""
    network: Any = field(repr=False)
    kinds: tuple[str | None, ...]
    kept: list[KeptLayer] = field(default_factory=list, repr=False)
    """Of every cross-attention; empty until it is asked for."""

    @property
    def tokens(self) -> list[torch.Tensor]:
        """(b, M, D) of every region, of these rows."""
        return [pick(values, self.rows) for values in self.given]

    def layers(self) -> tuple[KeptLayer, ...] | None:
        """What is kept of every cross-attention; None where it would be too much."""
        if not self.kept:
            layers = self.network.reference_layers_in_order()
            tokens = self.tokens
            values = 2 * sum(own[..., 0].numel() for own in tokens) * sum(layer.inner for layer in layers)
            if not layers or values * tokens[0].element_size() > BYTES:
                return None
            self.kept[:] = [
                keep(layer, tokens, self.kinds, layer.to_q.in_features if layer.inner <= WIDEST else 0)
                for layer in layers
            ]
        return tuple(self.kept)


Pairs = Sequence[tuple[torch.Tensor, torch.Tensor]]
"""Keys and values (b, S_i, C_i) of every reader of what a picture shows, in order."""


class RunMemory:
    """Of the calls of one run."""

    def __init__(self) -> None:
        self._calls: list[Shown] = []
        self._features: dict[tuple[int, int, int], tuple[Any, Pairs]] = {}
        self._compiled: dict[int, bool] = {}

    def is_compiled(self, network: torch.nn.Module) -> bool:
        """Whether torch.compile has to do with any part of a network of this run; looked for once."""
        if id(network) not in self._compiled:
            self._compiled[id(network)] = any(map(compiled.is_compiled, network.modules()))
        return self._compiled[id(network)]

    def shown(self, network: Any, tokens: Sequence[torch.Tensor], kinds: tuple[str | None, ...]) -> Shown:
        """What a call of `network` with these tokens (B, M, D) per region shows; the same object while they stay."""
        for known in self._calls:
            if known.network is network and known.kinds == kinds and _equal(known.given, tokens):
                return known
        shown = torch.stack([values.flatten(1).any(dim=1) for values in tokens]).any(dim=0).tolist()
        rows = None if all(shown) else tuple(row for row, is_shown in enumerate(shown) if is_shown)
        found = Shown(tuple(tokens), rows, network, kinds)
        self._calls = [*self._calls, found][-CALLS:]
        return found

    def features(self, network: Any, features: Any, tokens: Sequence[torch.Tensor]) -> Pairs:
        """Keys and values of what `network` reads of pictures, made once; empty where it would be too much.

        tokens: (b, S_i, C_i) of every reader, what `features` says in this call.
        """
        key = (id(network), id(features), len(tokens[0]))
        if key not in self._features:
            size = 2 * sum(values.numel() * values.element_size() for values in tokens)
            made = network.keys_and_values(tokens) if size <= BYTES else ()
            self._features[key] = (features, made)  # the features themselves, so that their id stays theirs
        return self._features[key][1]


class MemoryCond(comfy.conds.CONDConstant):
    """A RunMemory as a cond: conditions that run in one call share the first one's."""

    def can_concat(self, other: Any) -> bool:
        return True


def may_share(memory: RunMemory, patcher: Any, network: Any, options: Mapping[str, Any]) -> bool:
    """Whether our layers alone decide what the cross-attentions of a call read, with weights that stay the same."""
    if options.get("patches", {}).get("attn2_patch") or options.get("patches_replace", {}).get("attn2"):
        return False
    if getattr(patcher, "hook_patches", None):
        return False
    return not memory.is_compiled(network)


def pick(values: torch.Tensor, rows: Sequence[int] | None) -> torch.Tensor:
    """The rows (b, ...) of values (B, ...); None: all. Neighbours are not copied."""
    if rows is None:
        return values
    if _neighbours(rows):
        return values.narrow(0, rows[0], len(rows))
    return values[list(rows)]


def put(values: torch.Tensor, rows: Sequence[int] | None, count: int) -> torch.Tensor:
    """The inverse of `pick`: (count, ...) with zeros in the other rows."""
    if rows is None:
        return values
    if _neighbours(rows):
        return F.pad(values, [0, 0] * (values.ndim - 1) + [rows[0], count - rows[0] - len(rows)])
    out = values.new_zeros(count, *values.shape[1:])
    out[list(rows)] = values
    return out


def _neighbours(rows: Sequence[int]) -> bool:
    return list(rows) == list(range(rows[0], rows[0] + len(rows)))


def _equal(known: Sequence[torch.Tensor], given: Sequence[torch.Tensor]) -> bool:
    return len(known) == len(given) and all(
        a.shape == b.shape and a.device == b.device and a.dtype == b.dtype and torch.equal(a, b)
        for a, b in zip(known, given, strict=True)
    )
