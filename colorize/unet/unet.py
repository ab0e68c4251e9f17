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

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, cast, overload

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from .config import UNetConfig, hint_blocks
from .decoder_guide import DecoderGuide, Modulation, Warp
from .layers import (
    Block,
    Downsample,
    Reading,
    ReferenceTokens,
    ResBlock,
    SpatialTransformer,
    Upsample,
    set_to_zero,
    timestep_embedding,
)
from .split_attention import BANK_OPTIONS, Split
from .strengths import Place, attention_places


class UNet(nn.Module):
    """Predicts noise or velocity of a latent from reference tokens and sketch features.

    `gradient_checkpointing` (attribute) recomputes the blocks in the backward pass: about a third more time for a
    fraction of the activation memory.
    """

    def __init__(
        self, config: UNetConfig, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        with torch.device(device or torch.get_default_device()):
            self._build(config)
        if dtype is not None:
            self.to(dtype)

    def _build(self, config: UNetConfig) -> None:
        base = config.model_channels
        width = base * config.channel_mult[-1]

        def embedding(inputs: int) -> nn.Sequential:
            return nn.Sequential(nn.Linear(inputs, base * 4), nn.SiLU(), nn.Linear(base * 4, base * 4))

        self.time_embed = embedding(base)
        if config.y_width:
            self.label_emb = nn.Sequential(embedding(config.y_width))
        self.input_blocks = nn.ModuleList(self._input_blocks(config))
        last = len(config.channel_mult) - 1
        self.middle_block = Block(
            ResBlock(width, width, base * 4), self._transformer(config, last), ResBlock(width, width, base * 4)
        )
        self.output_blocks = nn.ModuleList(self._output_blocks(config))
        if config.v2:
            widths = [base * mult for mult in reversed(config.channel_mult) for _ in range(config.num_res_blocks + 1)]
            self.warp_modules = nn.ModuleList(Warp(width) for width in reversed(config.skip_widths))
            self.style_modules = nn.ModuleList(Modulation(base * 4, width) for width in widths)
        width = base * config.channel_mult[0]
        self.out = nn.Sequential(
            nn.GroupNorm(32, width), nn.SiLU(), nn.Conv2d(width, config.out_channels, 3, padding=1)
        )

    @staticmethod
    def _transformer(config: UNetConfig, level: int, decoder: bool = False) -> SpatialTransformer:
        return SpatialTransformer(
            config.model_channels * config.channel_mult[level],
            config.context_dim,
            config.num_head_channels,
            config.region_ranks if decoder or not config.v2 else None,
            config.depth(level),
            config.linear_projections,
        )

    def _input_blocks(self, config: UNetConfig) -> list[Block]:
        base = config.model_channels
        blocks, width = [Block(nn.Conv2d(config.in_channels, base, 3, padding=1))], base
        for level, mult in enumerate(config.channel_mult):
            for _ in range(config.num_res_blocks):
                layers: list[nn.Module] = [ResBlock(width, base * mult, base * 4)]
                if level in config.attention_levels:
                    layers.append(self._transformer(config, level))
                blocks.append(Block(*layers))
                width = base * mult
            if level != len(config.channel_mult) - 1:
                blocks.append(Block(Downsample(width)))
        return blocks

    def _output_blocks(self, config: UNetConfig) -> list[Block]:
        base, skips = config.model_channels, list(config.skip_widths)
        blocks, width = [], base * config.channel_mult[-1]
        for level in range(len(config.channel_mult) - 1, -1, -1):
            outputs = base * config.channel_mult[level]
            for index in range(config.num_res_blocks + 1):
                layers: list[nn.Module] = [ResBlock(width + skips.pop(), outputs, base * 4)]
                if level in config.attention_levels:
                    layers.append(self._transformer(config, level, decoder=True))
                if level and index == config.num_res_blocks:
                    layers.append(Upsample(outputs))
                blocks.append(Block(*layers))
                width = outputs
        return blocks

    def zero_output_layers(self) -> None:
        """Zero the last layer of every residual branch and of the network, the usual start of training."""
        for module in self.modules():
            if isinstance(module, ResBlock):
                set_to_zero(module.out_layers[3])
            elif isinstance(module, SpatialTransformer):
                set_to_zero(module.proj_out)
            elif isinstance(module, Modulation):
                set_to_zero(module[2])
            elif isinstance(module, Warp):
                set_to_zero(module.ff[2])
        set_to_zero(self.out[2])

    @property
    def decoder_blocks(self) -> list[Block]:
        """The output blocks; a list of modules does not know their type."""
        return [cast(Block, block) for block in self.output_blocks]

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
        for block in self.decoder_blocks:
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
        tokens: ReferenceTokens | None,
        strengths: Sequence[float] | None = None,
        banks: Sequence[torch.Tensor] | None = None,
        keep: Mapping[int, str] | None = None,  # number of a transformer block -> "output" or "normed"
    ) -> list[Reading]:
        """What every transformer block gets, in the order of attention_places. A Split also splits the banks."""
        count, start = len(self.attention_places), self.decoder_start
        for what, given, wanted in (("strengths", strengths, count), ("banks", banks, count - start)):
            if given and len(given) != wanted:
                raise ValueError(f"{len(given)} {what} are given, but this U-Net has {wanted} blocks to take them.")
        split = tokens.against_background(BANK_OPTIONS) if banks and isinstance(tokens, Split) else None
        return [
            Reading(
                tokens,
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
    ) -> UNetState:
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
        return self._advance(UNetState(x, emb, hints), lambda block, progress: block.depth > 0, [])[0]

    def advance(
        self,
        progress: UNetState,  # of `begin` or `advance`; can be used several times
        readings: Sequence[Reading],  # of `readings`
        last: int | None = None,  # run no further than this transformer block; None: to the end
    ) -> tuple[UNetState, list[torch.Tensor]]:
        """Run on -> how far it came, and what the readings on the way ask for, in order."""
        last = len(readings) if last is None else last
        return self._advance(progress, lambda block, progress: progress.places > last, readings)

    @overload
    def finish(
        self, progress: UNetState, readings: Sequence[Reading], answer: Literal[True] = True
    ) -> tuple[torch.Tensor, list[torch.Tensor]]: ...
    @overload
    def finish(
        self, progress: UNetState, readings: Sequence[Reading], answer: Literal[False]
    ) -> tuple[None, list[torch.Tensor]]: ...
    def finish(
        self, progress: UNetState, readings: Sequence[Reading], answer: bool = True
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
        self, progress: UNetState, stop: Callable[[Block, UNetState], bool], readings: Sequence[Reading]
    ) -> tuple[UNetState, list[torch.Tensor]]:
        inputs, kept = len(self.input_blocks), []
        blocks = [*self.input_blocks, self.middle_block, *self.output_blocks]
        while progress.blocks < len(blocks) and not stop(block := blocks[progress.blocks], progress):
            h, skips, number = progress.h, progress.skips, progress.blocks
            guide, place = progress.decoder, number - inputs - 1  # place among the decoder's blocks
            if number > inputs:
                skip = skips[-1]
                if guide is not None:
                    skip = guide.skip(place, cast(Warp, self.warp_modules[place]), skip)
                h, skips = torch.cat([h, skip], dim=1), skips[:-1]
            places = progress.places + block.depth
            size = skips[-1].shape[-2:] if number > inputs and skips else None  # what the next block reads beside it
            h, handed = self._run(block, h, progress.emb, readings[progress.places : places], size)
            if number > inputs and guide is not None:
                h = guide.modulate(place, cast(Modulation, self.style_modules[place]), h, progress.emb)
            if number < inputs:
                h = h + progress.hints[number] if number in progress.hints else h
                skips = (*skips, h)
            kept += handed
            progress = replace(progress, h=h, skips=skips, blocks=number + 1, places=places)
        return progress, kept

    def _run(self, block: Block, *arguments: Any) -> tuple[torch.Tensor, list[torch.Tensor]]:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(block, *arguments, use_reentrant=False)
        return block(*arguments)


@dataclass(frozen=True, eq=False)
class UNetState:
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

    def each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> UNetState:
        """The same with every tensor changed, for example to other rows of the batch."""
        hints = {number: change(hint) for number, hint in self.hints.items() if number >= self.blocks}
        skips = tuple(change(skip) for skip in self.skips)
        return replace(self, h=change(self.h), emb=change(self.emb), hints=hints, skips=skips)
