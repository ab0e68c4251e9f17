"""Patches of other packs, brought together with what a `Guide` and a sketch ask for.

ComfyUI lets a pack replace a cross-attention layer (IPAdapter, InstantID, Attention Couple) or change what it reads.
With a guide that splits regions or scales the reference, the replaced layer would be bypassed, and a change of the
tokens would meet the first region's alone. So a replacement counts for what it adds to plain cross-attention, and a
change is made to the tokens of every region. Without such a guide both do what they do in any model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from comfy.ldm.modules.attention import optimized_attention

from ..payload import Guide, with_patch

QUERIES = "colorize_queries"  # in the extra options of a block: what its cross-attention is asked
Place = tuple[str, int, int]  # kind and number of a U-Net block, number of the transformer block in it


def with_others(options: dict[str, Any], guide: Guide, network: Any) -> dict[str, Any]:
    """transformer_options in which other packs' patches of cross-attention go together with the guide."""
    replaced = options.get("patches_replace", {}).get("attn2") or {}
    patches = options.get("patches", {}).get("attn2_patch") or []
    if guide.split is None and guide.strengths is None and not guide.off or not (replaced or patches):
        return options
    together = {**options.get("patches", {}), "attn2_patch": [RegionTokens(patches, guide)]}
    options = {**options, "patches": together}
    if replaced:
        layers = network.reference_layers()
        added = {place: Added(patch, guide, layers) for place, patch in replaced.items()}
        options["patches_replace"] = {**options["patches_replace"], "attn2": added}
    return options


class RegionTokens:
    """The attn2 patch in place of all others: they see and change the tokens of every region."""

    def __init__(self, patches: Sequence[Callable], guide: Guide) -> None:
        self.patches, self.guide = tuple(patches), guide

    def __call__(self, n: Any, context: Any, value: Any, extra: dict[str, Any]) -> tuple:
        queries, context, value = self._changed(n, context, value, extra)
        split = self.guide.split
        if split is not None and self.patches:
            sets = [self._changed(n, tokens, tokens, extra)[1:] for tokens in split.tokens]
            self.guide.handed.update(tokens=[keys for keys, _ in sets], values=[values for _, values in sets])
        extra[QUERIES] = queries
        return queries, context, value

    def _changed(self, n: Any, context: Any, value: Any, extra: dict[str, Any]) -> tuple:
        for patch in self.patches:
            n, context, value = patch(n, context, value, extra)
        return n, context, value


class Added:
    """A replacement of a cross-attention layer as what it adds to the plain layer."""

    def __init__(self, patch: Callable, guide: Guide, layers: dict[Place, Any]) -> None:
        self.patch, self.guide, self.layers = patch, guide, layers

    def __call__(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, extra: dict[str, Any]) -> torch.Tensor:
        queries = extra.pop(QUERIES)
        replaced = self.patch(q, k, v, extra)
        layer = self.layers[(*extra["block"], extra.get("block_index", 0))]
        plain = optimized_attention(q, k, v, layer.heads, attn_precision=layer.attn_precision)
        if replaced.shape != plain.shape:
            raise ValueError(
                f"The patch {_name(self.patch)} of another node answers {tuple(replaced.shape)} where cross-attention "
                f"has {tuple(plain.shape)}: it does not go with figure masks or a strength of the reference. Remove "
                "that node, or use mode vanilla with strength 1."
            )
        if self.guide.split is None:
            strength = 1.0 if self.guide.strengths is None else self.guide.strengths[layer.place]
            own = torch.zeros_like(plain) if self.guide.off else plain * strength
        else:
            own = layer.attended(queries, self.guide, None, None, None, extra)
        return own + (replaced - plain)


RESIZING = ("input_block_patch", "input_block_patch_after_skip")


def with_control(control: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The controls and transformer_options of a call in which the sketch goes with patches that shrink the picture.

    Deep Shrink (PatchModelAddDownscale) makes the U-Net work at half the size from some block on; ComfyUI leaves out
    the controls behind it, because their size is another one. Here they are added by a patch of our own, before those
    of others, which brings them to the size of the block.
    """
    patches = options.get("patches", {})
    maps = (control or {}).get("input")
    if not maps or not any(patches.get(name) for name in RESIZING):
        return control, options
    return {**control, "input": []}, with_patch(options, "input_block_patch", AddControl(maps), first=True)


class AddControl:
    """The input block patch that adds the maps of ComfyUI's list of controls, deepest first, in any size."""

    def __init__(self, maps: Sequence[torch.Tensor | None]) -> None:
        self.maps = tuple(reversed(maps))

    def __call__(self, h: torch.Tensor, options: dict[str, Any]) -> torch.Tensor:
        number = options["block"][1]
        values = self.maps[number] if number < len(self.maps) else None
        if values is None:
            return h
        if values.shape[-2:] != h.shape[-2:]:
            values = F.interpolate(values.float(), size=h.shape[-2:], mode="bilinear", antialias=True)
        return h + values.to(h)


def _name(patch: Any) -> str:
    """What tells a person whose patch it is."""
    kind = patch if hasattr(patch, "__qualname__") else type(patch)
    return f"{kind.__qualname__} ({kind.__module__})"
