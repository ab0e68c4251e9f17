"""Noisy sampling: reference tokens with noise in the early steps, so that the reference's structure leads less.

ColorizeDiffusion v1 (arXiv 2401.01456), Eq. 14. It exists in the paper only; the released application has no such
control. Training with noisy tokens (Eq. 3) is in trainer/losses/noisy_reference.py.
"""

from __future__ import annotations

import torch

STEPS = 1000  # T
_EPSILON = 0.0001  # keeps the last step out at level 1, as in the paper's condition


def is_noisy_step(step: torch.Tensor, noise_level: float) -> torch.Tensor:
    """Whether the tokens get noise at the steps t (B,) of 0..999: 1 - t / (T + 0.0001) < noise_level (Eq. 14).

    Steps count down while sampling, so the first part of a run, of length noise_level, is noisy; level 0 is never.
    """
    return (1 - step.double() / (STEPS + _EPSILON)) < noise_level


def noisy_sampling_tokens(
    tokens: torch.Tensor,  # (B, M, D)
    noise: torch.Tensor,  # (B, M, D) standard normal, the same in every step of a run
    sigma: torch.Tensor,  # (B,) noise level of the step, standard deviation over signal
    step: torch.Tensor,  # (B,) the same as a step 0..999, may be fractional
    noise_level: float,  # 0..1
) -> torch.Tensor:
    """alpha_t e + beta_t eps in noisy steps, e in the others (Eq. 14), with alpha = 1 / sqrt(1 + sigma^2)."""
    sigma = sigma.float()
    alpha = (1 / (1 + sigma**2)).sqrt()
    noisy = alpha.view(-1, 1, 1) * tokens.float() + (alpha * sigma).view(-1, 1, 1) * noise.float()
    return torch.where(is_noisy_step(step, noise_level).view(-1, 1, 1), noisy.to(tokens.dtype), tokens)
