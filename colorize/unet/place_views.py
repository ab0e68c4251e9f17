"""What one place of a picture has to do with all others inside the U-Net: a row of the Gram matrix and of attention.

The XL paper shows both for a query point (Fig 3 and 6). Where they follow the lines, the structure is the sketch's;
where they follow the reference's shapes, it is entangled. The paper takes the run without reference for the truth.

Shape legend: B batch, N places of a feature map (h * w), M tokens that are read, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from .strengths import Place

PARTS = ("encoder", "decoder")


@dataclass(frozen=True)
class View:
    """What one block shows of one condition."""

    part: str
    """"encoder" or "decoder"."""
    gram: torch.Tensor
    """(B, h, w): cosines of the place's features with all others."""
    attention: torch.Tensor
    """(B, h, w): what the place's self-attention reads, sum 1 unless it also reads tokens of another picture."""


def lowest_blocks(places: Sequence[Place]) -> tuple[int, int]:
    """Numbers of the last transformer blocks of the lowest resolution in encoder and decoder, as for the Gram loss."""
    last = {(place.part, place.level): number for number, place in enumerate(places)}
    lowest = max(level for part, level in last if part in PARTS)
    encoder, decoder = (last[part, lowest] for part in PARTS)
    return encoder, decoder


def place_of(point: tuple[float, float], size: tuple[int, int]) -> int:
    """A point, shares 0..1 of width and height, -> the number of its place on a feature map of `size` (h, w)."""
    (x, y), (height, width) = point, size
    return min(int(y * height), height - 1) * width + min(int(x * width), width - 1)


def gram_row(features: torch.Tensor, place: int) -> torch.Tensor:
    """Cosines (B, N), -1..1, of the features (B, N, C) of all places with those of one."""
    features = F.normalize(features.float(), dim=-1)
    return (features @ features[:, place, :, None])[..., 0]


def attention_row(q: torch.Tensor, k: torch.Tensor, heads: int, place: int) -> torch.Tensor:
    """Softmax attention (B, M) of the query of one place, q (B, N, C), over keys k (B, M, C), mean over the heads."""
    batch, _, width = q.shape
    query = q[:, place].float().view(batch, heads, 1, -1)
    keys = k.float().view(batch, k.shape[1], heads, -1).transpose(1, 2)
    return (query @ keys.transpose(-1, -2) / math.sqrt(width // heads)).softmax(-1).mean(1)[:, 0]


def view_of(
    part: str,
    attention: Any,  # the block's self-attention: to_q, to_k, heads
    output: torch.Tensor,  # (B, N, C), the block's answer
    x: torch.Tensor,  # (B, N, C), what the self-attention asks with
    context: torch.Tensor,  # (B, M, C), what it reads; the first N are the picture's own places
    place: int,
    size: tuple[int, int],  # h, w with h * w = N
) -> View:
    """The view of one place in one block, on the CPU."""
    row = attention_row(attention.to_q(x), attention.to_k(context), attention.heads, place)[:, : x.shape[1]]
    return View(part, gram_row(output, place).view(-1, *size).cpu(), row.view(-1, *size).cpu())
