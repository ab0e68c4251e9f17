"""Two samplers for use outside ComfyUI: DDIM and DPM-Solver++ (2M) on discrete steps.

The nodes never come here, they use ComfyUI's samplers. The trainer draws its sample sheets with these, and the golden
cases of the released sampling loops are reproduced with them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from .schedule import NoiseSchedule

# (x_t (B, ...), step t (B,)) -> the network's guided answer, same shape as x_t
Predictor = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def _signal_and_spread(schedule: NoiseSchedule, t: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    """sqrt(a_t), sqrt(1 - a_t) in float64; t None is the clean end."""
    alpha = torch.ones((), dtype=torch.float64) if t is None else schedule.alphas_cumprod[t].double().cpu()
    return alpha.sqrt(), (1.0 - alpha).sqrt()


def sample_ddim(
    predict: Predictor,
    x: torch.Tensor,
    schedule: NoiseSchedule,
    prediction_type: str,
    steps: int = 20,
    simple: bool = False,
) -> torch.Tensor:
    """DDIM with eta 0 (Song 2021, eq. 12) from unit noise x to a clean sample; leading spacing, last alpha 1.

    simple: with the steps of ComfyUI's scheduler of this name, from the noisiest on; that is its sampler euler, and
    what students of few steps are made for.
    """
    timesteps = (schedule.timesteps_simple(steps) if simple else schedule.timesteps_leading(steps)).tolist()
    for t, t_next in zip(timesteps, [*timesteps[1:], None], strict=True):
        rows = torch.full((x.shape[0],), t, device=x.device)
        x0 = schedule.x0_from(predict(x, rows), x, rows, prediction_type)
        signal, spread = _signal_and_spread(schedule, t)
        next_signal, next_spread = _signal_and_spread(schedule, t_next)
        noise = (x - signal.to(x) * x0) / spread.to(x)
        x = next_signal.to(x) * x0 + next_spread.to(x) * noise
    return x


def karras_levels(schedule: NoiseSchedule, steps: int, rho: float = 7.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Karras spacing (Karras 2022, eq. 5) over the whole schedule: nearest whole steps (int64) and sigmas (float64)."""
    sigma_max, sigma_min = schedule.sigmas[-1].double(), schedule.sigmas[0].double()
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    sigmas = (sigma_max ** (1 / rho) + ramp * (sigma_min ** (1 / rho) - sigma_max ** (1 / rho))) ** rho
    return schedule.sigma_to_t(sigmas.float()).round().long(), sigmas


def sample_dpm_solver(
    predict: Predictor,
    x: torch.Tensor,
    schedule: NoiseSchedule,
    prediction_type: str,
    steps: int = 20,
    karras: bool = False,
) -> torch.Tensor:
    """DPM-Solver++ (2M), midpoint, first order at the ends (Lu 2022, algorithm 2), from unit noise to a clean sample.

    The released application's default. With `karras`, noise levels follow Karras spacing and the network sees the
    nearest whole step.
    """
    timesteps = schedule.timesteps_leading(steps, intervals=steps + 1)
    sigmas = schedule.sigmas[timesteps].double()
    if karras:
        timesteps, sigmas = karras_levels(schedule, steps)
    levels = [*sigmas.tolist(), 0.0]
    previous: tuple[torch.Tensor, torch.Tensor] | None = None  # x0 and h of the step before
    for index, t in enumerate(timesteps.tolist()):
        sigma, sigma_next = (torch.tensor(s, dtype=torch.float64) for s in levels[index : index + 2])
        signal = (1.0 + sigma**2).rsqrt()  # sqrt(a) of this noise level
        spread = sigma * signal
        rows = torch.full((x.shape[0],), t, device=x.device)
        answer = predict(x, rows)
        if prediction_type == "v":
            x0 = signal.to(x) * x - spread.to(x) * answer
        else:
            x0 = (x - spread.to(x) * answer) / signal.to(x)
        if sigma_next == 0:
            return x0
        h = (sigma / sigma_next).log()  # difference of log signal-to-noise
        estimate = x0
        if previous is not None:
            previous_x0, previous_h = previous
            estimate = x0 + (0.5 * h / previous_h).to(x) * (x0 - previous_x0)
        next_signal = (1.0 + sigma_next**2).rsqrt()
        next_spread = sigma_next * next_signal
        x = (next_spread / spread).to(x) * x - (next_signal * torch.expm1(-h)).to(x) * estimate
        previous = x0, h
    return x
