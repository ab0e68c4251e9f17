"""What the decoder of a v2 U-Net does with what the picture encoders saw (picture_encoder.py).

Before an output block, its skip connection takes up the tokens of a background picture wherever the drawing has no
figure (`Warp`). After the block, its answer is scaled and shifted by a vector of a style picture (`Modulation`). Both
have weights of their own for every output block. Source: released code, observed.

Shape legend: B batch, C channels of a skip or an answer, H W its size, N = H * W, S tokens of a background, E width of
the time embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .attention import MultiHeadAttention, attend
from .split_attention import Split, SplitOptions

WARP_HEAD_WIDTH = 64
"""Channels per attention head of every warp module, whatever the U-Net's heads are."""

Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, int], torch.Tensor]
"""Multi-head attention of q (B, N, C), k and v (B, S, C) and a number of heads -> (B, N, C)."""


class Warp(nn.Module):
    """Tokens t of a skip look at tokens of a background: t += attn(LN t, tokens), then t += MLP(LN t)."""

    def __init__(
        self,
        width: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        operations: Any = nn,
    ) -> None:
        super().__init__()
        options: dict[str, Any] = dict(device=device, dtype=dtype)
        self.norm1, self.norm2 = operations.LayerNorm(width, **options), operations.LayerNorm(width, **options)
        self.attn = MultiHeadAttention(width, WARP_HEAD_WIDTH, **options, operations=operations)
        self.ff = nn.Sequential(
            operations.Linear(width, 4 * width, **options), nn.SiLU(), operations.Linear(4 * width, width, **options)
        )

    def forward(
        self,
        skip: torch.Tensor,
        tokens: torch.Tensor | None = None,
        attend: Attend = attend,
        pair: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """skip (B, C, H, W) over tokens (B or 1, S, C), which are not normalised; without tokens over itself.

        pair: keys and values of the tokens, where they are known.
        """
        t = skip.flatten(2).transpose(1, 2)
        normed = self.norm1(t)
        tokens = normed if tokens is None else tokens
        # The tokens of a single background are projected once for all rows.
        pair = pair or (self.attn.to_k(tokens), self.attn.to_v(tokens))
        k, v = (values.expand(len(t), -1, -1) for values in pair)
        t = t + self.attn.to_out(attend(self.attn.to_q(normed), k, v, self.attn.heads))
        t = t + self.ff(self.norm2(t))
        return t.transpose(1, 2).unflatten(2, skip.shape[-2:])


class Modulation(nn.Sequential):
    """h -> h (1 + scale) + shift, with (scale, shift) = Linear(LN(style + Linear(emb)))."""

    def __init__(
        self,
        emb_width: int,
        width: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        operations: Any = nn,
    ) -> None:
        options = dict(device=device, dtype=dtype)
        super().__init__(
            operations.LayerNorm(2 * width, **options),
            operations.Linear(emb_width, 2 * width, **options),
            operations.Linear(2 * width, 2 * width, **options),
        )

    def forward(  # type: ignore[override]  # a sequence by its tensors' names only
        self, h: torch.Tensor, emb: torch.Tensor, style: torch.Tensor
    ) -> torch.Tensor:
        """h (B, C, H, W), emb (B, E) as the time embedding makes it, style (B or 1, 2 C)."""
        norm, of_time, last = self
        scale, shift = last(norm(style + of_time(emb)))[..., None, None].chunk(2, dim=1)
        return h * (1 + scale) + shift


@dataclass(frozen=True, eq=False)
class DecoderGuide:
    """What the decoder reads in one step beside the reference tokens."""

    backgrounds: Sequence[torch.Tensor] = ()
    """(B or 1, S_i, C_i) of every output block; empty: skips stay as they are."""
    styles: Sequence[torch.Tensor] = ()
    """(B or 1, 2 C_i) of every output block; empty: answers stay as they are."""
    split: Split | None = None
    """Where the figure is: its options count, its tokens do not. None: the background is everywhere."""
    pairs: Sequence[tuple[torch.Tensor, torch.Tensor]] = ()
    """Keys and values of the backgrounds, where they are known."""

    def skip(self, number: int, warp: Warp, skip: torch.Tensor, attend: Attend = attend) -> torch.Tensor:
        """The skip (B, C, H, W) of output block `number`: warped where the background is.

        Who is background follows `split.options`: below the threshold and on it, or softly by the mask's value.
        """
        if not self.backgrounds:
            return skip
        pair = self.pairs[number] if self.pairs else None
        warped = warp(skip, self.backgrounds[number].to(skip), attend, pair)
        if self.split is None:
            return warped
        size = skip.shape[-2:]
        figure = self.split.weights(*size)[:, 0].unflatten(1, size)[:, None]
        if self.split.options.soft:
            figure = figure.to(skip)
            return skip * figure + warped * (1 - figure)
        return torch.where(figure > 0, skip, warped)

    def modulate(self, number: int, modulation: Modulation, h: torch.Tensor, emb: torch.Tensor) -> torch.Tensor:
        """The answer h (B, C, H, W) of output block `number` in the style."""
        return modulation(h, emb, self.styles[number].to(h)) if self.styles else h


def figure_split(masks: torch.Tensor, threshold: float = SplitOptions.threshold, soft: bool = False) -> Split:
    """Figure masks (B, F, h, w) at the size of the latent -> a Split for `DecoderGuide`, all figures as one."""
    return Split((masks, masks), masks.amax(dim=1, keepdim=True), figure_options(threshold, soft))


def figure_options(threshold: float = SplitOptions.threshold, soft: bool = False) -> SplitOptions:
    """Who is background for a `DecoderGuide`."""
    return SplitOptions(kinds=(None, None), strengths=(1.0, 1.0), threshold=threshold, soft=soft)
