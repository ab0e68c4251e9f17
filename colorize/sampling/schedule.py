"""The noise schedule of the Stable Diffusion family and the two prediction types.

Symbols: t integer step 0..999 (0 = almost clean), a_t cumulative alpha, x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) eps,
sigma = sqrt((1 - a_t) / a_t), v = sqrt(a_t) eps - sqrt(1 - a_t) x_0 (Salimans and Ho 2022, "Progressive Distillation").
"""

from __future__ import annotations

from typing import TypeVar

import torch

PREDICTION_TYPES = ("v", "eps")
Schedule = TypeVar("Schedule", bound="NoiseSchedule")


def fractional_step(log_sigmas: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Step of each sigma, any shape, interpolated in the ascending table log_sigmas (steps,); its ends outside it."""
    log_sigma = sigma.clamp_min(1e-20).log()
    low = torch.searchsorted(log_sigmas, log_sigma.contiguous(), right=True).sub(1).clamp(0, len(log_sigmas) - 2)
    return low + ((log_sigma - log_sigmas[low]) / (log_sigmas[low + 1] - log_sigmas[low])).clamp(0, 1)


class NoiseSchedule:
    """Scaled-linear betas: linspace(sqrt(start), sqrt(end), steps)^2, computed in float64 and kept in float32.

    Tensors `betas`, `alphas_cumprod`, `sigmas` have shape (steps,); `to(device)` moves them.
    """

    def __init__(self, steps: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012) -> None:
        self.set_betas(torch.linspace(beta_start**0.5, beta_end**0.5, steps, dtype=torch.float64) ** 2)

    def set_betas(self, betas: torch.Tensor) -> None:
        """Compute the tables of these betas (steps,), in their precision; they are kept in float32."""
        alphas_cumprod = torch.cumprod(1.0 - betas, dim=0)
        self.steps = len(betas)
        self.betas = betas.float()
        self.alphas_cumprod = alphas_cumprod.float()
        self.sigmas = ((1.0 - alphas_cumprod) / alphas_cumprod).sqrt().float()

    def to(self: Schedule, device: torch.device | str) -> Schedule:
        """Move the tables to `device`; returns self."""
        for name in ("betas", "alphas_cumprod", "sigmas"):
            setattr(self, name, getattr(self, name).to(device))
        return self

    def coefficients(self, t: torch.Tensor, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """sqrt(a_t) and sqrt(1 - a_t) for integer steps t (B,), shaped to broadcast over `like` (B, ...)."""
        alphas = self.alphas_cumprod.to(like.device)[t].float()
        shape = (-1,) + (1,) * (like.ndim - 1)
        return alphas.sqrt().view(shape), (1.0 - alphas).sqrt().view(shape)

    def add_noise(self, x0: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """x_t for clean x0 (B, ...), unit noise of the same shape and integer steps t (B,)."""
        signal, spread = self.coefficients(t, x0)
        return signal * x0 + spread * noise

    def velocity(self, x0: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """The v target of x0 and noise at integer steps t (B,)."""
        signal, spread = self.coefficients(t, x0)
        return signal * noise - spread * x0

    def x0_from(
        self, prediction: torch.Tensor, x_t: torch.Tensor, t: torch.Tensor, prediction_type: str
    ) -> torch.Tensor:
        """The clean sample a network's answer implies, for prediction type "v" or "eps"."""
        signal, spread = self.coefficients(t, x_t)
        if prediction_type == "v":
            return signal * x_t - spread * prediction
        if prediction_type == "eps":
            return (x_t - spread * prediction) / signal
        raise ValueError(f"Prediction type {prediction_type!r} is unknown; choose one of {PREDICTION_TYPES}.")

    def signal_to_noise(self, t: torch.Tensor) -> torch.Tensor:
        """a_t / (1 - a_t) at integer steps t (B,)."""
        alphas = self.alphas_cumprod.to(t.device)[t]
        return alphas / (1.0 - alphas)

    def timesteps_leading(self, steps: int, offset: int = 1, intervals: int | None = None) -> torch.Tensor:
        """Descending integer steps spaced from the clean end ("leading" in diffusers): k * stride + offset.

        DDIM divides the schedule into `steps` intervals. DPM-Solver++ divides it into `steps` + 1 and skips the
        first, so it starts one stride below the top: pass intervals = steps + 1 (released: 20 steps start at 941).
        """
        intervals = intervals or steps
        if not 0 < steps <= intervals <= self.steps:
            raise ValueError(f"Between 1 and {self.steps - 1} sampling steps are possible, not {steps}.")
        stride = self.steps // intervals
        return torch.arange(intervals).mul(stride).add(offset)[intervals - steps :].flip(0)

    def timesteps_simple(self, steps: int) -> torch.Tensor:
        """Descending integer steps as ComfyUI's scheduler "simple" takes them: from the noisiest, evenly spaced."""
        if not 0 < steps <= self.steps:
            raise ValueError(f"Between 1 and {self.steps} sampling steps are possible, not {steps}.")
        return self.steps - 1 - torch.arange(steps) * self.steps // steps

    def sigma_to_t(self, sigma: torch.Tensor) -> torch.Tensor:
        """Fractional step of a noise level by interpolation in log sigma (k-diffusion, used by the released code)."""
        return fractional_step(self.sigmas.to(sigma.device).log(), sigma)

    def t_to_sigma(self, t: torch.Tensor) -> torch.Tensor:
        """Inverse of `sigma_to_t`: noise level of a fractional step."""
        t = t.float().clamp(0, self.steps - 1)
        low = t.floor().long().clamp_max(self.steps - 2)
        table = self.sigmas.to(t.device).log()
        return torch.lerp(table[low], table[low + 1], t - low).exp()
