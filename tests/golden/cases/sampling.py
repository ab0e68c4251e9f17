"""Case `sample_v1`: whole denoising loops of the tiny U-Net with guidance, from unit noise to the final latent."""

from __future__ import annotations

import torch

from ..ours import ours
from ..registry import case
from .schedule import comfy_levels
from .unet import torch_unet

NO_SAMPLER = "k-diffusion's samplers are used inside ComfyUI only"


def guided_predictor(network, golden, settings):
    """predict(x, t) of one run: the network's answers for the rows the run needs, combined by its guidance."""
    guidance = ours("colorize.sampling.guidance")
    context, control = golden.inputs["context"], golden.listed("control")
    blank = golden.listed("uncond_sketch_control")
    scale = settings["cond_scale"]

    def predict(x, t):
        t = t.float()
        cond = network(x, t, context, control)
        if settings["uncond"] is None:
            return cond
        if settings["uncond"] == "ref":
            return guidance.single_guidance(cond, network(x, t, torch.zeros_like(context), control), scale)
        if settings["uncond"] == "sketch":
            return guidance.single_guidance(cond, network(x, t, context, blank), scale)
        no_reference = network(x, t, torch.zeros_like(context), control)
        return guidance.dual_guidance(cond, no_reference, network(x, t, context, blank), *scale)

    return predict


@case("sample_v1")
def torch_loops(golden, check):
    sampling = ours("colorize.sampling.solvers")
    schedule = ours("colorize.sampling.schedule").NoiseSchedule()
    network = torch_unet(golden)
    for run, settings in golden.runs.items():
        predict = guided_predictor(network, golden, settings)
        start = golden.inputs["x_T"], schedule, settings["parameterization"], settings["steps"]
        karras = settings["scheduler"] == "Karras"
        if settings["sampler"] == "diffuser_dpm":
            check(run, sampling.sample_dpm_solver(predict, *start, karras=karras))
        elif settings["sampler"] == "diffuser_ddim":
            check(run, sampling.sample_ddim(predict, *start))
        else:
            check.skip(run, NO_SAMPLER)


@case("sample_v1", side="comfy")
def comfy_loops(golden, check):
    """The same loops through ComfyUI's guider and samplers, with explicit lists of noise levels."""
    from .. import comfy_model

    heads = golden.constructor["num_head_channels"]
    models = {}
    for run, settings in golden.runs.items():
        prediction = settings["parameterization"]
        if prediction not in models:
            models[prediction] = comfy_model.load_model(golden.weights, heads, prediction)
        model = models[prediction]
        if settings["scheduler"] == "Karras" and settings["sampler"] == "diffuser_dpm":
            check.skip(run, "diffusers rounds the steps of Karras levels, our MODEL does not; see the torch side")
            continue
        guider = comfy_guider(model, golden, settings)
        repeated = comfy_sampler(settings, model.model.model_sampling)
        if repeated is None:
            check.skip(
                run, f"ComfyUI has no {settings['sampler']} with {settings['scheduler']} levels and no randomness"
            )
            continue
        sampler, sigmas, unit_start = repeated
        noise = start_noise(golden.inputs["x_T"], sampler, sigmas, unit_start, model.model)
        latent = guider.sample(noise, torch.zeros_like(noise), sampler, sigmas, disable_pbar=True, seed=0)
        check(run, model.model.process_latent_in(latent))


def comfy_guider(model, golden, settings):
    """ComfyUI's guider, or ours when reference and sketch guide together."""
    import comfy.samplers

    from .. import comfy_model

    positive, negative = conditioning(golden, settings)
    if settings["uncond"] == "both":
        guider = ours("model_patches.model.dual_guidance").DualGuider(
            model, positive, negative, *settings["cond_scale"]
        )
        blank = comfy_model.control(golden.listed("uncond_sketch_control"))  # recorded, not encoded
        guider.inner_set_conds({"no_sketch": [[golden.inputs["context"], {"control": blank}]]})
        return guider
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(settings["cond_scale"])
    return guider


def start_noise(unit, sampler, sigmas, unit_start: bool, model):
    """The noise with which ComfyUI's sampler starts from unit noise, or else (k-diffusion) from unit * sigma.

    ComfyUI scales the noise itself: by sigma, or by sqrt(1 + sigma^2) from the top of the schedule.
    """
    top = sampler.max_denoise(Wrapped(model), sigmas)
    scaled = (1 + sigmas[0] ** 2).sqrt()
    return unit * (scaled if unit_start else sigmas[0]) / (scaled if top else sigmas[0])


class Wrapped:
    """What a ComfyUI sampler asks for when it looks up the ends of the schedule."""

    def __init__(self, inner_model):
        self.inner_model = inner_model


def conditioning(golden, settings):
    """positive and negative of one run: reference tokens with the sketch, and what the run guides away from."""
    from .. import comfy_model

    tokens = golden.inputs["context"]
    sketch = comfy_model.control(golden.listed("control"))
    options = {"control": sketch, "control_apply_to_uncond": False}
    positive = [[tokens, options]]
    if settings["uncond"] == "sketch":
        blank = comfy_model.control(golden.listed("uncond_sketch_control"))
        return positive, [[tokens, {**options, "control": blank}]]
    return positive, [[torch.zeros_like(tokens), options]]


COMFY_SAMPLERS = {"Euler": "euler", "Heun": "heun", "LMS": "lms", "DPM2": "dpm_2", "DPM++ 2M": "dpmpp_2m"}
"""k-diffusion's samplers without randomness, by the released app's name."""


def comfy_sampler(settings, model_sampling):
    """(sampler, noise levels, whether it starts from unit noise) that repeat a recorded run; None: ComfyUI cannot."""
    import comfy.samplers

    steps, name, scheduler = settings["steps"], settings["sampler"], settings["scheduler"]
    schedule = ours("colorize.sampling.schedule").NoiseSchedule()
    if name in ("diffuser_dpm", "diffuser_ddim"):
        timesteps = schedule.timesteps_leading(steps, intervals=steps + 1 if name == "diffuser_dpm" else steps)
        sigmas = torch.cat([model_sampling.sigma(timesteps), torch.zeros(1)])
        return comfy.samplers.sampler_object("dpmpp_2m" if name == "diffuser_dpm" else "ddim"), sigmas, True
    levels = comfy_levels(model_sampling, name, scheduler, steps)
    if name not in COMFY_SAMPLERS or levels is None:
        return None
    return comfy.samplers.sampler_object(COMFY_SAMPLERS[name]), levels, False
