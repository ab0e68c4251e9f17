"""Latent shuffle: references whose parts are not where they belong, against the distribution problem.

Source: ColorizeDiffusion v1 (arXiv 2401.01456, 3.3, "shuffle training"): the local tokens change places before they
enter the U-Net. The released helper draws one permutation for the whole batch; no released trainer calls it.

What it does: nothing to the U-Net. Keys and values of cross-attention carry no position, so its answer does not depend
on the order of the tokens; their content, which the encoder computed in the right order, goes in all the same. Only
noise that is added to the tokens afterwards falls on others. `shuffle_patches` is ours: it moves the patches of the
picture before the encoder, whose answer then really knows other neighbours and other places.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from trainer.draws import Draws


def draw_permutation(count: int, draws: Draws) -> torch.Tensor:
    """A random order (count,) of the local tokens."""
    return torch.randperm(count, generator=draws.shared)


def shuffle_tokens(tokens: torch.Tensor, permutation: torch.Tensor) -> torch.Tensor:
    """Local tokens (B, N, D) in the order of permutation (N,). Leave the CLS token out before calling."""
    return tokens[:, permutation.to(tokens.device)]


def shuffle_patches(pictures: torch.Tensor, permutation: torch.Tensor, grid: int, size: int) -> torch.Tensor:
    """Pictures (B, 3, H, W) squashed to the encoder's square of `size` pixels, its grid x grid patches in the order of
    permutation (grid * grid,) -> (B, 3, size, size)."""
    square = F.interpolate(pictures, (size, size), mode="bicubic", align_corners=True, antialias=True)
    side = size // grid
    patches = F.unfold(square, side, stride=side)  # (B, 3 * side * side, grid * grid)
    return F.fold(patches[:, :, permutation.to(pictures.device)], (size, size), side, stride=side)
