"""Latent shuffle: permute the local tokens of the reference, so that colour is learnt without position.

Source: ColorizeDiffusion v1 (arXiv 2401.01456, "shuffle training"). The released helper draws one permutation for the
whole batch; no released trainer calls it.
"""

from __future__ import annotations

import torch


def draw_permutation(count: int, generator: torch.Generator | None = None) -> torch.Tensor:
    """A random order (count,) of the local tokens."""
    return torch.randperm(count, generator=generator)


def shuffle_tokens(tokens: torch.Tensor, permutation: torch.Tensor) -> torch.Tensor:
    """Local tokens (B, N, D) in the order of permutation (N,). Leave the CLS token out before calling."""
    return tokens[:, permutation.to(tokens.device)]
