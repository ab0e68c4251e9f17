"""The denoising loss: noise with a per-channel offset, eps or v target, min-SNR weights, masks.

Source: ColorizeDiffusion v1 (arXiv 2401.01456, eq. 1) and the released trainer; min-SNR: Hang 2023 (arXiv 2303.09556).
"""

from __future__ import annotations

import torch

from colorize.sampling.schedule import NoiseSchedule
from trainer.draws import Draws


def offset_noise(noise: torch.Tensor, level: float, draws: Draws) -> torch.Tensor:
    """noise (B, C, H, W) plus `level` times one normal number per sample and channel; level 0 returns it unchanged."""
    if level == 0:
        return noise
    shift = draws.randn(noise.shape[:2]).to(noise)
    return add_offset(noise, shift, level)


def add_offset(noise: torch.Tensor, shift: torch.Tensor, level: float) -> torch.Tensor:
    """noise (B, C, H, W) + level * shift (B, C)."""
    return noise + level * shift[:, :, None, None]


def target(
    schedule: NoiseSchedule, x0: torch.Tensor, noise: torch.Tensor, t: torch.Tensor, prediction: str
) -> torch.Tensor:
    """What the network should answer at steps t (B,): the noise ("eps") or the velocity ("v")."""
    return noise if prediction == "eps" else schedule.velocity(x0, noise, t)


def min_snr_weight(schedule: NoiseSchedule, t: torch.Tensor, gamma: float, prediction: str) -> torch.Tensor:
    """min(S, gamma) / S with S the signal-to-noise ratio at t (B,), plus 1 for v prediction before clamping."""
    snr = schedule.signal_to_noise(t)
    if prediction == "v":
        snr = snr + 1.0
    return snr.clamp_max(gamma) / snr


def target_and_weight(
    schedule: NoiseSchedule, x0: torch.Tensor, noise: torch.Tensor, t: torch.Tensor, prediction: str, gamma: float
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """What the network should answer at steps t (B,), and min-SNR weights (B,), or None for gamma 0."""
    weight = min_snr_weight(schedule, t, gamma, prediction) if gamma else None
    return target(schedule, x0, noise, t, prediction), weight


def huber_error(difference: torch.Tensor, delta: float) -> torch.Tensor:
    """The square of each difference d up to delta, and 2 delta |d| - delta^2 beyond; delta 0: squares only.

    Twice Huber's function (1964), so that small differences count as in a squared error.
    """
    if not delta:
        return difference**2
    size = difference.abs()
    return torch.where(size <= delta, difference**2, delta * (2 * size - delta))


def denoising_loss(
    answer: torch.Tensor,  # (B, C, H, W) of the network
    wanted: torch.Tensor,  # (B, C, H, W) from `target`
    weight: torch.Tensor | None = None,  # (B,) per sample, from `min_snr_weight`
    mask: torch.Tensor | None = None,  # (B, 1, H, W); the mean stays over all elements
    huber: float = 0.0,  # difference from which on it counts linearly; 0: squared everywhere
) -> torch.Tensor:
    """Mean squared error in float32, or Huber's. The released trainer ignores the mask when min-SNR weights are on; so
    do we."""
    error = huber_error(answer.float() - wanted.float(), huber)
    if weight is not None:
        return (error.mean(dim=(1, 2, 3)) * weight).mean()
    if mask is not None:
        error = error * mask
    return error.mean()
