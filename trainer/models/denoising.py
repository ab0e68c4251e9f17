"""How a colouriser makes a picture outside ComfyUI: sampler, guidance of both conditions, noisy sampling.

Guidance asks the network for up to three row groups in one call:
    cond          tokens, sketch
    no_reference  zero tokens, sketch                 away from it by the reference's scale (GS)
    no_sketch     tokens, the sketch without a line   away from it by the sketch's scale (SGS)
ColorizeDiffusion v1 (arXiv 2401.01456), 5.1; what "zero" is for a sketch is as in the released code: a blank one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from colorize.reference.noisy_sampling import noisy_sampling_tokens
from colorize.sampling import guidance, solvers
from colorize.sampling.schedule import NoiseSchedule
from trainer.config import ConfigError

SAMPLERS = {
    "dpmpp_2m": "DPM++ 2M on the training schedule (variance preserving: v1 Table 1; the released application)",
    "dpmpp_2m_karras": "DPM++ 2M with Karras spacing (v1 Table 2)",
    "ddim": "DDIM, eta 0",
    "euler": "ComfyUI's euler with its scheduler simple, what students of stage distill are made for",
}
LARGEST_SCALE = 30.0

Tokens = Sequence[torch.Tensor]
"""(B, M, D) per region: the reference's, or the figure's and the background's."""
Network = Callable[..., torch.Tensor]
"""(x (B, C, h, w), t (B,), tokens of every region, control maps, y) -> what the network predicts."""


@dataclass(frozen=True)
class Denoising:
    """The settings of a sampling run. Raises ConfigError for numbers that cannot be meant."""

    steps: int = 20
    guidance: float = 2.0
    """Reference guidance scale (GS), 1: none."""
    sketch_guidance: float = 1.0
    """Sketch guidance scale (SGS), 1: none."""
    noise_level: float = 0.0
    """0..1: the share of the steps, from the first, that see the reference's tokens with noise (v1, Eq. 14)."""
    sampler: str = "dpmpp_2m"
    """one of SAMPLERS"""

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= 999:
            raise ConfigError(f"{self.steps} sampling steps cannot be taken; choose 1 to 999.")
        for name, scale in (("reference", self.guidance), ("sketch", self.sketch_guidance)):
            if not 1 <= scale <= LARGEST_SCALE:
                raise ConfigError(f"The {name} guidance is {scale}; choose a scale from 1 (none) to {LARGEST_SCALE:g}.")
        if not 0 <= self.noise_level <= 1:
            raise ConfigError(f"The noise level is {self.noise_level}; choose a share of the steps from 0 to 1.")
        if self.sampler not in SAMPLERS:
            raise ConfigError(f"Unknown sampler {self.sampler!r}; choose one of {', '.join(SAMPLERS)}.")

    @property
    def groups(self) -> tuple[str, ...]:
        """The row groups that guidance asks for."""
        reference = ("no_reference",) if guides(self.guidance) else ()
        return ("cond", *reference, *(("no_sketch",) if guides(self.sketch_guidance) else ()))


def guides(scale: float) -> bool:
    """Whether a guidance scale does anything."""
    return not math.isclose(scale, 1.0)


def blank_sketch(sketches: torch.Tensor) -> torch.Tensor:
    """The sketch without a line (1, 3, H, W) that stands for "no sketch" beside sketches (B, 3, H, W) in [-1, 1]."""
    return torch.full_like(sketches[:1], -1.0)


def denoised_latents(
    network: Network,
    noise: torch.Tensor,  # (B, C, h, w), unit normal
    tokens: Tokens,
    controls: tuple[Sequence[torch.Tensor], Sequence[torch.Tensor] | None],  # maps of the sketches; of a blank one
    y: torch.Tensor | None,  # (B, Y) of XL's U-Net
    prediction: str,  # "v" or "eps"
    how: Denoising,
    generator: torch.Generator,  # of the tokens' noise
) -> torch.Tensor:
    """Latents (B, C, h, w). controls' second part is read by sketch guidance only."""
    schedule = NoiseSchedule().to(noise.device)
    conditions = [_conditions(group, tokens, controls, y, len(noise)) for group in how.groups]
    fixed = guidance.join_rows(conditions)
    noisy = _noisy_tokens(tokens, how, schedule, generator)

    def predict(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        rows = fixed
        if noisy is not None:
            seen = noisy(t)
            sets = [_conditions(group, seen, controls, y, len(noise))[0] for group in how.groups]
            rows = (guidance.join_rows(sets), *fixed[1:])
        count = len(how.groups)
        answers = network(torch.cat([x] * count), torch.cat([t] * count), *rows).float()
        return _guided(dict(zip(how.groups, answers.chunk(count), strict=True)), how)

    if how.sampler in ("ddim", "euler"):
        return solvers.sample_ddim(predict, noise, schedule, prediction, how.steps, simple=how.sampler == "euler")
    return solvers.sample_dpm_solver(predict, noise, schedule, prediction, how.steps, how.sampler.endswith("karras"))


def _conditions(
    group: str,
    tokens: Tokens,
    controls: tuple[Sequence[torch.Tensor], Sequence[torch.Tensor] | None],
    y: torch.Tensor | None,
    batch: int,
) -> tuple:
    """(tokens of every region, control maps, y) of one row group."""
    own, control = list(tokens), list(controls[0])
    if group == "no_reference":
        own = [torch.zeros_like(values) for values in own]
    if group == "no_sketch":
        if controls[1] is None:
            raise ValueError("Sketch guidance needs the control maps of a blank sketch.")
        control = [values.expand(batch, *values.shape[1:]) for values in controls[1]]
    return own, control, y


def _guided(answers: dict[str, torch.Tensor], how: Denoising) -> torch.Tensor:
    """The guided prediction; with one scale alone, single guidance away from its group (released code)."""
    cond = answers["cond"]
    if len(answers) == 3:
        return guidance.dual_guidance(
            cond, answers["no_reference"], answers["no_sketch"], how.guidance, how.sketch_guidance
        )
    if "no_reference" in answers:
        return guidance.single_guidance(cond, answers["no_reference"], how.guidance)
    if "no_sketch" in answers:
        return guidance.single_guidance(cond, answers["no_sketch"], how.sketch_guidance)
    return cond


def _noisy_tokens(
    tokens: Tokens, how: Denoising, schedule: NoiseSchedule, generator: torch.Generator
) -> Callable[[torch.Tensor], list[torch.Tensor]] | None:
    """t (B,) -> the tokens as that step sees them; None where no step adds noise. To be asked once a step, in order."""
    if how.noise_level == 0:
        return None
    drawn = [torch.randn(values.shape, generator=generator).to(values.device) for values in tokens]
    left = itertools.count(how.steps, -1)  # of the run; the paper's t, which counts sampling steps

    def seen(t: torch.Tensor) -> list[torch.Tensor]:
        step = torch.full_like(t, next(left))
        pairs = zip(tokens, drawn, strict=True)
        return [
            noisy_sampling_tokens(own, extra, schedule.sigmas[t], step, how.noise_level, how.steps)
            for own, extra in pairs
        ]

    return seen
