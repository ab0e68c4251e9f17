"""XDoG lines: a sharpened difference of Gaussians, thresholded. No weights.

Source: AnimeDiffusion (Cao et al.), whose line drawings are made this way from 256-pixel pictures; the extended
difference of Gaussians is by Winnemoeller, Kyprianidis and Olsen (2012).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...pictures import blur

VARIANTS = ("paper", "released")


@dataclass(frozen=True)
class XDoG:
    """The parameters, with the values of the paper."""

    sigma: float = 0.5
    """Of the smaller Gaussian, in pixels, above 0. The paper's experiments use 0.3, 0.4 and 0.5 (its text says 0.3) on
    pictures of 256 pixels; on larger ones 0.5 catches the least grain."""
    k: float = 3.5
    """The larger Gaussian has sigma times k."""
    p: float = 9.0
    """How much the difference of the two counts. 9 in the paper, 10 in the released code."""
    epsilon: float = 0.01
    """Threshold, of 0..1: paper where the response is at least this."""
    phi: float = 1e9
    """Slope below the threshold: large = lines are black, 10 = soft."""
    variant: str = "paper"
    """paper: the response is S. released: the grey picture times S."""

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise ValueError(f"XDoG variant {self.variant!r} is unknown; choose one of {', '.join(VARIANTS)}.")
        if self.sigma <= 0 or self.k <= 0:
            raise ValueError(f"XDoG needs sigma and k above 0, not {self.sigma} and {self.k}.")


def response(grey: torch.Tensor, settings: XDoG) -> torch.Tensor:
    """Grey (B, 1, H, W) in 0..1 -> S = (1 + p) G_sigma - p G_(k sigma), or grey times S in the variant "released"."""
    small = blur.gaussian(grey, settings.sigma)
    large = blur.gaussian(grey, settings.k * settings.sigma)
    sharp = (1 + settings.p) * small - settings.p * large
    return grey * sharp if settings.variant == "released" else sharp


def threshold(values: torch.Tensor, settings: XDoG) -> torch.Tensor:
    """1 (paper) where the response is at least epsilon, else 1 + tanh(phi (response - epsilon)); 0 = line."""
    soft = 1 + torch.tanh(settings.phi * (values - settings.epsilon))
    return torch.where(values >= settings.epsilon, torch.ones_like(values), soft)


def xdog(picture: torch.Tensor, settings: XDoG | None = None) -> torch.Tensor:
    """Picture (B, 3, H, W) in -1..1 -> model sketch (B, 1, H, W) in -1..1, 256 levels."""
    settings = settings or XDoG()
    grey = blur.grey_levels(blur.levels(picture)) / 255
    return 1 - (threshold(response(grey, settings), settings) * 255).round() / 127.5
