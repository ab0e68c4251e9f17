"""The denoising loss: kinds of noise, eps or v target, weights of samples by their noise, of places by the figure.

Source: ColorizeDiffusion v1 (arXiv 2401.01456, eq. 1) and the released trainer; min-SNR: Hang 2023 (arXiv 2303.09556).
The rest is of no paper of these models: P2 weights (Choi 2022, arXiv 2204.00227), debiased weights (Yu 2023, arXiv
2310.08442), input perturbation (Ning 2023, arXiv 2301.11706), multi-resolution noise (Whitaker 2023, "Multi-Resolution
Noise for Diffusion Model Training"). The two weights are made for the error of the noise; with v prediction they are
times S / (S + 1), as the same error of the velocity is larger by (S + 1) / S.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from colorize.sampling.schedule import NoiseSchedule
from trainer.config import Loss
from trainer.draws import Draws

CLEANEST = 1000.0
"""Signal-to-noise ratio beyond which debiased weights fall no further."""


def offset_noise(noise: torch.Tensor, level: float, draws: Draws) -> torch.Tensor:
    """noise (B, C, H, W) plus `level` times one normal number per sample and channel; level 0 returns it unchanged."""
    if level == 0:
        return noise
    shift = draws.randn(noise.shape[:2]).to(noise)
    return add_offset(noise, shift, level)


def add_offset(noise: torch.Tensor, shift: torch.Tensor, level: float) -> torch.Tensor:
    """noise (B, C, H, W) + level * shift (B, C)."""
    return noise + level * shift[:, :, None, None]


def drawn_noise(shape: Sequence[int], loss: Loss, draws: Draws) -> torch.Tensor:
    """The noise (B, C, H, W) of a training step, which the network learns to tell: normal, with loss.pyramid_noise and
    loss.offset_noise."""
    noise = pyramid_noise(draws.randn(shape), loss.pyramid_noise, draws)
    return offset_noise(noise, loss.offset_noise, draws)


def shown_noise(noise: torch.Tensor, loss: Loss, draws: Draws) -> torch.Tensor:
    """The noise (B, C, H, W) that is laid over the latents: with loss.input_perturbation some more than is asked for,
    as the errors of earlier steps are in sampling."""
    if not loss.input_perturbation:
        return noise
    return noise + loss.input_perturbation * draws.randn(noise.shape).to(noise)


def pyramid_noise(noise: torch.Tensor, discount: float, draws: Draws) -> torch.Tensor:
    """noise (B, C, H, W) plus discount^k times noise of 1/2^k of its size, k = 1, 2, ... down to a pixel, each sample
    brought back to a standard deviation of 1. discount 0 returns it unchanged."""
    if discount == 0:
        return noise
    height, width = noise.shape[-2:]
    for level in range(1, min(height, width).bit_length()):
        size = (height >> level, width >> level)
        coarse = F.interpolate(draws.randn((*noise.shape[:2], *size)).to(noise), (height, width), mode="bilinear")
        noise = noise + discount**level * coarse
    return noise / noise.std(dim=(1, 2, 3), keepdim=True)


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


def sample_weight(schedule: NoiseSchedule, t: torch.Tensor, prediction: str, loss: Loss) -> torch.Tensor | None:
    """(B,) weights of samples at steps t (B,), or None where all weigh the same: min-SNR, S^-1/2 (debiased), or
    (1 + S)^-gamma (P2)."""
    if loss.min_snr_gamma:
        return min_snr_weight(schedule, t, loss.min_snr_gamma, prediction)
    if loss.weighting == "none":
        return None
    snr = schedule.signal_to_noise(t)
    weight = snr.clamp_max(CLEANEST).rsqrt() if loss.weighting == "debiased" else (1 + snr) ** -loss.p2_gamma
    return weight * snr / (1 + snr) if prediction == "v" else weight


def place_weights(masks: torch.Tensor, loss: Loss) -> torch.Tensor | None:
    """Weights of places for figure masks (B, 1, h, w) in 0..1 of the latents' size; None where all weigh the same."""
    return None if loss.background_weight == 1 else loss.background_weight + (1 - loss.background_weight) * masks


def target_and_weight(
    schedule: NoiseSchedule, x0: torch.Tensor, noise: torch.Tensor, t: torch.Tensor, prediction: str, loss: Loss
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """What the network should answer at steps t (B,), and `sample_weight`."""
    return target(schedule, x0, noise, t, prediction), sample_weight(schedule, t, prediction, loss)


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
    weight: torch.Tensor | None = None,  # (B,) per sample, from `sample_weight`
    mask: torch.Tensor | None = None,  # (B, 1, H, W); the mean stays over all elements
    huber: float = 0.0,  # difference from which on it counts linearly; 0: squared everywhere
    places: torch.Tensor | None = None,  # (B, 1, H, W) from `place_weights`, which goes with weights of samples too
) -> torch.Tensor:
    """Mean squared error in float32, or Huber's. The released trainer ignores the mask when min-SNR weights are on; so
    do we."""
    error = huber_error(answer.float() - wanted.float(), huber)
    if places is not None:
        error = error * places
    if weight is not None:
        return (error.mean(dim=(1, 2, 3)) * weight).mean()
    if mask is not None:
        error = error * mask
    return error.mean()
