"""The walks of AnimeDiffusion between noise and picture, in plain steps: DDIM, the ancestral chain, the way back.

Used by the trainer and held to the recorded numbers; inside ComfyUI the same steps run as a sampler on noise levels
(animediffusion/model.py). They differ from sampling/solvers.py in three points of the released code: x0 is
clamped to -1..1 but eps is not recomputed from it, noise can be added (eta), and the walk ends at step 0, not at a
perfectly clean picture.

Symbols: x_t noisy colours (B, 3, H, W), eps the predicted noise, g_t = gamma_t.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from .schedule import AnimeSchedule

# (x_t (B, 3, H, W), t (B,) int64) -> predicted noise, same shape as x_t
Predictor = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
# number of the step from 0 -> standard normal noise of x's shape
NoiseSource = Callable[[int], torch.Tensor]

WALKS = ("paper", "released")


def denoised(schedule: AnimeSchedule, x: torch.Tensor, eps: torch.Tensor, t: int) -> torch.Tensor:
    """The picture x_t and eps imply, clamped to -1..1."""
    return schedule.x0_from(eps, x, _rows(x, t), "eps").clamp(-1, 1)


def ddim_sigma(gamma: torch.Tensor, gamma_next: torch.Tensor, eta: float) -> torch.Tensor:
    """Spread of the noise added from gamma to the cleaner gamma_next (Song 2021, eq. 16); eta 0 adds none."""
    return eta * ((1 - gamma_next) / (1 - gamma) * (1 - gamma / gamma_next)).clamp_min(0).sqrt()


def ddim_step(
    schedule: AnimeSchedule,
    x: torch.Tensor,
    eps: torch.Tensor,
    t: int,
    t_next: int,
    eta: float = 0.0,
    noise: torch.Tensor | None = None,
) -> torch.Tensor:
    """x_t -> x_(t_next) (Song 2021, eq. 12) with x0 clamped and eps kept; t_next may also be noisier than t (eta 0)."""
    x0 = denoised(schedule, x, eps, t)
    gamma, gamma_next = schedule.alphas_cumprod[t], schedule.alphas_cumprod[t_next]
    sigma = ddim_sigma(gamma, gamma_next, eta) if eta else torch.zeros_like(gamma)
    x = gamma_next.sqrt() * x0 + (1 - gamma_next - sigma**2).clamp_min(0).sqrt() * eps
    return x if noise is None or not eta else x + sigma * noise


def sample_ddim(
    predict: Predictor,
    x: torch.Tensor,
    schedule: AnimeSchedule,
    steps: int = 10,
    eta: float = 0.0,
    noise: NoiseSource | None = None,
    checkpointing: bool = False,
) -> torch.Tensor:
    """Noise (B, 3, H, W) at the first step (901 of 10) -> picture at step 0. Paper: 10 steps, eta 0; released: eta 1.

    noise gives the noise of each step and is only called when eta > 0. checkpointing keeps the result of each step
    only and computes its inside again in the backward pass: phase 2 differentiates through the whole chain, and this
    is what makes it fit (memory of one step instead of `steps`).
    """
    if eta and noise is None:
        raise ValueError("eta above 0 adds noise at every step: give a noise source.")
    for index, (t, t_next) in enumerate(descending(schedule, steps)):
        drawn = noise(index) if eta and noise is not None else None

        def step(x: torch.Tensor, t: int = t, t_next: int = t_next, drawn: Any = drawn) -> torch.Tensor:
            return ddim_step(schedule, x, predict(x, _rows(x, t)), t, t_next, eta, drawn)

        x = checkpoint(step, x, use_reentrant=False) if checkpointing else step(x)
    return x


def deterministic_forward(
    predict: Predictor,
    x0: torch.Tensor,
    schedule: AnimeSchedule,
    steps: int = 10,
    walk: str = "paper",
    noise: torch.Tensor | None = None,
) -> torch.Tensor:
    """Picture (B, 3, H, W) -> the noise at the last step from which `sample_ddim` leads back to it (DDIM inversion).

    walk "paper": every hop asks the network, from the clean picture on. "released": the first hop, 0 -> 1, takes the
    normal `noise` (same shape) in place of an answer, so the walk is random. (The released code also forgets the time
    step in the conditional calls: give a `predict` that ignores t to walk that way.)
    """
    if walk not in WALKS:
        raise ValueError(f"The forward walk {walk!r} is unknown; choose one of {', '.join(WALKS)}.")
    if walk == "released" and noise is None:
        raise ValueError("The released forward walk starts with noise: give it.")
    x = x0
    for t_next, t in reversed(descending(schedule, steps)):
        if t == 0 and walk == "released" and noise is not None:
            gamma = schedule.alphas_cumprod[t_next]
            x = gamma.sqrt() * x0.clamp(-1, 1) + (1 - gamma).sqrt() * noise
        else:
            x = ddim_step(schedule, x, predict(x, _rows(x, t)), t, t_next)
    return x


def ancestral_step(
    schedule: AnimeSchedule,
    x: torch.Tensor,
    eps: torch.Tensor,
    t: torch.Tensor,
    noise: torch.Tensor,
    eta: float = 1.0,
) -> torch.Tensor:
    """x_t -> x_(t-1) of the full chain (Ho 2020, algorithm 2) for steps t (B,), with x0 clamped to -1..1.

    eta scales the noise of each step, which step 0 does not get.
    """
    tables = schedule.buffers()

    def at(name: str) -> torch.Tensor:
        return tables[name].to(x)[t][:, None, None, None]

    x0 = (at("sqrt_reciprocal_gammas") * x - at("sqrt_reciprocal_gammas_m1") * eps).clamp(-1, 1)
    mean = at("posterior_mean_coef1") * x0 + at("posterior_mean_coef2") * x
    spread = eta * (t != 0).to(x)[:, None, None, None] * (0.5 * at("posterior_log_variance")).exp()
    return mean + spread * noise


def sample_ddpm(predict: Predictor, x: torch.Tensor, schedule: AnimeSchedule, noise: NoiseSource) -> torch.Tensor:
    """Noise (B, 3, H, W) at the noisiest step -> picture, by every step of the schedule (paper, Eq. 9 and 10; Table 2).

    noise gives the noise of each step but the last.
    """
    steps = len(schedule.alphas_cumprod)
    for number, t in enumerate(reversed(range(steps))):
        drawn = noise(number) if t else torch.zeros_like(x)
        x = ancestral_step(schedule, x, predict(x, _rows(x, t)), _rows(x, t), drawn)
    return x


def descending(schedule: AnimeSchedule, steps: int) -> list[tuple[int, int]]:
    """(t, next t) of each DDIM step, from noisy to clean: 10 steps give (901, 801) ... (101, 1), (1, 0)."""
    times = schedule.timesteps_leading(steps).tolist()
    return list(zip(times, [*times[1:], 0], strict=True))


def _rows(x: torch.Tensor, t: int) -> torch.Tensor:
    return torch.full((len(x),), t, dtype=torch.long, device=x.device)
