"""Case `attention_injection`: a step of the MODEL with the released variant, and the reference as the U-Net saw it."""

from __future__ import annotations

import torch

from ..ours import ours
from ..registry import case

WITH, WITHOUT = 0, 1  # ComfyUI's numbers of the conditions with and without reference


@case("attention_injection", side="comfy")
def comfy_side(golden, check):
    from comfy.patcher_extension import WrappersMP

    from .. import comfy_model

    reference_pass, injection = (
        ours("model_patches.reference_pass.reference_pass"),
        ours("model_patches.reference_pass.attention_injection"),
    )
    model = comfy_model.load_model(golden.weights, golden.constructor["num_head_channels"])
    network, sampling = model.model.diffusion_model, model.model.model_sampling
    sigma = sampling.sigma(torch.tensor(golden.config["timesteps"], dtype=torch.float32))
    x = golden.inputs["x"] * (1 + sigma**2).sqrt().view(-1, 1, 1, 1)  # the model divides by it again
    sketch = comfy_model.control(golden.listed("control"))
    calls, answers = [], []
    network.register_forward_pre_hook(lambda module, given: calls.append(given[0]))
    network.register_forward_hook(lambda module, given, answer: answers.append(answer))

    def step(patched, conditions):
        """(inputs of the U-Net in one step, its last raw answer)."""
        calls.clear()
        options = {"wrappers": patched.wrappers, "cond_or_uncond": conditions}
        hints = sketch.get_control(x, sigma, {}, 1, {})
        model.model.apply_model(
            x, sigma, c_crossattn=golden.inputs["context"], control=hints, transformer_options=options
        )
        return list(calls), answers[-1]

    check("plain", step(model, [WITH, WITHOUT])[1])
    for run, settings in golden.runs.items():
        maps = tuple(values * settings["control_cfg"] for values in golden.listed("ref_control"))
        source = reference_pass.Source(golden.inputs["ref_latent"], maps, golden.inputs["noise"])
        effect = injection.Injection(
            source, fidelity=settings["style_cfg"], variant="released", start=settings["start_step"]
        )
        rows = [WITHOUT if row in settings["gr_indice"] else WITH for row in range(len(x))]
        inputs, answer = step(reference_pass.attach(model, effect), rows)
        check(run, answer)
        if len(inputs) > 1:
            check("noised_reference_latent", inputs[0])
    assert WrappersMP.APPLY_MODEL not in model.wrappers  # clones only
