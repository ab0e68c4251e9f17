"""Case `xl_latent_inpaint`: the latent of a background is kept outside a mask while the figure is sampled.

ComfyUI does this itself (Set Latent Noise Mask), so its samplers answer here, on recorded predictions: in every step
the latent outside the mask is the background's, noised to the step's level by the initial noise. Two differences, both
at the ends. ComfyUI keeps the background from the first step on, the released code from the second. ComfyUI's result
outside the mask is the background's latent, the released code's the last denoised latent.
"""

from __future__ import annotations

from types import SimpleNamespace

import torch

from ..ours import ours
from ..registry import case

# Recorded run -> (ComfyUI's sampler, intervals of the schedule beyond the steps, threshold of the mask). Euler is DDIM
# without randomness; what ComfyUI calls ddim is Euler, too, but noises the background with noise of its own.
RUNS = {
    "diffuser_ddim": ("euler", 0, 0.5),
    "diffuser_dpm": ("dpmpp_2m", 1, 0.05),
}


@case("xl_latent_inpaint", side="comfy")
def latent_inpaint(golden, check):
    schedule = ours("colorize.sampling.schedule").NoiseSchedule()
    binary, given = ours("colorize.pictures.masks").binary, golden.inputs
    steps = golden.constructor["steps"]
    for run, (sampler, beyond, threshold) in RUNS.items():
        timesteps = schedule.timesteps_leading(steps, golden.constructor["steps_offset"], steps + beyond)
        recorded = given[f"{run}.timesteps"]
        if not torch.equal(timesteps, recorded):
            raise ValueError(f"{run}: the steps are {timesteps.tolist()}, recorded {recorded.tolist()}")
        # The first sample's mask and background serve the whole batch.
        mask = binary(given["mask"][:1], threshold).expand(len(given["x_T"]), *given["x_T"].shape[1:])
        background = given["inpaint_bg"][:1].expand_as(given["x_T"])
        network = Recorded([given[f"{run}.prediction_{step}"] for step in range(steps)])
        result = sampled(network, sampler, timesteps, mask, background, given["x_T"])
        for step in range(1, steps):
            check(f"{run}.x_in_{step}", network.inputs[step])
        check(f"{run}.final", mask * result + (1 - mask) * network.denoised)
        check.skip(f"{run}.x_in_0", "the initial noise itself; ComfyUI puts the noised background into it already")


def sampled(network: Recorded, sampler: str, timesteps, mask, background, noise) -> torch.Tensor:
    """The latent that ComfyUI's sampler makes under a noise mask; all tensors (B, 4, h, w), `mask` 1 = sampled anew."""
    import comfy.samplers

    sigmas = torch.cat([network.inner_model.model_sampling.sigma(timesteps), torch.zeros(1)])
    # The released run starts from unit noise, ComfyUI's from latent + sigma * noise. Inside the mask, where noise and
    # latent serve the start only, they are chosen to give the same.
    start = noise * (1 + sigmas[0] ** 2).sqrt() / sigmas[0]
    given = torch.where(mask > 0, start, noise), torch.where(mask > 0, torch.zeros_like(noise), background)
    return comfy.samplers.sampler_object(sampler).sample(network, sigmas, {}, None, *given, mask, disable_pbar=True)


class Recorded:
    """What ComfyUI's samplers ask of a guided model; answers the recorded predictions, one a step."""

    def __init__(self, predictions: list[torch.Tensor]):
        from comfy.model_base import BaseModel

        self.predictions, self.inputs, self.denoised = predictions, [], None
        sampling = ours("model_patches.model.schedule").VSampling()
        inner = SimpleNamespace(model_sampling=sampling)
        inner.scale_latent_inpaint = lambda **values: BaseModel.scale_latent_inpaint(inner, **values)
        self.inner_model = inner
        self.model_patcher, self.cfg = SimpleNamespace(model=None), 1.0  # for ComfyUI's log

    def __call__(self, x, sigma, model_options, seed):
        sampling = self.inner_model.model_sampling
        answer = self.predictions[len(self.inputs)]
        self.inputs.append(sampling.calculate_input(sigma, x))
        self.denoised = sampling.calculate_denoised(sigma, answer, x)
        return self.denoised
