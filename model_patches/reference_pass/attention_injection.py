"""Attention injection: self-attention of the picture also reads the tokens of the noised reference.

In every step the reference's run (reference_pass.py) stores the keys and values that each self-attention layer makes of
norm1(x); in the picture's run that layer attends to [own ; stored]. (The released code stores norm1(x) and projects it
again: the same numbers for more work.)
Cross-attention and feed-forward are unchanged, so regions, LoRAs and guidance work as without it. Formulas of the two
variants and source: colorize/unet/injection.py.

It hangs on ComfyUI's attention override, and calls the one that was there before. A self-attention layer that another
pack replaces as a whole is not injected.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from comfy.ldm.modules.attention import SpatialTransformer, optimized_attention_masked

from ...colorize.unet.injection import even_attention, released_attention
from ..model.attention import in_tiles
from ..payload import with_patch
from .reference_pass import Recorded, Source, check_window

VARIANTS = ("even", "released")
WITHOUT_REFERENCE = 1  # ComfyUI's number of the negative condition
OVERRIDE = "optimized_attention_override"


@dataclass(frozen=True, eq=False)
class Injection:
    """The settings of the node Attention Injection."""

    source: Source
    fidelity: float = 0.5
    """How much the picture keeps to itself, 0..1 (see colorize/unet/injection.py)."""
    variant: str = "even"
    """One of VARIANTS."""
    start: float = 0.0
    """Share of the run from which it acts, 0..1."""
    end: float = 1.0
    """Share of the run up to which it acts, 0..1."""
    title = "Attention Injection"

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise ValueError(f"variant is {self.variant!r}; choose one of {', '.join(VARIANTS)}.")
        if not 0 <= self.fidelity <= 1:
            raise ValueError(f"fidelity is {self.fidelity}; it lies between 0 and 1.")
        check_window(self.start, self.end)

    @property
    def off(self) -> bool:
        """Whether it changes nothing: no step lies beyond 1.0, and fidelity 1 of "even" leaves no weight."""
        return self.start >= 1 or (self.variant == "even" and self.fidelity >= 1)

    def record(self, network: torch.nn.Module, options: dict, kept: dict) -> dict:
        """See reference_pass.Effect. kept: place of a layer -> its keys and values, each (B, N, C)."""
        return Recorder(kept, options.get(OVERRIDE), last_place(network)).patched(options)

    def apply(self, options: dict, kept: dict, pictures: int) -> dict:
        """See reference_pass.Effect."""
        without = [
            condition * pictures + picture
            for condition, number in enumerate(options.get("cond_or_uncond") or ())
            if number == WITHOUT_REFERENCE
            for picture in range(pictures)
        ]
        return Reader(kept, options.get(OVERRIDE), self, without).patched(options)


def last_place(network: Any) -> tuple | None:
    """The self-attention layer of ComfyUI's U-Net after which nothing of a run is recorded; None when blocks without
    attention follow."""
    transformers = [part for part in network.output_blocks[-1] if isinstance(part, SpatialTransformer)]
    if not transformers:
        return None
    return ("output", len(network.output_blocks) - 1, len(transformers[-1].transformer_blocks) - 1)


class SelfAttention:
    """The patches of one run of the U-Net: `attend_at` in place of every self-attention, all else as it was."""

    def __init__(self, kept: dict, others: Any) -> None:
        """others: the attention override that was there before, or None."""
        self.kept, self.others = kept, others
        self._place: tuple | None = None  # the layer that is about to attend
        self._tokens = 0  # of its feature map

    def patched(self, options: dict) -> dict:
        """A copy of transformer_options with these patches."""
        options = with_patch(options, "attn1_patch", self.enter)
        options = with_patch(options, "attn1_output_patch", self.leave, first=True)
        return {**options, OVERRIDE: self.attend}

    def enter(
        self, n: torch.Tensor, context: torch.Tensor | None, value: torch.Tensor | None, extra: dict[str, Any]
    ) -> tuple:
        """attn1_patch: a self-attention comes next."""
        self._place = (*extra["block"], extra.get("block_index", 0))
        self._tokens = math.prod(extra["activations_shape"][-2:])
        return n, context, value

    def leave(self, n: torch.Tensor, extra: dict[str, Any]) -> torch.Tensor:
        """attn1_output_patch: it is over, also where another pack replaced it."""
        self._place = None
        return n

    def attend(
        self,
        attention: Callable[..., torch.Tensor],
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        heads: int,
        *args: Any,
        **kwargs: Any,
    ) -> torch.Tensor:
        """optimized_attention_override, with the arguments of ComfyUI's attention functions."""

        def plain(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None = None) -> Any:
            options = kwargs if mask is None else {**kwargs, "mask": mask}
            if self.others is not None:
                return self.others(attention, q, k, v, heads, *args, **options)
            function = attention if mask is None else optimized_attention_masked  # not all know masks
            return function(q, k, v, heads, *args, **options)

        place, self._place = self._place, None
        if place is None or args or kwargs.get("mask") is not None:
            return plain(q, k, v)
        return self.attend_at(place, q, k, v, plain)

    def attend_at(
        self, place: tuple, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, plain: Callable[..., torch.Tensor]
    ) -> torch.Tensor:
        """The result (B, N, C) of the layer at `place`."""
        raise NotImplementedError


class Recorder(SelfAttention):
    """Keeps the keys and values of the reference's run."""

    def __init__(self, kept: dict, others: Any, last: tuple | None) -> None:
        super().__init__(kept, others)
        self.last = last

    def attend_at(
        self, place: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, plain: Callable[..., torch.Tensor]
    ) -> torch.Tensor:
        own = self._tokens  # others may have appended tokens, cut the queries into tiles, or merged them
        self.kept[place] = k[:, :own], v[:, :own]
        if place != self.last:
            return plain(q, k, v)
        if torch.compiler.is_compiling():  # which cannot leave a network half-way
            return q
        raise Recorded


class Reader(SelfAttention):
    """Hands them to the picture's run."""

    def __init__(self, kept: dict, others: Any, injection: Injection, without: Sequence[int]) -> None:
        """without: the rows of the condition without reference."""
        super().__init__(kept, others)
        self.injection, self.without = injection, without

    def attend_at(
        self, place: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, plain: Callable[..., torch.Tensor]
    ) -> torch.Tensor:
        if place not in self.kept:
            return plain(q, k, v)
        (keys, values), without = self.kept[place], self.without
        if (tiles := len(q) // len(k)) > 1:  # HyperTile: a tile looks at itself, and at all of the reference
            k, v = in_tiles(k, len(q)), in_tiles(v, len(q))
            without = [row * tiles + tile for row in without for tile in range(tiles)]
        if len(keys) != len(k):
            keys, values = (stored.repeat_interleave(len(k) // len(stored), dim=0) for stored in (keys, values))
        own = k.shape[1]
        k, v = torch.cat([k, keys], dim=1), torch.cat([v, values], dim=1)
        if self.injection.variant == "even":
            return even_attention(q, k, v, own, self.injection.fidelity, plain)
        return released_attention(q, k, v, own, self.injection.fidelity, without, plain)
