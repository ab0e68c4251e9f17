"""Noisy sampling: reference tokens with noise in the early steps, so that the reference's structure leads less.

ColorizeDiffusion v1 (arXiv 2401.01456), Eq. 14. It exists in the paper only; the released application has no such
control. Training with noisy tokens (Eq. 3) is in trainer/losses/noisy_reference.py.
"""

from __future__ import annotations

import torch

SCHEDULE_STEPS = 1000  # T of a run over every step of the training schedule
_EPSILON = 0.0001  # of the paper's condition
_CLOSE = 1e-4  # two sigmas of one step differ less, relatively


def steps_left(sigma: torch.Tensor, sigmas: torch.Tensor) -> torch.Tensor:
    """t (B,), counting down from T to 1, of the step that works at sigma (B,) in a run over sigmas (T + 1,).

    sigmas fall, and the last is what the run ends at. An evaluation between two of them, as second-order solvers make,
    belongs to the step that began above it.
    """
    begun = sigmas[:-1].to(sigma) * (1 + _CLOSE) >= sigma[:, None]
    return len(sigmas) - begun.sum(1).clamp_min(1)


def is_noisy_step(step: torch.Tensor, noise_level: float, steps: int = SCHEDULE_STEPS) -> torch.Tensor:
    """Whether the tokens get noise at the steps t (B,) of T = steps: 1 - t / (T + 0.0001) < noise_level (Eq. 14).

    T is the number of sampling steps (5.1), whatever their sigmas. Steps count down, so the first part of a run,
    noise_level of its steps, is noisy; level 0 is never.
    """
    return (1 - step.double() / (steps + _EPSILON)) < noise_level


def noisy_sampling_tokens(
    tokens: torch.Tensor,  # (B, M, D)
    noise: torch.Tensor,  # (B, M, D) standard normal, the same in every step of a run
    sigma: torch.Tensor,  # (B,) noise level of the step, standard deviation over signal
    step: torch.Tensor,  # (B,) steps left of the run, t
    noise_level: float,  # 0..1
    steps: int = SCHEDULE_STEPS,  # of the run, T
) -> torch.Tensor:
    """alpha_t e + beta_t eps in noisy steps, e in the others (Eq. 14), with alpha = 1 / sqrt(1 + sigma^2)."""
    sigma = sigma.float()
    alpha = (1 / (1 + sigma**2)).sqrt()
    noisy = alpha.view(-1, 1, 1) * tokens.float() + (alpha * sigma).view(-1, 1, 1) * noise.float()
    return torch.where(is_noisy_step(step, noise_level, steps).view(-1, 1, 1), noisy.to(tokens.dtype), tokens)
