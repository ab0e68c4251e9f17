"""The noise schedule of AnimeDiffusion: betas on a straight line, steps counted from 0 (almost clean) to 999.

The paper's gamma_t is `alphas_cumprod[t]`, so gammas[0] = 1 - 1e-6 and gammas[999] is about 0.0067: the noisiest step
still shows a twelfth of the picture. q(x_t | x_0) is `add_noise`.
"""

from __future__ import annotations

import torch

from ..sampling.schedule import NoiseSchedule
from .unet import SCHEDULE_BUFFERS

LINEAR_START, LINEAR_END = 1e-6, 1e-2


class AnimeSchedule(NoiseSchedule):
    """Linear betas from 1e-6 to 1e-2 over 1000 steps; with fewer steps both ends grow by 1000 / steps (released).

    Computed in float32 from the start, as the released code does: near step 0, where 1 - gamma is about 1e-6, the
    tables of its checkpoints differ from exact ones by up to a percent.
    """

    def __init__(self, steps: int = 1000) -> None:
        scale = 1000 / steps
        self.set_betas(torch.linspace(scale * LINEAR_START, scale * LINEAR_END, steps, dtype=torch.float32))

    def buffers(self) -> dict[str, torch.Tensor]:
        """The seven tables (steps,) that the released trainer's checkpoints carry, by their names, float32.

        posterior_*: the Gaussian of x_(t-1) given x_t and x_0 (Ho 2020, eq. 7), which `sampling.ancestral_step` walks.
        """
        betas, gammas = self.betas, self.alphas_cumprod
        previous = torch.cat([torch.ones_like(gammas[:1]), gammas[:-1]])
        variance = betas * (1 - previous) / (1 - gammas)
        tables = (
            gammas,
            (1 / gammas).sqrt(),
            (1 / gammas - 1).sqrt(),
            variance,
            variance.clamp_min(1e-20).log(),
            betas * previous.sqrt() / (1 - gammas),
            (1 - previous) * (1 - betas).sqrt() / (1 - gammas),
        )
        return dict(zip(SCHEDULE_BUFFERS, tables, strict=True))
