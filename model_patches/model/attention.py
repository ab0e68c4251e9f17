"""The attention layers of our U-Nets inside ComfyUI, and the U-Net that has them.

They follow the `Guide` of a step (payload.py) and know region weights; without a guide they are ComfyUI's own layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from comfy.ldm.modules.attention import BasicTransformerBlock, CrossAttention, SpatialTransformer, optimized_attention
from comfy.ldm.modules.diffusionmodules.openaimodel import Downsample, UNetModel, Upsample

from ...colorize.distilled import Distilled
from ...colorize.unet.kept import KeptLayer
from ...colorize.unet.region_lora import KINDS, LowRank, Ranks
from ...colorize.unet.split_attention import split_attention
from ...colorize.unet.strengths import attention_places
from ..payload import Guide
from ..run_memory import Pairs, pick, put


def stored_attention(layer: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """The argument that hands on which attention a file asks for in this layer (such as int8).

    Newer cores (seen in 0.38) keep it as `comfy_attention` in every attention layer; older ones know no such argument.
    """
    stored = getattr(layer, "comfy_attention", None)
    return {} if stored is None else {"preferred_attention": stored}


class ReferenceAttention(CrossAttention):
    """ComfyUI's cross-attention, which also follows a `Guide` in transformer_options and knows region weights.

    Without a guide it is exactly the layer it replaces.
    """

    def __init__(
        self,
        plain: CrossAttention,
        place: int,
        ranks: dict[str, Ranks],
        device: torch.device | str | None,
        dtype: torch.dtype | None,
        operations: Any,
    ) -> None:
        """Takes over the layers and attributes of `plain`. place: number of this layer among the cross-attentions.

        ranks: "to_q", "to_k", "to_v" -> ranks of their region terms.
        """
        torch.nn.Module.__init__(self)
        self.__dict__.update(plain.__dict__)  # everything that this ComfyUI's CrossAttention has, whatever its version
        self.place = place
        for number, kind in enumerate(KINDS):
            terms = {
                name: LowRank(*_sides(getattr(self, name)), both[number], device, dtype, operations)
                for name, both in ranks.items()
                if both[number]
            }
            if terms:
                self.add_module(f"lora_{kind}", torch.nn.ModuleDict(terms))

    def forward(
        self,
        x: torch.Tensor,
        context: torch.Tensor | None = None,
        value: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
        transformer_options: dict[str, Any] = {},  # noqa: B006 - as inherited
    ) -> torch.Tensor:
        guide = Guide.of(transformer_options)
        if guide is None:
            return super().forward(x, context, value=value, mask=mask, transformer_options=transformer_options)
        return self.to_out(self.attended(x, guide, context, value, mask, transformer_options))

    def attended(
        self,
        x: torch.Tensor,  # (B, N, C)
        guide: Guide,
        context: torch.Tensor | None,
        value: torch.Tensor | None,
        mask: torch.Tensor | None,
        transformer_options: dict[str, Any],
    ) -> torch.Tensor:
        """What the layer attends to by a guide: (B, N, C) before the output projection."""
        strength = 1.0 if guide.strengths is None else guide.strengths[self.place]
        tokens, values = guide.handed.pop("tokens", None), guide.handed.pop("values", None)

        def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            return optimized_attention(
                q, k, v, self.heads, mask=mask, attn_precision=self.attn_precision,
                transformer_options=transformer_options, **stored_attention(self),
            )  # fmt: skip

        if guide.off or strength == 0:
            return x.new_zeros(*x.shape[:-1], self.inner)
        rows = guide.rows(context)
        own, kept = pick(x, rows), guide.kept_of(self.place, context)
        if guide.split is None:
            context = x if context is None else context
            value = context if value is None else value
            if kept is None:
                attended = attend(self.to_q(own), self.to_k(pick(context, rows)), self.to_v(pick(value, rows)))
            else:
                attended = attend(self.to_q(own), kept.keys[0], kept.values[0])
        else:
            size = tuple(transformer_options["activations_shape"][-2:])
            split = guide.split if tokens is None else guide.split.with_tokens(tokens)
            attended = split_attention(self, own, split, size, attend, values, kept)
        return put(attended if strength == 1 else attended * strength, rows, len(x))

    @property
    def inner(self) -> int:
        """Channels of queries, keys and values."""
        return self.heads * self.dim_head

    def project(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """The plain projection `name` (see colorize.unet.split_attention.RegionAttention)."""
        return getattr(self, name)(x)

    def term(self, name: str, x: torch.Tensor, kind: str | None) -> torch.Tensor | None:
        """The region term beside it, or None (see colorize.unet.split_attention.RegionAttention)."""
        terms = getattr(self, f"lora_{kind}", None) if kind else None
        return terms[name](x) if terms is not None and name in terms else None


def _sides(linear: Any) -> tuple[int, int]:
    return linear.in_features, linear.out_features


class StudentMark(torch.nn.Module):
    """What a student says about itself (colorize/distilled.py): two numbers, zeros for every other model.

    A parameter of a layer of its own, so that LoRAs can set it and Save Checkpoint writes it.
    """

    def __init__(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(2, device=device, dtype=dtype), requires_grad=False)

    def _load_from_state_dict(
        self, state_dict: dict[str, torch.Tensor], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Files of models that are no students have no mark."""
        state_dict.setdefault(prefix + "weight", torch.zeros(2))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def student(self) -> Distilled | None:
        """The facts, or None for a model that is no student."""
        return Distilled.from_values(self.weight)


class ColorizeUNet(UNetModel):
    """ComfyUI's U-Net with `ReferenceAttention` as its cross-attention.

    region_ranks: ranks of the region terms by layer name, empty without any.
    """

    def __init__(
        self,
        *args: Any,
        region_ranks: dict[str, Ranks] | None = None,
        device: torch.device | str | None = None,
        operations: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, device=device, operations=operations, **kwargs)
        self.attention_places = attention_places(self, SpatialTransformer, Downsample, Upsample)
        blocks = [(name, m) for name, m in self.named_modules() if isinstance(m, BasicTransformerBlock)]
        for place, (name, block) in enumerate(blocks):
            own = f"{name}.attn2."
            ranks = {k.removeprefix(own): both for k, both in (region_ranks or {}).items() if k.startswith(own)}
            block.attn2 = ReferenceAttention(block.attn2, place, ranks, device, self.dtype, operations)
        self.distilled = StudentMark(device, self.dtype)

    def forward(self, *args: Any, trace: str = "", **kwargs: Any) -> torch.Tensor:
        """trace: see compiled.py; torch.compile compares what is read."""
        if trace == "unread":
            raise ValueError("trace is 'unread', which no run is called: use the word of compiled.outline.")
        return super().forward(*args, **kwargs)

    def reference_layers_in_order(self) -> list[ReferenceAttention]:
        """The cross-attention layers in the order of their places."""
        return sorted(self.reference_layers().values(), key=lambda layer: layer.place)

    def keys_and_values(self, tokens: Sequence[torch.Tensor]) -> Pairs:
        """Keys and values of what the network reads of pictures beside the reference, reader by reader."""
        return ()

    def reference_layers(self) -> dict[tuple[str, int, int], ReferenceAttention]:
        """The cross-attention layers by what ComfyUI calls their place: (kind, number of the block, transformer)."""
        found = {}
        for name, module in self.named_modules():
            if isinstance(module, ReferenceAttention):
                kind, *numbers = name.split(".")  # input_blocks.3.1.transformer_blocks.0.attn2, middle_block.1. ...
                block = 0 if kind == "middle_block" else int(numbers[0])
                found[(kind.partition("_")[0], block, int(numbers[-2]))] = module
        return found


def in_tiles(tokens: torch.Tensor, rows: int) -> torch.Tensor:
    """Tokens (b, N, C) as (rows, N * b / rows, C): where HyperTile cut the queries, as ComfyUI takes the rest."""
    return tokens if len(tokens) == rows else tokens.reshape(rows, -1, tokens.shape[-1])


class BankAttention(CrossAttention):
    """ComfyUI's self-attention, which also reads one bank of the background plugin when the `Guide` brings banks.

    Without figure masks every query sees its own picture and the bank; with them a query of the figure sees the picture
    only, one of the background the bank only, as the plugin was trained.
    """

    def __init__(self, plain: CrossAttention, number: int) -> None:
        """Takes over the layers and attributes of `plain`. number: of this layer among the decoder's."""
        torch.nn.Module.__init__(self)
        self.__dict__.update(plain.__dict__)
        self.number = number

    def forward(
        self,
        x: torch.Tensor,
        context: torch.Tensor | None = None,
        value: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
        transformer_options: dict[str, Any] = {},  # noqa: B006 - as inherited
    ) -> torch.Tensor:
        guide = Guide.of(transformer_options)
        if guide is None or not guide.banks:
            return super().forward(x, context, value=value, mask=mask, transformer_options=transformer_options)
        own = in_tiles(x if context is None else context, len(x))
        value = None if value is None else in_tiles(value, len(x))
        if guide.bank_pairs:
            key, shown = guide.bank_pairs[self.number]
        else:
            bank = guide.banks[self.number].to(x.dtype)
            key, shown = self.to_k(bank), self.to_v(bank)
        if len(key) > 1 and len(key) != len(x):
            key, shown = (t.repeat_interleave(len(x) // len(t), dim=0) for t in (key, shown))

        def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            # The bank of a single background is projected once for all rows.
            k, v = (tokens.expand(len(q), -1, -1) for tokens in (k, v))
            return optimized_attention(
                q, k, v, self.heads, attn_precision=self.attn_precision, transformer_options=transformer_options,
                **stored_attention(self),
            )  # fmt: skip

        if guide.bank_split is None:
            keys = [self.to_k(own), key.expand(len(x), -1, -1)]
            values = [self.to_v(own if value is None else value), shown.expand(len(x), -1, -1)]
            attended = attend(self.to_q(x), torch.cat(keys, dim=1), torch.cat(values, dim=1))
        else:
            size = tuple(transformer_options["activations_shape"][-2:])
            if x.shape[1] != size[0] * size[1]:
                raise ValueError(
                    "Another node cuts or merges the tokens of self-attention (HyperTile, ToMe), which the background "
                    "plugin with a figure mask cannot follow. Remove that node, or Apply Background Plugin."
                )
            pairs = KeptLayer((self.to_k(own), key), (self.to_v(own), shown), {})
            attended = split_attention(self, x, guide.bank_split, size, attend, kept=pairs)
        return self.to_out(attended)

    def project(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """The projection `name` (see colorize.unet.split_attention.RegionAttention)."""
        return getattr(self, name)(x)

    def term(self, name: str, x: torch.Tensor, kind: str | None) -> torch.Tensor | None:
        """Self-attention has no region weights (see colorize.unet.split_attention.RegionAttention)."""
        return None
