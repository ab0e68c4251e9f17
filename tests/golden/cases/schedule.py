"""Case `schedule`: the noise schedule, the time steps of the samplers, and short loops around a toy network."""

from __future__ import annotations

import torch

from ..ours import ours
from ..registry import case

K_DIFFUSION = "noise levels of k-diffusion's samplers: ComfyUI has its own"
OTHER_SAMPLER = "a sampler we do not offer outside ComfyUI"


@case("schedule")
def schedule(golden, check):
    noise_schedule = ours("colorize.sampling.schedule").NoiseSchedule()
    steps = golden.config["steps"]
    check("betas", noise_schedule.betas)
    check("alphas_cumprod", noise_schedule.alphas_cumprod)
    # The coefficients of the noising, read off a unit signal and a unit noise.
    every = torch.arange(noise_schedule.steps)
    ones, zeros = torch.ones(noise_schedule.steps), torch.zeros(noise_schedule.steps)
    check("sqrt_alphas_cumprod", noise_schedule.add_noise(ones, zeros, every))
    check("sqrt_one_minus_alphas_cumprod", noise_schedule.add_noise(zeros, ones, every))
    check("sigma_to_t", noise_schedule.sigma_to_t(golden.inputs["sigma"]))
    check("diffuser_ddim.timesteps", noise_schedule.timesteps_leading(steps))
    check("diffuser_dpm.timesteps", noise_schedule.timesteps_leading(steps, intervals=steps + 1))
    dpm = noise_schedule.timesteps_leading(steps, intervals=steps + 1)
    check("diffuser_dpm.sigmas", with_clean_end(noise_schedule.sigmas[dpm]))
    karras, sigmas = ours("colorize.sampling.solvers").karras_levels(noise_schedule, steps)
    check("diffuser_dpm.karras.timesteps", karras)
    check("diffuser_dpm.karras.sigmas", with_clean_end(sigmas))
    check("diffuser_ddim.karras.timesteps", noise_schedule.timesteps_leading(steps))  # DDIM ignores the choice
    toy_loops(golden, check, noise_schedule)
    check.skip("k.*", K_DIFFUSION)
    check.skip("diffuser_pndm*", OTHER_SAMPLER)
    check.skip("diffuser_lms*", OTHER_SAMPLER)


def with_clean_end(sigmas: torch.Tensor) -> torch.Tensor:
    """Noise levels followed by 0."""
    return torch.cat([sigmas.float(), torch.zeros(1)])


def toy_loops(golden, check, noise_schedule):
    """Short loops around tanh(x) * (0.2 + 0.6 t / 1000) + bias, one bias per row of [cond, no reference, no sketch]."""
    guidance = ours("colorize.sampling.guidance")
    sampling = ours("colorize.sampling.solvers")
    x, biases = golden.inputs["toy_x"], golden.inputs["toy_bias"]
    samplers = {"dpm": sampling.sample_dpm_solver, "ddim": sampling.sample_ddim}
    for run in check.names("toy.*.cfg*") + check.names("toy.*.dual"):
        settings = golden.runs[run]
        sampler, scale = run.split(".")[1], settings["cond_scale"]
        seen = []

        def predict(x_t, t, scale=scale, seen=seen):
            seen.append(t.float()[:1])
            factor = 0.2 + 0.6 * t.float().view(-1, 1, 1, 1) / 1000
            cond, no_reference, no_sketch = (torch.tanh(x_t) * factor + bias for bias in biases)
            if isinstance(scale, list):
                return guidance.dual_guidance(cond, no_reference, no_sketch, *scale)
            return guidance.single_guidance(cond, no_reference, scale)

        prediction = "v" if settings["prediction"] == "v_prediction" else "eps"
        check(run, samplers[sampler](predict, x, noise_schedule, prediction, settings["steps"]))
        check(f"toy.{sampler}.model_timesteps", torch.cat(seen))


FAMILIES = {
    "Karras": ("DPM++ 2M", "DPM++ SDE", "DPM++ 2S a", "DPM2", "DPM2 a"),
    "Exponential": ("DPM++ 2M SDE", "DPM++ 2M SDE Heun", "DPM++ 3M SDE"),
}
"""Noise levels the released app takes for a sampler whose scheduler is "Automatic"; the model's own for the others."""

COMFY_SCHEDULERS = {"Karras": "karras", "Exponential": "exponential", "SGM Uniform": "sgm_uniform", "Uniform": "normal"}

DISCARDING = ("DPM++ 3M SDE", "DPM2", "DPM2 a")
"""Samplers that take one level more and leave out the last but one."""


def comfy_levels(model_sampling, sampler: str, scheduler: str, steps: int) -> torch.Tensor | None:
    """Noise levels (steps + 1,) of ComfyUI's schedulers for a sampler of the released app; None when it has none."""
    import comfy.samplers

    if scheduler == "Automatic":
        scheduler = next((family for family, members in FAMILIES.items() if sampler in members), "Uniform")
    if scheduler not in COMFY_SCHEDULERS:
        return None
    discard = sampler in DISCARDING
    levels = comfy.samplers.calculate_sigmas(model_sampling, COMFY_SCHEDULERS[scheduler], steps + discard)
    return torch.cat([levels[:-2], levels[-1:]]) if discard else levels


@case("schedule", side="comfy")
def comfy_schedule(golden, check):
    """The noise levels and steps of our MODEL, and ComfyUI's schedulers on them."""
    model_sampling = ours("model_patches.model.schedule").VSampling()
    alphas = 1 / (1 + model_sampling.sigmas**2)
    check("alphas_cumprod", alphas)
    check("sqrt_alphas_cumprod", alphas.sqrt())
    check("sqrt_one_minus_alphas_cumprod", (1 - alphas).sqrt())
    check("sigma_to_t", model_sampling.timestep(golden.inputs["sigma"]))
    for name in check.names("k.*"):
        _, sampler, scheduler = name.split(".")
        levels = comfy_levels(model_sampling, sampler, scheduler, golden.config["steps"])
        if levels is None:
            check.skip(name, "ComfyUI has no such scheduler in its list")
        else:
            check(name, levels)
    check.skip("toy.*", "toy loops run on the torch side")
    check.skip("betas", "ComfyUI keeps noise levels only")
    check.skip("diffuser_*", "steps of diffusers' samplers: torch side")
