"""The two phases of AnimeDiffusion's training.

Phase 1 predicts noise. (The paper calls it classifier-free guidance and writes a norm; no condition is ever dropped,
and the released code takes the squared error.) Phase 2 walks the true picture up to noise without gradients, walks down
again with gradients through all steps, and compares pictures: it trains the chain that inference will run.
"""

from __future__ import annotations

import torch

from colorize.animediffusion.sampling import NoiseSource, Predictor, sample_ddim
from colorize.animediffusion.schedule import AnimeSchedule


def squared_error(answer: torch.Tensor, wanted: torch.Tensor, reduction: str = "mean") -> torch.Tensor:
    """Squared error in float32: the mean, or (released phase 1) the sum over batch, channels and pixels."""
    error = (answer.float() - wanted.float()).square()
    return error.sum() if reduction == "sum" else error.mean()


def predicted_noise(
    predict: Predictor, schedule: AnimeSchedule, x0: torch.Tensor, noise: torch.Tensor, t: torch.Tensor
) -> torch.Tensor:
    """Phase 1: what the network sees as noise in x0 (B, 3, H, W) noised to the steps t (B,) of 0..999."""
    return predict(schedule.add_noise(x0, noise, t), t)


def reconstructed(
    predict: Predictor,
    schedule: AnimeSchedule,
    x_T: torch.Tensor,
    steps: int = 10,
    eta: float = 0.0,
    noise: NoiseSource | None = None,
    checkpointing: bool = False,
) -> torch.Tensor:
    """Phase 2: the picture the DDIM chain of `steps` leads to from x_T (B, 3, H, W), differentiable through all steps.

    x_T comes from `deterministic_forward` of the true picture. Paper: eta 0; released: eta 1, with new noise per step.
    checkpointing trades time for memory: see `sample_ddim`.
    """
    return sample_ddim(predict, x_T, schedule, steps, eta, noise, checkpointing)
