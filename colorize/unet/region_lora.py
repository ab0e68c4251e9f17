"""Region LoRA: low-rank terms of the cross-attention's q, k and v, one pair of matrices per region kind.

ColorizeDiffusion v1.5 keeps one weight for the whole picture and adds, where a mask says so, a small term for the
figure ("fg") or for the background ("bg") (Image Referenced Sketch Colorization Based on Animation Creation Workflow,
CVPR 2025). The terms are never merged into the weight: both regions are computed in one step with the same weight.

Official names are `...attn2.to_q.lora_down_fg.weight`, below the weight they add to; XL files with the background
plugin write `lora_down_background` for the same thing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from .. import names

KINDS = ("fg", "bg")
PROJECTIONS = ("to_q", "to_k", "to_v")
XL_KINDS = ("foreground", "background")  # the same kinds in the names of XL files

_OFFICIAL = re.compile(r"^(?P<layer>.*)\.lora_(?P<way>down|up)_(?P<kind>fg|bg|foreground|background)\.weight$")

Ranks = tuple[int, int]
"""Ranks of one linear layer's figure and background terms; 0 = none."""


def rank_of(value: int | float, inputs: int, outputs: int) -> int:
    """The rank a configuration asks for: a whole number is the rank, a fraction counts of the layer's smaller side.

    Released configuration: figure 4, background 0.5. Raises ValueError outside 0..min(inputs, outputs).
    """
    rank = value if isinstance(value, int) else int(value * min(inputs, outputs))
    if not 0 <= rank <= min(inputs, outputs):
        raise ValueError(
            f"A region LoRA of rank {rank} (asked for: {value}) does not fit a layer of {inputs} x {outputs} weights; "
            f"choose 0 to {min(inputs, outputs)}, or a fraction of 1."
        )
    return rank


def region_ranks(state_dict: Mapping[str, Any], prefix: str = "") -> dict[str, Ranks]:
    """Ranks of every linear layer under `prefix` that has region terms, by the layer's name without the prefix.

    Only first dimensions are read, so packed (quantised) tensors and meta tensors do.
    """
    ranks: dict[str, list[int]] = {}
    for key, value in state_dict.items():
        if key.startswith(prefix) and (match := _OFFICIAL.match(key)) and match["way"] == "down":
            layer = match["layer"].removeprefix(prefix)
            ranks.setdefault(layer, [0, 0])[_number(match["kind"])] = int(value.shape[0])
    return {layer: (fg, bg) for layer, (fg, bg) in ranks.items()}


def _number(kind: str) -> int:
    return (KINDS if kind in KINDS else XL_KINDS).index(kind)


class RegionLinear(nn.Linear):
    """A linear layer without bias whose region terms are computed beside it. `forward` is the plain layer.

    Children carry the official names: lora_down_fg, lora_up_fg, lora_down_bg, lora_up_bg.
    """

    def __init__(self, inputs: int, outputs: int, ranks: Ranks) -> None:
        super().__init__(inputs, outputs, bias=False)
        for kind, rank in zip(KINDS, ranks, strict=True):
            if rank:
                down, up = nn.Linear(inputs, rank, bias=False), nn.Linear(rank, outputs, bias=False)
                nn.init.normal_(down.weight, std=1 / rank)
                nn.init.zeros_(up.weight)  # the term starts at zero
                self.add_module(f"lora_down_{kind}", down)
                self.add_module(f"lora_up_{kind}", up)

    def term(self, x: torch.Tensor, kind: str | None) -> torch.Tensor | None:
        """up(down(x)) of a region kind, or None where this layer has no such term."""
        if kind is None or not hasattr(self, f"lora_down_{kind}"):
            return None
        return getattr(self, f"lora_up_{kind}")(getattr(self, f"lora_down_{kind}")(x))


class LowRank(nn.Module):
    """One region term as a layer of its own, for hosts that manage every weight as a leaf module.

    operations: module that provides Linear(inputs, outputs, bias, device=, dtype=).
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        rank: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        operations: Any = nn,
    ) -> None:
        super().__init__()
        self.down = operations.Linear(inputs, rank, bias=False, device=device, dtype=dtype)
        self.up = operations.Linear(rank, outputs, bias=False, device=device, dtype=dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.up(self.down(x))


def to_module_names(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """`attn2.to_q.lora_down_fg.weight` -> `attn2.lora_fg.to_q.down.weight`; other names stay.

    ComfyUI moves and patches only modules without sub-modules, so the terms cannot live below the weight they add to.
    """

    def rename(match: re.Match) -> str:
        return f"{names.REGION_LORA}{KINDS[_number(match[3])]}.{match[1]}.{match[2]}.weight"

    pattern = re.compile(r"\.(to_[qkv])\.lora_(down|up)_(fg|bg|foreground|background)\.weight$")
    return {pattern.sub(rename, key): value for key, value in state_dict.items()}


def to_official_names(state_dict: Mapping[str, Any], kinds: tuple[str, str] = KINDS) -> dict[str, Any]:
    """The inverse of `to_module_names`. kinds: KINDS, or XL_KINDS for the names of XL files."""

    def rename(match: re.Match) -> str:
        return f".{match[2]}{names.REGION_LORA}{match[3]}_{kinds[KINDS.index(match[1])]}.weight"

    pattern = re.compile(r"\.lora_(fg|bg)\.(to_[qkv])\.(down|up)\.weight$")
    return {pattern.sub(rename, key): value for key, value in state_dict.items()}
