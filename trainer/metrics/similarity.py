"""How alike two pictures are, pixel by pixel: PSNR and MS-SSIM. The arithmetic is that of torchmetrics."""

from __future__ import annotations

from types import ModuleType

import torch

from colorize.pictures.ranges import model_to_unit
from trainer.config import ConfigError

SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Weights of the scales of MS-SSIM, finest first (Wang, Simoncelli and Bovik 2003)."""
WINDOW = 11  # pixels; side of the Gaussian window


def psnr(result: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Peak signal-to-noise ratio in dB, (B,), of pictures (B, 3, H, W) in [-1, 1]; values beyond count as clipped."""
    functional = _functional()
    ours, wanted = _unit(result, truth)
    return functional.peak_signal_noise_ratio(ours, wanted, data_range=1.0, reduction="none", dim=(1, 2, 3))


def ms_ssim(result: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Multi-scale structural similarity 0..1, (B,), of pictures (B, 3, H, W) in [-1, 1].

    Five scales from 161 pixels on (the published measure). Smaller pictures have room for fewer: the coarsest are left
    out and the weights of the others brought to sum 1, so numbers of different sizes are not comparable. As in
    torchmetrics, the coarsest scale counts windows across the mirrored border, too.
    """
    scales = scales_for(min(result.shape[-2:]))
    weights = SCALE_WEIGHTS[:scales]
    ours, wanted = _unit(result, truth)
    measure = _functional().multiscale_structural_similarity_index_measure
    betas = tuple(weight / sum(weights) for weight in weights) if scales < len(SCALE_WEIGHTS) else weights
    return measure(ours, wanted, kernel_size=WINDOW, data_range=1.0, reduction="none", betas=betas, normalize="relu")


def scales_for(side: int) -> int:
    """How many of the five scales pictures with this shorter side have room for. Raises ConfigError below 11 pixels."""
    scales = sum(side > (WINDOW - 1) * 2**scale for scale in range(len(SCALE_WEIGHTS)))
    if not scales:
        raise ConfigError(f"MS-SSIM needs pictures of at least {WINDOW} pixels, not {side}.")
    return scales


def _unit(result: torch.Tensor, truth: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    if result.shape != truth.shape:
        raise ValueError(f"Pictures of the shapes {tuple(result.shape)} and {tuple(truth.shape)} cannot be compared.")
    first, second = (model_to_unit(picture.float().clamp(-1, 1)) for picture in (result, truth))
    return first, second


def _functional() -> ModuleType:
    try:
        from torchmetrics.functional import image
    except ImportError:
        raise ConfigError('PSNR and MS-SSIM need torchmetrics: pip install ".[trainer]" (or torchmetrics).') from None
    return image
