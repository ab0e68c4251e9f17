"""Noisy training: the reference tokens get noise that follows the step, so early steps cannot copy its structure.

Source: ColorizeDiffusion v1 (arXiv 2401.01456, eq. 3): tokens_t = sqrt(a_t) tokens + sqrt(1 - a_t) noise.
"""

from __future__ import annotations

import torch

from colorize.sampling.schedule import NoiseSchedule

VARIANTS = ("paper", "released")


def token_steps(t: torch.Tensor, variant: str, steps: int = 1000) -> torch.Tensor:
    """The step (B,) whose noise the tokens get.

    paper: t itself. released: steps - 1 - t when t >= 0.9 * steps, so the noisiest steps see almost clean tokens.
    """
    if variant not in VARIANTS:
        raise ValueError(f"Noisy training variant {variant!r} is unknown; choose one of {VARIANTS}.")
    if variant == "paper":
        return t
    return torch.where(t >= 0.9 * steps, steps - 1 - t, t)


def noisy_tokens(
    schedule: NoiseSchedule, tokens: torch.Tensor, noise: torch.Tensor, t: torch.Tensor, variant: str = "released"
) -> torch.Tensor:
    """Tokens (B, M, D) with noise (B, M, D) mixed in at image steps t (B,)."""
    return schedule.add_noise(tokens, noise, token_steps(t, variant, schedule.steps))
