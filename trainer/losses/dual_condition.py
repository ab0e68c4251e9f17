"""Dual-conditioned training: every sample is denoised with its reference and without.

A reference narrows what the network may answer, and a network trained with references only drifts away from what the
sketch alone asks for. ColorizeDiffusion v1 (arXiv 2401.01456, eq. 4) therefore penalises both at once, at one step t:

    L = |eps - answer(z_t, t, sketch, reference)|^2 + lambda |eps' - answer(z'_t, t, sketch)|^2, lambda = 4,

where z_t and z'_t are the same picture under two noises, eps and eps'. The released trainer has no such loss. It stands
in the place of reference drop (the paper's Dual-0 drops none): of a drop rate 0.8, too, lambda / (1 + lambda) of the
gradient belongs to samples without reference.
"""

from __future__ import annotations

import torch

from .diffusion import denoising_loss


def dual_conditioned_loss(
    answer: torch.Tensor,  # (B, C, H, W) with the reference, for latents under the first noise
    wanted: torch.Tensor,  # (B, C, H, W) that noise, or its velocity
    answer_without: torch.Tensor,  # (B, C, H, W) with zero tokens, for the same latents under the second noise
    wanted_without: torch.Tensor,  # (B, C, H, W) that noise, or its velocity
    lambda_: float = 4.0,
    weight: torch.Tensor | None = None,  # (B,) per sample, from `sample_weight`
    huber: float = 0.0,  # as for `denoising_loss`
    places: torch.Tensor | None = None,  # as for `denoising_loss`
) -> dict[str, torch.Tensor]:
    """The two terms by name: "denoising" with the reference, "dual" without it, times lambda. Mean squared errors."""
    return {
        "denoising": denoising_loss(answer, wanted, weight, huber=huber, places=places),
        "dual": lambda_ * denoising_loss(answer_without, wanted_without, weight, huber=huber, places=places),
    }
