"""Dual-conditioned training: every sample is denoised with its reference and without.

A reference narrows what the network may answer, and a network trained with references only drifts away from what the
sketch alone asks for. ColorizeDiffusion v1 (arXiv 2401.01456, eq. 4, lambda = 4) therefore trains both predictions of
one sample: L = |wanted - answer(sketch, reference)|^2 + lambda |wanted - answer(sketch)|^2.

The released trainer has no such loss. Of the paper only the abstract, lambda and the aim (the distribution with a
reference must stay that of the sketch) could be read when this was written; the two terms are our reading of it. It
agrees with the paper's drop rate: lambda / (1 + lambda) = 0.8 is the share of samples that reference drop gives to the
second term. Switch reference drop off when this loss is on.
"""

from __future__ import annotations

import torch

from .diffusion import denoising_loss


def dual_conditioned_loss(
    answer: torch.Tensor,  # (B, C, H, W) with the reference
    answer_without: torch.Tensor,  # (B, C, H, W) for the same noisy latents, with zero tokens
    wanted: torch.Tensor,  # (B, C, H, W) noise or velocity
    lambda_: float = 4.0,
    weight: torch.Tensor | None = None,  # (B,) per sample, from `min_snr_weight`
) -> dict[str, torch.Tensor]:
    """The two terms by name: "denoising" with the reference, "dual" without it, times lambda. Mean squared errors."""
    return {
        "denoising": denoising_loss(answer, wanted, weight),
        "dual": lambda_ * denoising_loss(answer_without, wanted, weight),
    }
