"""Multi-head attention with the tensor names of this family: to_q, to_k, to_v without bias, to_out.0 with one.

Shape legend: B batch, N queries, M tokens, C width of the queries, D width of the tokens, I = heads * head width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int) -> torch.Tensor:
    """softmax(q k^T / sqrt(head width)) v in every head: (B, N, I), (B, M, I), (B, M, I) -> (B, N, I)."""

    def split(tokens: torch.Tensor) -> torch.Tensor:
        return tokens.unflatten(-1, (heads, -1)).transpose(1, 2)

    return F.scaled_dot_product_attention(split(q), split(k), split(v)).transpose(1, 2).flatten(2)


class MultiHeadAttention(nn.Module):
    """Attention of x (B, N, C) over tokens (B, M, D); without tokens over x itself. Answers (B, N, C)."""

    def __init__(
        self,
        width: int,  # C
        head_width: int,
        token_width: int | None = None,  # D; None: C
        heads: int | None = None,  # None: as many whole heads as fit C
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        operations: Any = nn,  # supplies Linear; ComfyUI passes its casting layers
    ) -> None:
        super().__init__()
        self.heads = heads or max(1, width // head_width)
        inner, tokens = self.heads * head_width, token_width or width
        options = dict(device=device, dtype=dtype)
        self.to_q = operations.Linear(width, inner, bias=False, **options)
        self.to_k = operations.Linear(tokens, inner, bias=False, **options)
        self.to_v = operations.Linear(tokens, inner, bias=False, **options)
        # Index 1 is the dropout of the original layout.
        self.to_out = nn.Sequential(operations.Linear(inner, width, **options), nn.Identity())

    def forward(self, x: torch.Tensor, tokens: torch.Tensor | None = None) -> torch.Tensor:
        tokens = x if tokens is None else tokens
        return self.to_out(attend(self.to_q(x), self.to_k(tokens), self.to_v(tokens), self.heads))


def usual_head_width(width: int) -> int:
    """Head width of an attention of this width outside the U-Net, which leaves no trace in the weights.

    128 as in the released XL files where it divides the width, else 64, else one head of the whole width.
    """
    return next((size for size in (128, 64) if width % size == 0), width)
