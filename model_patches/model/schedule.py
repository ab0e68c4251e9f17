"""The noise schedule of the released models inside ComfyUI."""

from __future__ import annotations

import comfy.model_sampling
import torch

from ...colorize.sampling.schedule import fractional_step


class FractionalTimesteps(comfy.model_sampling.ModelSamplingDiscrete):
    """The scaled-linear schedule, with the step of a noise level interpolated in log sigma instead of rounded.

    The released models are sampled with unrounded steps (the k-diffusion path); rounding shifts a step by up to half.
    """

    def timestep(self, sigma: torch.Tensor) -> torch.Tensor:
        """Fractional step of each sigma, same shape and device; outside the schedule its ends."""
        return fractional_step(self.log_sigmas.to(sigma.device), sigma.float())


class VSampling(FractionalTimesteps, comfy.model_sampling.V_PREDICTION):
    pass


class EpsSampling(FractionalTimesteps, comfy.model_sampling.EPS):
    pass
