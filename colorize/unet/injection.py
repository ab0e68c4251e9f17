"""Arithmetic of attention injection and of matching statistics, as plain functions on tensors.

Attention injection lets self-attention read the tokens of another picture beside its own ("reference-only" elsewhere;
part of the supplement of ColorizeDiffusion v1, arXiv 2401.01456, here after what the released application does).
With A = attention to own and stored tokens, B = attention to own tokens, f = fidelity:

| variant  | rows of the condition with reference | rows without reference |
| even     | stored tokens count 1 - f of an own one, on all rows alike; f = 1 is B |
| released | A                                    | f B + (1 - f) A        |

"released" is what the official application computes: its fidelity never switches the injection off. "even" is ours: the
weight lies inside the softmax, so it costs one attention, where a mean of A and B costs two.

Shape legend: B rows, N own tokens, S stored tokens, C channels, H W size of a feature map.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

MIXED_FROM = 1e-5  # a smaller fidelity leaves every row as it is (released code)
EPSILON = 1e-5  # added to variances (Huang and Belongie 2017)

Attend = Callable[..., torch.Tensor]
"""attend(q, k, v) or attend(q, k, v, mask): multi-head attention (B, N, C), (B, M, C), (B, M, C) -> (B, N, C); mask is
(1, 1, M), added to the scores."""


def even_attention(
    q: torch.Tensor,  # (B, N, C)
    k: torch.Tensor,  # (B, N + S, C), own tokens first
    v: torch.Tensor,  # like k
    own: int,  # N
    fidelity: float,  # 0 (stored tokens count fully) up to but not including 1
    attend: Attend,
) -> torch.Tensor:
    """Softmax attention in which a stored token has 1 - fidelity of the weight its score gives it: (B, N, C)."""
    if fidelity <= 0:
        return attend(q, k, v)
    mask = q.new_zeros(1, 1, k.shape[1])
    mask[..., own:] = math.log1p(-fidelity)
    return attend(q, k, v, mask)


def released_attention(
    q: torch.Tensor,  # (B, N, C)
    k: torch.Tensor,  # (B, N + S, C), own tokens first
    v: torch.Tensor,  # like k
    own: int,  # N
    fidelity: float,  # 0..1
    rows: Sequence[int],  # rows of the condition without reference
    attend: Attend,
) -> torch.Tensor:
    """A, and in `rows` f B + (1 - f) A: (B, N, C)."""
    injected = attend(q, k, v)
    if not rows or fidelity <= MIXED_FROM:
        return injected
    index = torch.tensor(list(rows), device=q.device)
    plain = attend(q[index], k[index, :own], v[index, :own])
    return injected.index_copy(0, index, fidelity * plain + (1 - fidelity) * injected[index])


def statistics(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of every channel over the picture: (B, C, H, W) -> two of (B, C, 1, 1), float32."""
    features = features.float()
    variance, mean = torch.var_mean(features, dim=(2, 3), correction=0, keepdim=True)
    return mean, (variance + EPSILON).sqrt()


def match_statistics(
    features: torch.Tensor,  # (B, C, H, W)
    mean: torch.Tensor,  # (B, C, 1, 1)
    std: torch.Tensor,  # (B, C, 1, 1)
    strength: float = 1.0,  # 0 (features as they are) .. 1 (given statistics)
) -> torch.Tensor:
    """Adaptive instance normalisation (Huang and Belongie 2017, arXiv 1703.06868, Eq. 8), blended: like features."""
    own_mean, own_std = statistics(features)
    matched = (features.float() - own_mean) / own_std * std + mean
    return torch.lerp(features.float(), matched, strength).to(features.dtype)
