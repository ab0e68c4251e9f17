"""Cases `training_losses`, `noisy_training`, `ema`: what the trainer computes from a batch and after a step."""

from __future__ import annotations

import re

import torch

from ..ours import ours
from ..registry import case


def _schedule():
    return ours("colorize.sampling.schedule").NoiseSchedule()


@case("training_losses")
def losses(golden, check):
    diffusion = ours("trainer.losses.diffusion")
    schedule, inputs = _schedule(), golden.inputs
    x0, t, answer = inputs["x_start"], inputs["t"], inputs["model_output"]
    for run, settings in golden.runs.items():
        prediction, gamma = settings["parameterization"], settings.get("snr_gamma", 0.0)
        noise = inputs["noise"]
        if level := settings.get("offset_noise_level", 0.0):
            noise = diffusion.add_offset(noise, inputs["offset"], level)
        wanted = diffusion.target(schedule, x0, noise, t, prediction)
        weight = diffusion.min_snr_weight(schedule, t, gamma, prediction) if gamma else None
        mask = inputs["loss_mask"] if settings.get("masked_loss") else None
        check(f"{run}.x_noisy", schedule.add_noise(x0, noise, t))
        check(f"{run}.target", wanted)
        check(f"{run}.loss", diffusion.denoising_loss(answer, wanted, weight, mask))
    for name in check.names("weights.*.gamma*"):
        _, prediction, gamma = name.split(".", 2)
        check(name, diffusion.min_snr_weight(schedule, t, float(gamma.removeprefix("gamma")), prediction))


@case("noisy_training")
def noisy_training(golden, check):
    noisy = ours("trainer.losses.noisy_reference")
    drop = ours("trainer.losses.reference_drop").drop_references
    shuffle = ours("trainer.losses.latent_shuffle").shuffle_tokens
    schedule, inputs = _schedule(), golden.inputs
    tokens, noise, t, keep = inputs["context"], inputs["noise"], inputs["t"], inputs["keep"]

    released = noisy.noisy_tokens(schedule, tokens, noise, t, "released")
    check("noisy", released)
    check("noisy_ucg", drop(released, keep))
    check("ucg_only", drop(tokens, keep))
    check("latent_shuffle", shuffle(tokens, inputs["permutation"]))
    check("t_used_by_code", noisy.token_steps(t, "released", schedule.steps))
    check("paper_eq3", noisy.noisy_tokens(schedule, tokens, noise, t, "paper"))
    sampling = ours("colorize.reference.noisy_sampling")
    for name in check.names("paper_eq14_noise_level_*"):
        level = float(name.rpartition("_")[2])
        check(name, sampling.noisy_sampling_tokens(tokens, noise, schedule.sigmas[t], t, level))


@case("ema")
def ema(golden, check):
    def parameters(step: int) -> dict[str, torch.Tensor]:
        prefix = f"step{step}_"
        return {key.removeprefix(prefix): value for key, value in golden.inputs.items() if key.startswith(prefix)}

    average = ours("trainer.run.ema").EMA(parameters(0), decay=golden.config.get("decay", 0.9999))
    for step in range(1, 1 + max(int(re.match(r"step(\d+)_", name)[1]) for name in golden.inputs)):
        average.update(parameters(step))
        for name, shadow in average.shadow.items():
            check(f"shadow{step}_{name}", shadow)
