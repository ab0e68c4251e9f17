"""The sketch encoder of ColorizeDiffusion XL: four feature maps whose levels have read each other by attention.

A stem and three convolutions make a pyramid; one attention layer lets every level look at itself, at all coarser ones
and at one token of the whole sketch; 1x1 convolutions bring the result to the widths of the U-Net. Source: Towards
High-resolution and Disentangled Reference-based Sketch Colorization (CVPR 2026) and the released files, whose tensor
names (`control_encoder.*`) are kept.

The released application loses the sine of the rotary embedding in half precision, because its table is complex and the
cast keeps the real part. Here the tables are real and stay in float32; `cosine_only` gives what that application
computes.

Shape legend: B batch, H W size of the sketch, n_l tokens of level l, N = 1 + sum of n_l tokens in all, C width of the
attention.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from ..unet.attention import MultiHeadAttention, attend, usual_head_width
from ..unet.layers import set_to_zero
from ..weight_files import check_fits, reads_strange_sizes
from .encoder import stem

HINT_BLOCKS = (0, 3, 6, 8)
"""Hint k is added to the output of this input block of the U-Net (SDXL: 320, 320, 640 and 1280 channels)."""
DEEPEST = 32
"""Sides of a sketch are multiples of this number of pixels."""
ROTARY_PERIOD = 10000.0


@lru_cache(maxsize=8)
def rotary_table(length: int, pairs: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine and sine (length, pairs) of index * 10000^(-j / pairs): computed in float64, kept in float32 on CPU."""
    speeds = ROTARY_PERIOD ** (-torch.arange(pairs, dtype=torch.float64) / pairs)
    angles = torch.arange(length, dtype=torch.float64)[:, None] * speeds
    return angles.cos().float(), angles.sin().float()


def rotary_grid(height: int, width: int, head_width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine and sine (height * width, head_width / 2) of a grid read row by row: half the pairs turn by row, the other
    half by column."""
    pairs = head_width // 4
    tables = []
    for table in rotary_table(max(height, width), pairs):
        rows = table[:height, None].expand(height, width, pairs)
        columns = table[None, :width].expand(height, width, pairs)
        tables.append(torch.cat([rows, columns], dim=-1).flatten(0, 1))
    return tables[0], tables[1]


def rotate(tokens: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor, head_width: int) -> torch.Tensor:
    """Rotary position embedding of tokens (B, n, C): neighbouring channels of a head are pairs; tables (n, pairs)."""
    pairs = tokens.float().unflatten(-1, (-1, head_width // 2, 2))
    cosine, sine = cosine[:, None], sine[:, None]
    first, second = pairs.unbind(-1)
    turned = torch.stack([first * cosine - second * sine, first * sine + second * cosine], dim=-1)
    return turned.flatten(-3).to(tokens.dtype)


class MultiScaleAttention(MultiHeadAttention):
    """Self-attention in which a level's queries see the first token, all coarser levels and their own.

    Queries and keys are RMS-normalised over all channels, then rotated on the grid of their level.
    """

    cosine_only = False
    """Compute what the released application does in half precision: tables rounded, without their sine."""

    def __init__(
        self,
        width: int,
        head_width: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        operations: Any = nn,
    ) -> None:
        super().__init__(width, head_width, device=device, dtype=dtype, operations=operations)
        self.head_width = head_width
        self.q_norm = operations.RMSNorm(width, eps=1e-6, device=device, dtype=dtype)
        self.k_norm = operations.RMSNorm(width, eps=1e-6, device=device, dtype=dtype)

    def forward(  # type: ignore[override]  # it has an attention's parts and looks by levels
        self, tokens: torch.Tensor, grids: Sequence[tuple[int, int]]
    ) -> torch.Tensor:
        """tokens (B, N, C): the whole's, then those of `grids` (height, width), coarse to fine -> (B, N, C)."""
        q, k, v = self.q_norm(self.to_q(tokens)), self.k_norm(self.to_k(tokens)), self.to_v(tokens)
        cosine, sine = (torch.cat(parts).to(tokens.device) for parts in zip(*(self._grid(*grid) for grid in grids)))
        q, k = (torch.cat([x[:, :1], rotate(x[:, 1:], cosine, sine, self.head_width)], dim=1) for x in (q, k))
        answers, start, end = [], 0, 1
        for height, width in grids:  # the token of the whole asks with the coarsest level
            end += height * width
            answers.append(attend(q[:, start:end], k[:, :end], v[:, :end], self.heads))
            start = end
        return self.to_out(torch.cat(answers, dim=1))

    def _grid(self, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
        cosine, sine = rotary_grid(height, width, self.head_width)
        return (cosine.half().float(), torch.zeros_like(sine)) if self.cosine_only else (cosine, sine)


class XLSketchEncoder(nn.Module):
    """Sketch (B, in_channels, H, W) in [-1, 1], white lines (+1) on black (-1) -> four feature maps, shallow to deep.

    They have `model_channels` channels at H/8, then `widths[0]` at H/16, `widths[1]` at H/32 and `widths[2]`, also at
    H/32. H and W must be multiples of 32. A blank sketch is -1 everywhere.
    """

    def __init__(
        self,
        widths: Sequence[int] = (320, 640, 1280),  # of the three levels after the stem; the last is the attention's C
        model_channels: int = 320,  # the U-Net's first width
        in_channels: int = 3,
        head_width: int | None = None,  # of the attention; None: see usual_head_width
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        operations: Any = nn,  # supplies Conv2d, Linear and RMSNorm; ComfyUI passes its casting layers
    ) -> None:
        super().__init__()
        options: dict[str, Any] = dict(device=device, dtype=dtype)

        def conv(inputs: int, outputs: int, stride: int = 1, size: int = 3) -> nn.Module:
            return operations.Conv2d(inputs, outputs, size, stride=stride, padding=size // 2, **options)

        self.model = stem(conv, in_channels, model_channels)
        levels = (model_channels, *widths)
        self.downsample_layers = nn.ModuleList(
            nn.Sequential(nn.SiLU(), conv(inputs, outputs, stride=1 if index == len(widths) - 1 else 2))
            for index, (inputs, outputs) in enumerate(zip(levels, widths))
        )
        inner = levels[-1]
        self.proj_ins = nn.ModuleList(conv(width, inner, size=1) for width in (*levels, inner))
        self.attn_layer = MultiScaleAttention(
            inner, head_width or usual_head_width(inner), operations=operations, **options
        )
        self.proj_outs = nn.ModuleList(conv(inner, width, size=1) for width in levels)

    @classmethod
    @reads_strange_sizes("sketch encoder")
    def from_state_dict(
        cls,
        state_dict: Mapping[str, torch.Tensor],
        prefix: str = "",
        head_width: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        operations: Any = nn,
    ) -> XLSketchEncoder:
        """Build the encoder whose widths the tensors under `prefix` have, and load them (strict)."""
        weights = {k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)}
        if "attn_layer.to_q.weight" not in weights or "model.0.weight" not in weights:
            raise ValueError(f"No XL sketch encoder found under {prefix!r}: {prefix}attn_layer.to_q.weight is missing.")
        levels = sum(1 for k in weights if k.startswith("proj_outs.") and k.endswith(".weight"))
        widths = [weights[f"proj_outs.{level}.weight"].shape[0] for level in range(levels)]
        build = functools.partial(
            cls,
            widths=widths[1:],
            model_channels=widths[0],
            in_channels=weights["model.0.weight"].shape[1],
            head_width=head_width,
            device=device,
            dtype=dtype if dtype is not None else weights["model.0.weight"].dtype,
            operations=operations,
        )
        check_fits(functools.partial(build, device="meta"), weights)
        encoder = build()
        encoder.load_state_dict(weights)
        return encoder.eval()

    def zero_projections(self) -> None:
        """Set the output convolutions to zero: at the start of training the sketch changes nothing.

        The released training starts with the stem's last convolution at zero as well, which delays the sketch.
        """
        for layer in self.proj_outs:
            set_to_zero(layer)

    def tokens(self, sketch: torch.Tensor) -> tuple[torch.Tensor, list[tuple[int, int]]]:
        """Tokens (B, N, C) before the attention, one of the whole first, then coarse to fine; and the levels' sizes."""
        levels = [self.model(sketch)]
        for layer in self.downsample_layers:
            levels.append(layer(levels[-1]))
        whole = self.proj_ins[-1](levels[-1].mean(dim=(2, 3), keepdim=True))
        projected = [project(level) for project, level in zip(self.proj_ins, levels)]
        tokens = [whole.flatten(2), *(level.flatten(2) for level in reversed(projected))]
        return torch.cat(tokens, dim=2).transpose(1, 2), [tuple(level.shape[-2:]) for level in reversed(levels)]

    def forward(self, sketch: torch.Tensor) -> list[torch.Tensor]:
        if sketch.shape[-2] % DEEPEST or sketch.shape[-1] % DEEPEST:
            raise ValueError(
                f"A sketch of {sketch.shape[-1]}x{sketch.shape[-2]} pixels does not fit the XL sketch encoder: "
                f"bring both sides to multiples of {DEEPEST} (Prepare Sketch does)."
            )
        tokens, grids = self.tokens(sketch)
        tokens = tokens + self.attn_layer(tokens, grids)
        parts = tokens[:, 1:].split([height * width for height, width in grids], dim=1)
        maps = [part.transpose(1, 2).unflatten(2, grid) for part, grid in zip(parts, grids)]
        return [project(level) for project, level in zip(self.proj_outs, reversed(maps))]
