"""The layers of the U-Net, from a residual block to a block of the network.

Shape legend: B batch, C channels, H W height and width of a feature map, N = H * W image tokens, M reference tokens,
D width of a reference token, E width of the time embedding, S tokens of a bank.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .attention import MultiHeadAttention, attend
from .region_lora import PROJECTIONS, RegionLinear, rank_of
from .split_attention import Split, split_attention


def timestep_embedding(timesteps: torch.Tensor, width: int, max_period: float = 10000.0) -> torch.Tensor:
    """[cos(t f), sin(t f)] with f_i = max_period^(-i / (width/2)); t (B,) may be fractional -> (B, width) float32."""
    half = width // 2
    frequencies = torch.exp(
        torch.arange(half, device=timesteps.device, dtype=torch.float32) * (-math.log(max_period) / half)
    )
    angles = timesteps.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def set_to_zero(layer: nn.Module) -> None:
    """Weights and biases of a layer that must change nothing when training starts."""
    for values in layer.parameters():
        nn.init.zeros_(values)


class ResBlock(nn.Module):
    """Two convolutions with the time embedding (B, E) added between them."""

    def __init__(self, inputs: int, outputs: int, emb_width: int) -> None:
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
    ) -> None:
        super().__init__(width, head_width, context_width)
        if ranks is None:
            return
        for name, inputs in zip(PROJECTIONS, (width, context_width, context_width), strict=True):
            figure, background = (rank_of(rank, inputs, width) for rank in ranks)
            setattr(self, name, RegionLinear(inputs, width, (figure, background)))

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
        """The plain projection `name` of PROJECTIONS (see split_attention.RegionAttention)."""
        return getattr(self, name)(x)

    def term(self, name: str, x: torch.Tensor, kind: str | None) -> torch.Tensor | None:
        """The region term beside it, or None (see split_attention.RegionAttention)."""
        layer = getattr(self, name)
        return layer.term(x, kind) if isinstance(layer, RegionLinear) else None

    def _attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return attend(q, k, v, self.heads)

    def _out(self, attended: torch.Tensor, strength: float) -> torch.Tensor:
        return self.to_out(attended if strength == 1.0 else attended * strength)


class GEGLU(nn.Module):
    """x -> value * gelu(gate), both from one linear layer (Shazeer 2020)."""

    def __init__(
        self,
        width: int,
        outputs: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        operations: Any = nn,
    ) -> None:
        super().__init__()
        self.proj = operations.Linear(width, outputs * 2, device=device, dtype=dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    """Gated linear layer, four times as wide inside; `operations` supplies Linear."""

    def __init__(
        self,
        width: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        operations: Any = nn,
    ) -> None:
        super().__init__()
        gated = GEGLU(width, width * 4, device, dtype, operations)
        self.net = nn.Sequential(gated, nn.Identity(), operations.Linear(width * 4, width, device=device, dtype=dtype))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)


ReferenceTokens = torch.Tensor | Split
"""What cross-attention reads: tokens (B, M, D) for the whole picture, or tokens split by region."""


@dataclass(frozen=True, eq=False)
class Reading:
    """What one transformer block gets beside its own tokens, and what it hands out."""

    tokens: ReferenceTokens | None
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

    def __init__(
        self, width: int, context_width: int, head_width: int, ranks: tuple[int | float, int | float] | None = None
    ) -> None:
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
        tokens = reading.tokens
        if isinstance(tokens, Split):
            x = x + self.attn2.forward_split(self.norm2(x), tokens, size, reading.strength)
        elif tokens is not None:
            x = x + self.attn2(self.norm2(x), tokens, reading.strength)
        x = x + self.ff(self.norm3(x))
        handed: dict[str | None, torch.Tensor] = {"output": x, "normed": normed}
        return x, handed.get(reading.keep)

    def _look_around(self, normed: torch.Tensor, reading: Reading, size: tuple[int, int]) -> torch.Tensor:
        if reading.bank is None:
            return self.attn1(normed)
        bank = reading.bank.to(normed).expand(len(normed), -1, -1)
        if reading.bank_split is None:
            return self.attn1(normed, torch.cat([normed, bank], dim=1))
        return self.attn1.forward_split(normed, reading.bank_split.with_tokens((normed, bank)), size)


class SpatialTransformer(nn.Module):
    """A transformer over the pixels of a feature map (B, C, H, W), read row by row."""

    def __init__(
        self,
        width: int,
        context_width: int,
        head_width: int,
        ranks: tuple[int | float, int | float] | None = None,
        depth: int = 1,
        linear: bool = False,
    ) -> None:
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
    def __init__(self, width: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.op(x)


class Upsample(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: torch.Tensor, size: Sequence[int] | None = None) -> torch.Tensor:
        """To twice the height and width; size: to these, where a side was odd before it was halved."""
        size = size or [2 * side for side in x.shape[-2:]]
        return self.conv(F.interpolate(x, size=size, mode="nearest"))


class Block(nn.Sequential):
    """Layers of one input, middle or output block; each takes what it needs of the arguments."""

    @property
    def depth(self) -> int:
        """How many transformer blocks it has."""
        return sum(len(layer.transformer_blocks) for layer in self if isinstance(layer, SpatialTransformer))

    def forward(  # type: ignore[override]  # a sequence by its tensors' names only
        self, x: torch.Tensor, emb: torch.Tensor, readings: Sequence[Reading], size: Sequence[int] | None = None
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """-> the answer, and what the readings, one per transformer block, ask for. size: of an upsampled answer."""
        kept: list[torch.Tensor] = []
        for layer in self:
            if isinstance(layer, ResBlock):
                x = layer(x, emb)
            elif isinstance(layer, SpatialTransformer):
                x, kept = layer(x, readings)
            elif isinstance(layer, Upsample):
                x = layer(x, size)
            else:
                x = layer(x)
        return x, kept
