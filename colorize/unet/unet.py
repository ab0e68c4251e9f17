"""The reference-conditioned U-Net in pure torch: the network the trainer trains.

It has the layout and the tensor names of the released checkpoints (`model.diffusion_model.*`). v1 and v1.5: a Stable
Diffusion 2.1 U-Net whose cross-attention reads reference tokens and whose attention blocks project with 1x1
convolutions. XL: the U-Net of Stable Diffusion XL (several transformer blocks in a row, linear projections, a vector y
of numbers beside the time step), whose decoder can also read a bank of a background picture's tokens
(reference_net.py). v2: v1 whose decoder also reads what two encoders saw of pictures (decoder_guide.py). ComfyUI runs
the same weights through its own U-Net class (model/model.py); the golden cases hold both to the same numbers.

Shape legend: B batch, C channels, H W height and width of a feature map, N = H * W image tokens, M reference tokens,
D width of a reference token, E width of the time embedding, S tokens of a bank, Y width of y.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from .. import names
from ..families import head_width_marker
from .attention import MultiHeadAttention, attend
from .decoder_guide import DecoderGuide, Modulation, Warp
from .region_lora import PROJECTIONS, RegionLinear, rank_of, region_ranks, to_module_names, to_official_names
from .split_attention import Split, SplitOptions, split_attention
from .strengths import Place, attention_places


def hint_blocks(levels: int, num_res_blocks: int = 2) -> tuple[int, ...]:
    """The sketch feature k is added after this input block: the first, every halving one, the last."""
    last = levels * (num_res_blocks + 1) - 1
    return (*range(0, last, num_res_blocks + 1), last)


HINT_BLOCKS = hint_blocks(4)  # v1 and v1.5: 0, 3, 6, 9, 11

# A bank of background tokens is read by the queries whose figure mask is not greater than this (released XL code).
BANK_OPTIONS = SplitOptions(kinds=(None, None), strengths=(1.0, 1.0), threshold=0.05)


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

    def __post_init__(self):
        if self.transformer_depth and len(self.transformer_depth) != len(self.channel_mult):
            raise ValueError(
                f"transformer_depth has {len(self.transformer_depth)} numbers for {len(self.channel_mult)} levels; "
                "give one per level, or none."
            )
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


def timestep_embedding(timesteps: torch.Tensor, width: int, max_period: float = 10000.0) -> torch.Tensor:
    """[cos(t f), sin(t f)] with f_i = max_period^(-i / (width/2)); t (B,) may be fractional -> (B, width) float32."""
    half = width // 2
    frequencies = torch.exp(
        torch.arange(half, device=timesteps.device, dtype=torch.float32) * (-math.log(max_period) / half)
    )
    angles = timesteps.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class ResBlock(nn.Module):
    """Two convolutions with the time embedding (B, E) added between them."""

    def __init__(self, inputs: int, outputs: int, emb_width: int):
        super().__init__()
        self.in_layers = nn.Sequential(nn.GroupNorm(32, inputs), nn.SiLU(), nn.Conv2d(inputs, outputs, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb_width, outputs))
        # Index 2 is the dropout of the original layout; it has no weights, so the convolution keeps the name 3.
        self.out_layers = nn.Sequential(
            nn.GroupNorm(32, outputs), nn.SiLU(), nn.Identity(), nn.Conv2d(outputs, outputs, 3, padding=1)
        )
        self.skip_connection = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: torch.Tensor, emb: torch.Tensor) -> torch.Tensor:
        h = self.in_layers(x) + self.emb_layers(emb)[:, :, None, None]
        return self.skip_connection(x) + self.out_layers(h)


class Attention(MultiHeadAttention):
    """Attention that can be split by region and has region LoRAs where a configuration asks for them."""

    def __init__(
        self,
        width: int,
        context_width: int,
        head_width: int,
        ranks: tuple[int | float, int | float] | None = None,  # region LoRAs, see UNetConfig
    ):
        super().__init__(width, head_width, context_width)
        for name, inputs in zip(PROJECTIONS, (width, context_width, context_width), strict=True) if ranks else ():
            setattr(self, name, RegionLinear(inputs, width, tuple(rank_of(rank, inputs, width) for rank in ranks)))

    def forward(self, x: torch.Tensor, context: torch.Tensor | None = None, strength: float = 1.0) -> torch.Tensor:
        """x (B, N, C) over context (B, M, D); without context over x itself."""
        context = x if context is None else context
        return self._out(self._attend(self.to_q(x), self.to_k(context), self.to_v(context)), strength)

    def forward_split(
        self,
        x: torch.Tensor,  # (B, N, C)
        split: Split,
        size: tuple[int, int],  # H, W with H * W = N
        strength: float = 1.0,
    ) -> torch.Tensor:
        """Every query over the tokens of its region."""
        return self._out(split_attention(self, x, split, size, self._attend), strength)

    def project(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """The plain projection `name` of PROJECTIONS (see split_attention.Layer)."""
        return getattr(self, name)(x)

    def term(self, name: str, x: torch.Tensor, kind: str | None) -> torch.Tensor | None:
        """The region term beside it, or None (see split_attention.Layer)."""
        layer = getattr(self, name)
        return layer.term(x, kind) if isinstance(layer, RegionLinear) else None

    def _attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return attend(q, k, v, self.heads)

    def _out(self, attended: torch.Tensor, strength: float) -> torch.Tensor:
        return self.to_out(attended if strength == 1.0 else attended * strength)


class GEGLU(nn.Module):
    """x -> value * gelu(gate), both from one linear layer (Shazeer 2020)."""

    def __init__(self, width: int, outputs: int, device=None, dtype=None, operations=nn):
        super().__init__()
        self.proj = operations.Linear(width, outputs * 2, device=device, dtype=dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    """Gated linear layer, four times as wide inside; `operations` supplies Linear."""

    def __init__(self, width: int, device=None, dtype=None, operations=nn):
        super().__init__()
        gated = GEGLU(width, width * 4, device, dtype, operations)
        self.net = nn.Sequential(gated, nn.Identity(), operations.Linear(width * 4, width, device=device, dtype=dtype))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)


Guide = torch.Tensor | Split
"""What cross-attention reads: reference tokens (B, M, D) for the whole picture, or tokens split by region."""


@dataclass(frozen=True, eq=False)
class Reading:
    """What one transformer block gets beside its own tokens, and what it hands out."""

    guide: Guide | None
    """For the cross-attention."""
    strength: float = 1.0
    """Factor on the cross-attention."""
    bank: torch.Tensor | None = None
    """(B, S, C) tokens of a background that the self-attention reads beside its own; (1, S, C) serves all rows."""
    bank_split: Split | None = None
    """Who reads the bank: queries of the background read it alone, queries of the figure their own tokens alone.
    Without it everybody reads both."""
    keep: str | None = None
    """"output" hands out the block's answer, "normed" what its self-attention reads, None nothing."""


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention over the reference tokens, feed-forward; each pre-normalised and residual."""

    def __init__(self, width: int, context_width: int, head_width: int, ranks=None):
        super().__init__()
        self.attn1 = Attention(width, width, head_width)
        self.ff = FeedForward(width)
        self.norm1, self.norm3 = nn.LayerNorm(width), nn.LayerNorm(width)
        if context_width:
            self.attn2 = Attention(width, context_width, head_width, ranks)
            self.norm2 = nn.LayerNorm(width)

    def forward(
        self, x: torch.Tensor, reading: Reading, size: tuple[int, int]
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """x (B, N, C) on a feature map of `size` -> the answer, and what `reading.keep` asks for."""
        normed = self.norm1(x)
        x = x + self._look_around(normed, reading, size)
        guide = reading.guide
        if isinstance(guide, Split):
            x = x + self.attn2.forward_split(self.norm2(x), guide, size, reading.strength)
        elif guide is not None:
            x = x + self.attn2(self.norm2(x), guide, reading.strength)
        x = x + self.ff(self.norm3(x))
        return x, {"output": x, "normed": normed}.get(reading.keep)

    def _look_around(self, normed: torch.Tensor, reading: Reading, size: tuple[int, int]) -> torch.Tensor:
        if reading.bank is None:
            return self.attn1(normed)
        bank = reading.bank.to(normed).expand(len(normed), -1, -1)
        if reading.bank_split is None:
            return self.attn1(normed, torch.cat([normed, bank], dim=1))
        return self.attn1.forward_split(normed, reading.bank_split.with_tokens((normed, bank)), size)


class SpatialTransformer(nn.Module):
    """A transformer over the pixels of a feature map (B, C, H, W), read row by row."""

    def __init__(self, width: int, context_width: int, head_width: int, ranks=None, depth: int = 1, linear=False):
        super().__init__()
        self.norm = nn.GroupNorm(32, width, eps=1e-6)
        self.proj_in = nn.Linear(width, width) if linear else nn.Conv2d(width, width, 1)
        self.transformer_blocks = nn.ModuleList(
            TransformerBlock(width, context_width, head_width, ranks) for _ in range(depth)
        )
        self.proj_out = nn.Linear(width, width) if linear else nn.Conv2d(width, width, 1)

    def forward(self, x: torch.Tensor, readings: Sequence[Reading]) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """-> the answer, and what the readings ask for, in their order."""
        height, width = x.shape[-2:]
        linear, kept = isinstance(self.proj_in, nn.Linear), []
        tokens = self.norm(x)
        tokens = tokens.flatten(2).transpose(1, 2) if linear else self.proj_in(tokens).flatten(2).transpose(1, 2)
        tokens = self.proj_in(tokens) if linear else tokens
        for block, reading in zip(self.transformer_blocks, readings, strict=True):
            tokens, handed = block(tokens, reading, (height, width))
            if handed is not None:
                kept.append(handed)
        tokens = self.proj_out(tokens) if linear else tokens
        answer = tokens.transpose(1, 2).unflatten(2, (height, width))
        return x + (answer if linear else self.proj_out(answer)), kept


class Downsample(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.op = nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.op(x)


class Upsample(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class Block(nn.Sequential):
    """Layers of one input, middle or output block; each takes what it needs of the arguments."""

    @property
    def depth(self) -> int:
        """How many transformer blocks it has."""
        return sum(len(layer.transformer_blocks) for layer in self if isinstance(layer, SpatialTransformer))

    def forward(
        self, x: torch.Tensor, emb: torch.Tensor, readings: Sequence[Reading]
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """-> the answer, and what the readings, one per transformer block, ask for."""
        kept: list[torch.Tensor] = []
        for layer in self:
            if isinstance(layer, ResBlock):
                x = layer(x, emb)
            elif isinstance(layer, SpatialTransformer):
                x, kept = layer(x, readings)
            else:
                x = layer(x)
        return x, kept


class UNet(nn.Module):
    """Predicts noise or velocity of a latent from reference tokens and sketch features.

    `gradient_checkpointing` (attribute) recomputes the blocks in the backward pass: about a third more time for a
    fraction of the activation memory.
    """

    def __init__(self, config: UNetConfig, device: torch.device | str | None = None, dtype: torch.dtype | None = None):
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        with torch.device(device or torch.get_default_device()):
            self._build(config)
        if dtype is not None:
            self.to(dtype)

    def _build(self, config: UNetConfig) -> None:
        base = config.model_channels
        emb_width = base * 4
        widths = [base * mult for mult in config.channel_mult]
        last = len(widths) - 1

        def transformer(level: int, decoder: bool = False) -> SpatialTransformer:
            return SpatialTransformer(
                widths[level],
                config.context_dim,
                config.num_head_channels,
                config.region_ranks if decoder or not config.v2 else None,
                config.depth(level),
                config.linear_projections,
            )

        def embedding(inputs: int) -> nn.Sequential:
            return nn.Sequential(nn.Linear(inputs, emb_width), nn.SiLU(), nn.Linear(emb_width, emb_width))

        self.time_embed = embedding(base)
        if config.y_width:
            self.label_emb = nn.Sequential(embedding(config.y_width))

        self.input_blocks = nn.ModuleList([Block(nn.Conv2d(config.in_channels, base, 3, padding=1))])
        skips = [base]
        width = base
        for level, outputs in enumerate(widths):
            for _ in range(config.num_res_blocks):
                layers: list[nn.Module] = [ResBlock(width, outputs, emb_width)]
                if level in config.attention_levels:
                    layers.append(transformer(level))
                self.input_blocks.append(Block(*layers))
                width = outputs
                skips.append(width)
            if level != last:
                self.input_blocks.append(Block(Downsample(width)))
                skips.append(width)

        self.middle_block = Block(
            ResBlock(width, width, emb_width), transformer(last), ResBlock(width, width, emb_width)
        )

        self.output_blocks = nn.ModuleList()
        for level in range(last, -1, -1):
            outputs = widths[level]
            for index in range(config.num_res_blocks + 1):
                layers = [ResBlock(width + skips.pop(), outputs, emb_width)]
                if level in config.attention_levels:
                    layers.append(transformer(level, decoder=True))
                if level and index == config.num_res_blocks:
                    layers.append(Upsample(outputs))
                self.output_blocks.append(Block(*layers))
                width = outputs

        if config.v2:
            per_level = config.num_res_blocks + 1
            self.warp_modules = nn.ModuleList(Warp(width) for width in reversed(config.skip_widths))
            self.style_modules = nn.ModuleList(
                Modulation(emb_width, width) for width in reversed(widths) for _ in range(per_level)
            )

        self.out = nn.Sequential(
            nn.GroupNorm(32, width), nn.SiLU(), nn.Conv2d(width, config.out_channels, 3, padding=1)
        )

    def zero_output_layers(self) -> None:
        """Zero the last layer of every residual branch and of the network, the usual start of training."""
        for module in self.modules():
            if isinstance(module, ResBlock):
                layer = module.out_layers[3]
            elif isinstance(module, SpatialTransformer):
                layer = module.proj_out
            elif module is self.out or isinstance(module, Modulation):
                layer = module[2]
            elif isinstance(module, Warp):
                layer = module.ff[2]
            else:
                continue
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    @cached_property
    def attention_places(self) -> tuple[Place, ...]:
        """Where the cross-attention layers stand, in their order."""
        return attention_places(self, SpatialTransformer, Downsample, Upsample)

    @cached_property
    def decoder_start(self) -> int:
        """Number of the decoder's first transformer block."""
        return sum(place.part != "decoder" for place in self.attention_places)

    def unread_skips(self, last: int) -> int:
        """How many of the input blocks' answers the decoder has yet to read when transformer block `last` has run."""
        places, unread = self.decoder_start, len(self.input_blocks)
        for block in self.output_blocks:
            if places > last:
                break
            places, unread = places + block.depth, unread - 1
        return unread

    def forward(
        self,
        x: torch.Tensor,  # (B, in_channels, H, W) noisy latent, H and W multiples of 2^(levels - 1)
        timesteps: torch.Tensor,  # (B,) steps 0..999, may be fractional
        context: torch.Tensor | None,  # (B, M, D) reference tokens; zeros mean "no reference"; not read with `split`
        control: Sequence[torch.Tensor] | None = None,  # sketch features, shallow to deep
        split: Split | None = None,  # reference tokens by region instead of `context`
        strengths: Sequence[float] | None = None,  # factor of every cross-attention, in the order of attention_places
        y: torch.Tensor | None = None,  # (B, Y), see size_embedding.py
        banks: Sequence[torch.Tensor] | None = None,  # one per transformer block of the decoder, see reference_net.py
        decoder: DecoderGuide | None = None,  # v2: what the decoder reads of pictures, see decoder_guide.py
    ) -> torch.Tensor:
        if decoder is not None and not self.config.v2:
            raise ValueError("This U-Net has no warp and style modules; leave `decoder` out.")
        readings = self.readings(context if split is None else split, strengths, banks)
        progress = replace(self.begin(x, timesteps, control, y), decoder=decoder)
        return self.finish(progress, readings)[0]

    def readings(
        self,
        guide: Guide | None,
        strengths: Sequence[float] | None = None,
        banks: Sequence[torch.Tensor] | None = None,
        keep: Mapping[int, str] | None = None,  # number of a transformer block -> "output" or "normed"
    ) -> list[Reading]:
        """What every transformer block gets, in the order of attention_places. A Split also splits the banks."""
        count, start = len(self.attention_places), self.decoder_start
        for what, given, wanted in (("strengths", strengths, count), ("banks", banks, count - start)):
            if given and len(given) != wanted:
                raise ValueError(f"{len(given)} {what} are given, but this U-Net has {wanted} blocks to take them.")
        split = guide.against_background(BANK_OPTIONS) if banks and isinstance(guide, Split) else None
        return [
            Reading(
                guide,
                strengths[number] if strengths else 1.0,
                banks[number - start] if banks and number >= start else None,
                split,
                (keep or {}).get(number),
            )
            for number in range(count)
        ]

    def begin(
        self,
        x: torch.Tensor,
        timesteps: torch.Tensor,
        control: Sequence[torch.Tensor] | None = None,
        y: torch.Tensor | None = None,
    ) -> Progress:
        """The input blocks before the first transformer, which know nothing of the reference. Arguments: `forward`."""
        emb = self.time_embed(timestep_embedding(timesteps, self.config.model_channels).to(x.dtype))
        if (y is None) != (self.config.y_width == 0):
            raise ValueError(
                f"This U-Net reads a vector y of width {self.config.y_width}; give one (size_embedding.embed)."
                if y is None
                else "This U-Net has no vector y; leave y out."
            )
        if y is not None:
            emb = emb + self.label_emb(y.to(x.dtype))
        places = hint_blocks(len(self.config.channel_mult), self.config.num_res_blocks)
        hints = dict(zip(places, control, strict=True)) if control is not None else {}
        return self._advance(Progress(x, emb, hints), lambda block, progress: block.depth > 0, [])[0]

    def advance(
        self,
        progress: Progress,  # of `begin` or `advance`; can be used several times
        readings: Sequence[Reading],  # of `readings`
        last: int | None = None,  # run no further than this transformer block; None: to the end
    ) -> tuple[Progress, list[torch.Tensor]]:
        """Run on -> how far it came, and what the readings on the way ask for, in order."""
        last = len(readings) if last is None else last
        return self._advance(progress, lambda block, progress: progress.places > last, readings)

    def finish(
        self, progress: Progress, readings: Sequence[Reading], answer: bool = True
    ) -> tuple[torch.Tensor | None, list[torch.Tensor]]:
        """The rest of the network -> its answer, and what the readings ask for.

        Without `answer` it runs no further than the last block that hands out something, and answers None.
        """
        if not answer:
            last = max(number for number, reading in enumerate(readings) if reading.keep)
            return None, self.advance(progress, readings, last)[1]
        progress, kept = self.advance(progress, readings)
        return self.out(progress.h), kept

    def _advance(
        self, progress: Progress, stop: Callable[[Block, Progress], bool], readings: Sequence[Reading]
    ) -> tuple[Progress, list[torch.Tensor]]:
        inputs, kept = len(self.input_blocks), []
        blocks = [*self.input_blocks, self.middle_block, *self.output_blocks]
        while progress.blocks < len(blocks) and not stop(block := blocks[progress.blocks], progress):
            h, skips, number = progress.h, progress.skips, progress.blocks
            guide, place = progress.decoder, number - inputs - 1  # place among the decoder's blocks
            if number > inputs:
                skip = skips[-1] if guide is None else guide.skip(place, self.warp_modules[place], skips[-1])
                h, skips = torch.cat([h, skip], dim=1), skips[:-1]
            places = progress.places + block.depth
            h, handed = self._run(block, h, progress.emb, readings[progress.places : places])
            if number > inputs and guide is not None:
                h = guide.modulate(place, self.style_modules[place], h, progress.emb)
            if number < inputs:
                h = h + progress.hints[number] if number in progress.hints else h
                skips = (*skips, h)
            kept += handed
            progress = replace(progress, h=h, skips=skips, blocks=number + 1, places=places)
        return progress, kept

    def _run(self, block: Block, *arguments) -> tuple[torch.Tensor, list[torch.Tensor]]:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(block, *arguments, use_reentrant=False)
        return block(*arguments)


@dataclass(frozen=True, eq=False)
class Progress:
    """A U-Net part of the way through its blocks."""

    h: torch.Tensor
    """(B, C, H, W) answer of the last block that ran; at the beginning the latent"""
    emb: torch.Tensor
    """(B, E) time step and y"""
    hints: Mapping[int, torch.Tensor]
    """number of an input block -> sketch feature that is added to its answer"""
    skips: tuple[torch.Tensor, ...] = ()
    """answers of input blocks, which the decoder has yet to read"""
    blocks: int = 0
    """how many blocks ran"""
    places: int = 0
    """how many transformer blocks ran"""
    decoder: DecoderGuide | None = None
    """v2: what the decoder reads of pictures"""

    def each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Progress:
        """The same with every tensor changed, for example to other rows of the batch."""
        hints = {number: change(hint) for number, hint in self.hints.items() if number >= self.blocks}
        skips = tuple(change(skip) for skip in self.skips)
        return replace(self, h=change(self.h), emb=change(self.emb), hints=hints, skips=skips)


def unet_config_from_state_dict(
    state_dict: Mapping[str, torch.Tensor],
    prefix: str = names.UNET,
    num_head_channels: int | None = None,
    reads_reference: bool = True,  # False: also U-Nets without cross-attention and answer (reference_net.py)
) -> UNetConfig:
    """The sizes of the U-Net whose tensors stand under `prefix`.

    The head width leaves no trace in the shapes; without the argument it is the marker tensor
    `colorize.num_head_channels` of the file, else 64 as in the released checkpoints.
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
    depths: list[int] = []
    blocks_per_level = 0
    context_dim, linear = 0, False
    index = 1
    while f"{prefix}input_blocks.{index}.0.in_layers.2.weight" in state_dict:  # one turn per level
        blocks_per_level = 0
        while (key := f"{prefix}input_blocks.{index}.0.in_layers.2.weight") in state_dict:
            width, attention, depth = state_dict[key].shape[0], f"{prefix}input_blocks.{index}.1.", 0
            if (projection := state_dict.get(f"{attention}proj_in.weight")) is not None:
                linear = projection.ndim == 2
            if (to_k := state_dict.get(f"{attention}transformer_blocks.0.attn2.to_k.weight")) is not None:
                context_dim = to_k.shape[1]
            while f"{attention}transformer_blocks.{depth}.norm1.weight" in state_dict:
                depth += 1
            blocks_per_level += 1
            index += 1
        widths.append(width)
        depths.append(depth)
        index += 1  # the downsampling block between two levels
    if reads_reference and not context_dim:
        raise ValueError(f"The U-Net under {prefix!r} has no cross-attention: it cannot take a reference.")
    base, y = first.shape[0], state_dict.get(f"{prefix}label_emb.0.0.weight")
    return UNetConfig(
        in_channels=first.shape[1],
        out_channels=out_channels,
        model_channels=base,
        channel_mult=tuple(width // base for width in widths),
        num_res_blocks=blocks_per_level,
        attention_levels=tuple(level for level, depth in enumerate(depths) if depth),
        num_head_channels=num_head_channels,
        context_dim=context_dim,
        transformer_depth=tuple(depths) if max(depths, default=0) > 1 else (),
        linear_projections=linear,
        y_width=0 if y is None else y.shape[1],
        region_ranks=_configured_ranks(state_dict, prefix),
        v2=f"{prefix}{names.WARPS}0.norm1.weight" in state_dict,
    )


def unet_weights(state_dict: Mapping[str, torch.Tensor], prefix: str = names.UNET) -> dict[str, torch.Tensor]:
    """The tensors under `prefix` by the names of `UNet`: short kinds of region terms, no unused convolution."""
    own = {key.removeprefix(prefix): value for key, value in state_dict.items() if key.startswith(prefix)}
    own = {key: value for key, value in own.items() if not key.startswith(names.UNUSED)}
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
