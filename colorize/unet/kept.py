"""What a cross-attention layer has to compute only once for a run: reference tokens and weights stay the same.

Keys and values of the tokens, and the query projection of every kind of region with its term added (x W + x d u =
x (W + d u)). The projections are made by the layer itself, so whatever its weights are (patched, cast, quantised), they
are asked the way a step would.

Shape legend: B batch, M tokens, D width of a token, C width of the layer, R regions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch


class RegionAttention(Protocol):
    """What split attention asks of a cross-attention layer."""

    def project(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """The plain projection "to_q", "to_k" or "to_v" of x (..., width in) -> (..., C)."""

    def term(self, name: str, x: torch.Tensor, kind: str | None) -> torch.Tensor | None:
        """The region term that is added to it, or None."""


@dataclass(frozen=True, eq=False)
class KeptLayer:
    """Of one layer, for tokens that stay the same."""

    keys: tuple[torch.Tensor, ...]
    """R tensors (B, M, C)"""
    values: tuple[torch.Tensor, ...]
    """R tensors (B, M, C)"""
    queries: Mapping[str | None, torch.Tensor]
    """kind of a region with a term -> (width in, C): what its queries are multiplied with"""


def keys_and_values(
    layer: RegionAttention,
    tokens: torch.Tensor,  # (B, M, D)
    shown: torch.Tensor,  # (B, M, D) what the values are made of
    kind: str | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values (B, M, C) of one region."""
    key, value = layer.project("to_k", tokens), layer.project("to_v", shown)
    if (term := layer.term("to_k", tokens, kind)) is not None:
        key = key + term
    if (term := layer.term("to_v", shown, kind)) is not None:
        value = value + term
    return key, value


def keep(
    layer: RegionAttention, tokens: Sequence[torch.Tensor], kinds: Sequence[str | None], width: int = 0
) -> KeptLayer:
    """What can be kept of a layer for tokens (R tensors (B, M, D)) of regions of these kinds.

    width: of the layer's input, to keep the query projections, too; 0 leaves them out.
    """
    both = [keys_and_values(layer, own, own, kind) for own, kind in zip(tokens, kinds, strict=True)]
    queries: dict[str | None, torch.Tensor] = {}
    every = torch.eye(width, dtype=tokens[0].dtype, device=tokens[0].device)
    for kind in dict.fromkeys(kinds) if width else ():
        if (term := layer.term("to_q", every, kind)) is not None:
            queries[kind] = layer.project("to_q", every) + term
    keys, values = zip(*both, strict=True)
    return KeptLayer(keys, values, queries)
