"""The sizes of the U-Net: as a configuration, and as the tensors of a file tell them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from .. import names
from ..families import head_width_marker
from ..weight_files import reads_strange_sizes
from .region_lora import rank_of, region_ranks, to_module_names, to_official_names


def hint_blocks(levels: int, num_res_blocks: int = 2) -> tuple[int, ...]:
    """The sketch feature k is added after this input block: the first, every halving one, the last."""
    last = levels * (num_res_blocks + 1) - 1
    return (*range(0, last, num_res_blocks + 1), last)


HINT_BLOCKS = hint_blocks(4)  # v1 and v1.5: 0, 3, 6, 9, 11


@dataclass(frozen=True)
class UNetConfig:
    """Sizes of the U-Net; the defaults are those of the released v1 checkpoints, `XL` is the released XL one."""

    in_channels: int = 4
    out_channels: int = 4
    model_channels: int = 320  # width of the first level
    channel_mult: tuple[int, ...] = (1, 2, 4, 4)  # width of each level over model_channels
    num_res_blocks: int = 2  # per level
    attention_levels: tuple[int, ...] = (0, 1, 2)  # levels with attention; the middle block always has it
    num_head_channels: int = 64
    context_dim: int = 1024  # D, width of the reference tokens; 0: no cross-attention at all
    transformer_depth: tuple[int, ...] = ()  # transformer blocks in a row on each level; empty: one
    linear_projections: bool = False  # attention blocks project with linear layers instead of 1x1 convolutions
    y_width: int = 0  # Y, width of the vector y; 0: there is none
    # Ranks of the region LoRAs of v1.5, figure and background: whole numbers, or fractions of a layer's smaller side
    # (released: 4 and 0.5); None has none.
    region_ranks: tuple[int | float, int | float] | None = None
    v2: bool = False  # output blocks have warp and style modules; region LoRAs are in output blocks only

    def __post_init__(self) -> None:
        if self.transformer_depth and len(self.transformer_depth) != len(self.channel_mult):
            raise ValueError(
                f"transformer_depth has {len(self.transformer_depth)} numbers for {len(self.channel_mult)} levels; "
                "give one per level, or none."
            )
        deepest = max(self.attention_levels, default=0)
        if len(self.channel_mult) <= deepest:
            raise ValueError(
                f"channel_mult has {len(self.channel_mult)} levels, but level {deepest} has attention; give at least "
                f"{deepest + 1} numbers."
            )
        if min(*self.channel_mult, self.model_channels, self.num_head_channels) < 1:
            raise ValueError("model_channels, num_head_channels and every number of channel_mult are at least 1.")
        for level in (*self.attention_levels, len(self.channel_mult) - 1):
            width = self.model_channels * self.channel_mult[level]
            if width % self.num_head_channels:
                raise ValueError(
                    f"Level {level} has {width} channels, which heads of {self.num_head_channels} do not divide; "
                    "change model_channels, channel_mult or num_head_channels."
                )
        if self.model_channels % 32:
            raise ValueError(
                f"model_channels must be a multiple of 32 (group normalisation), not {self.model_channels}."
            )

    def depth(self, level: int) -> int:
        """Transformer blocks in a row on a level; the middle block has as many as the last level."""
        return self.transformer_depth[level] if self.transformer_depth else 1

    @property
    def skip_widths(self) -> tuple[int, ...]:
        """Channels of the answers of the input blocks, in their order."""
        widths = [self.model_channels]
        for level, mult in enumerate(self.channel_mult):
            widths += [self.model_channels * mult] * (self.num_res_blocks + (level < len(self.channel_mult) - 1))
        return tuple(widths)


XL = UNetConfig(
    channel_mult=(1, 2, 4),
    attention_levels=(1, 2),
    context_dim=2048,
    transformer_depth=(0, 2, 10),
    linear_projections=True,
    y_width=512,
)


@reads_strange_sizes("U-Net")
def unet_config_from_state_dict(
    state_dict: Mapping[str, torch.Tensor],
    prefix: str = names.UNET,
    num_head_channels: int | None = None,
    reads_reference: bool = True,  # False: also U-Nets without cross-attention and answer (reference_net.py)
) -> UNetConfig:
    """The sizes of the U-Net whose tensors stand under `prefix`.

    The head width leaves no trace in the shapes; without the argument it is the marker tensor
    `colorize.num_head_channels` of the file, else 64 as in the released checkpoints. ValueError for a file of sizes
    of which no U-Net can be built.
    """
    try:
        first = state_dict[f"{prefix}input_blocks.0.0.weight"]
        out_channels = state_dict[f"{prefix}out.2.weight"].shape[0] if reads_reference else UNetConfig.out_channels
    except KeyError as missing:
        raise ValueError(f"No U-Net found under {prefix!r}: tensor {missing} is missing.") from None
    if num_head_channels is None:
        num_head_channels = head_width_marker(state_dict) or 64
    if num_head_channels < 1:
        raise ValueError(f"Attention heads of {num_head_channels} channels are none; give a width from 1 on.")

    widths: list[int] = []
    blocks: list[list[int]] = []  # for every level the depths of its blocks
    context_dim, linear = 0, False
    index = 1
    while f"{prefix}input_blocks.{index}.0.in_layers.2.weight" in state_dict:  # one turn per level
        blocks.append([])
        while (key := f"{prefix}input_blocks.{index}.0.in_layers.2.weight") in state_dict:
            width, attention, depth = state_dict[key].shape[0], f"{prefix}input_blocks.{index}.1.", 0
            if (projection := state_dict.get(f"{attention}proj_in.weight")) is not None:
                linear = projection.ndim == 2
            if (to_k := state_dict.get(f"{attention}transformer_blocks.0.attn2.to_k.weight")) is not None:
                context_dim = to_k.shape[1]
            while f"{attention}transformer_blocks.{depth}.norm1.weight" in state_dict:
                depth += 1
            blocks[-1].append(depth)
            index += 1
        widths.append(width)
        index += 1  # the downsampling block between two levels
    _check_blocks(blocks, prefix)
    depths = [level[-1] for level in blocks]
    if reads_reference and not context_dim:
        raise ValueError(f"The U-Net under {prefix!r} has no cross-attention: it cannot take a reference.")
    base, y = first.shape[0], state_dict.get(f"{prefix}label_emb.0.0.weight")
    return UNetConfig(
        in_channels=first.shape[1],
        out_channels=out_channels,
        model_channels=base,
        channel_mult=tuple(width // base for width in widths),
        num_res_blocks=len(blocks[-1]) if blocks else 0,
        attention_levels=tuple(level for level, depth in enumerate(depths) if depth),
        num_head_channels=num_head_channels,
        context_dim=context_dim,
        transformer_depth=tuple(depths) if max(depths, default=0) > 1 else (),
        linear_projections=linear,
        y_width=0 if y is None else y.shape[1],
        region_ranks=_configured_ranks(state_dict, prefix),
        v2=f"{prefix}{names.WARPS}0.norm1.weight" in state_dict,
    )


def _check_blocks(blocks: list[list[int]], prefix: str) -> None:
    """ValueError unless all levels have as many blocks, of one depth on a level; blocks: for every level their depths.

    Of a forged file of few names else a network of their product would be asked for.
    """
    if len({len(level) for level in blocks}) > 1 or any(len(set(level)) > 1 for level in blocks):
        raise ValueError(
            f"The U-Net under {prefix!r} has blocks of the depths {str(blocks)[:200]} on its levels; expected as many "
            "blocks on each level, and one depth on a level."
        )


def unet_weights(state_dict: Mapping[str, torch.Tensor], prefix: str = names.UNET) -> dict[str, torch.Tensor]:
    """The tensors under `prefix` by the names of `UNet`: short kinds of region terms, no unused convolution, no mark of
    a student."""
    own = {key.removeprefix(prefix): value for key, value in state_dict.items() if key.startswith(prefix)}
    own = {key: value for key, value in own.items() if not key.startswith((names.UNUSED, names.DISTILLED))}
    return to_official_names(to_module_names(own))


def _configured_ranks(state_dict: Mapping[str, torch.Tensor], prefix: str) -> tuple[int | float, int | float] | None:
    """The `region_ranks` of a configuration that gives the ranks of this file, or None when it has no region LoRA.

    Equal ranks are a whole number; ranks that grow with the layer are a fraction of its smaller side.
    """
    ranks = region_ranks(state_dict, prefix)
    if not ranks:
        return None
    sides = {layer: min(state_dict[f"{prefix}{layer}.weight"].shape) for layer in ranks}

    def configured(kind: int) -> int | float:
        given = {layer: both[kind] for layer, both in ranks.items()}
        if len(set(given.values())) == 1:
            return next(iter(given.values()))
        fraction = max(rank / sides[layer] for layer, rank in given.items())
        if any(rank_of(fraction, sides[layer], sides[layer]) != rank for layer, rank in given.items()):
            raise ValueError(
                f"The region LoRAs under {prefix!r} have ranks {sorted(set(given.values()))}, which are neither one "
                "number nor one fraction of their layers; the file mixes models."
            )
        return fraction

    return configured(0), configured(1)
