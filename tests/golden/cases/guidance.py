"""Cases `cfg`, `cond_concat`: single and dual guidance on fixed network answers, and the rows they are made for."""

from __future__ import annotations

import torch

from ..ours import ours
from ..registry import case

TOKEN_WIDTH = 32


def _rows(golden, count: int) -> list:
    """The recorded answers in groups [cond, no reference, blank sketch] of the batch size."""
    return list(golden.inputs["model_outputs"].split(len(golden.inputs["x"])))[:count]


@case("cfg")
def torch_guidance(golden, check):
    guidance = ours("colorize.sampling.guidance")
    schedule = ours("colorize.sampling.schedule").NoiseSchedule()

    def guided(rows, scale):
        if isinstance(scale, list):
            return guidance.dual_guidance(*rows, *scale)
        return guidance.single_guidance(rows[0], rows[1], scale)

    x, sigma = golden.inputs["x"], golden.inputs["sigma"].view(-1, 1, 1, 1)
    signal = (1 + sigma**2).rsqrt()  # sqrt(a) of the noise level; signal * x is the network's input
    check("model_input", (signal * x).repeat(3, 1, 1, 1))
    check("model_t", schedule.sigma_to_t(golden.inputs["sigma"]).repeat(3))
    for run, settings in golden.runs.items():
        rows = _rows(golden, 3)
        if settings["parameterization"] == "v":
            denoised = [signal * (signal * x) - sigma * signal * row for row in rows]
        else:
            denoised = [x - sigma * row for row in rows]
        check(run, guided(denoised, settings["cond_scale"]))
        raw = "raw." + run.partition(".")[2]
        if raw in check:
            check(raw, guided(rows, settings["cond_scale"]))


@case("cond_concat")
def torch_rows(golden, check):
    join_rows = ours("colorize.sampling.guidance").join_rows
    cond = {
        "context": [golden.inputs["cond.context.0"]],
        "control": [golden.inputs["cond.control.0"], golden.inputs["cond.control.1"]],
        "mask": golden.inputs["cond.mask"],
    }

    def shifted(condition, amount):
        """The recorded stand-in for the condition without reference (10) or without sketch (20)."""
        if isinstance(condition, dict):
            return {key: shifted(part, amount) for key, part in condition.items()}
        return [part + amount for part in condition] if isinstance(condition, list) else condition + amount

    rows = join_rows([cond, shifted(cond, 10), shifted(cond, 20)])
    check("mask", rows["mask"])
    for name in ("context", "control"):
        for index, part in enumerate(rows[name]):
            check(f"{name}.{index}", part)


@case("cfg", side="comfy")
def comfy_guidance(golden, check):
    """Our guider, and ComfyUI's own guidance, on what our MODEL makes of fixed network answers."""
    import comfy.samplers

    from .conditions import tiny_model

    module = ours("model_patches.model.schedule")
    x, sigma = golden.inputs["x"], golden.inputs["sigma"]
    samplings = {"v": module.VSampling(), "eps": module.EpsSampling()}
    check("model_input", samplings["v"].calculate_input(sigma, x).repeat(3, 1, 1, 1))
    check("model_t", samplings["v"].timestep(sigma).repeat(3))
    model = tiny_model(TOKEN_WIDTH)
    for run, settings in golden.runs.items():
        scale, sampling = settings["cond_scale"], samplings[settings["parameterization"]]
        answers = [sampling.calculate_denoised(sigma, row, x) for row in _rows(golden, 3)]
        if isinstance(scale, list):
            check(run, guided_by_both(model, answers, scale, x, sigma))
        else:
            cond, uncond = answers[:2]
            guided = comfy.samplers.cfg_function(
                None, cond, uncond, scale, x, sigma, model_options={}, cond=[], uncond=[]
            )
            check(run, guided)
    check.skip("raw.*", "ComfyUI combines denoised pictures, never raw answers")


def guided_by_both(model, answers, scales, x, sigma):
    """What a sampler gets from our guider when the model's denoised pictures for its three conditions are `answers`."""
    import comfy.samplers

    from .. import comfy_model

    # The tokens say which answer a row gets, so the sketch, which a sketch scale asks for, is taken away again.
    cond, no_reference, no_sketch = (torch.full((1, 2, TOKEN_WIDTH), float(row)) for row in range(3))
    sketch = comfy_model.control([torch.zeros(1, 1, 1, 1)] * 5)
    guider = ours("model_patches.model.dual_guidance").DualGuider(
        model, [[cond, {"control": sketch}]], [[no_reference, {}]], *scales
    )
    guider.inner_set_conds({"positive": [[cond, {}]], "no_sketch": [[no_sketch, {}]]})

    def answer(apply_model, call):
        rows = call["c"]["c_crossattn"][:, 0, 0].long().split(len(x))
        return torch.cat([answers[int(row[0])] for row in rows])

    guider.model_options = {**guider.model_options, "model_function_wrapper": answer}
    seen = []

    def once(model, noise, sigmas, extra_args, callback, disable):
        seen.append(model(x, sigma, **extra_args))
        return noise

    levels = torch.tensor([sigma.max(), 0.0])
    guider.sample(x, torch.zeros_like(x), comfy.samplers.KSAMPLER(once), levels, disable_pbar=True, seed=0)
    return seen[0]
