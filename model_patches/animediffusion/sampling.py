"""The paper's walks of AnimeDiffusion as ComfyUI samplers, over batches of any length.

The steps are those of colorize/animediffusion/sampling.py; here the model is ComfyUI's, which answers a picture for a
noise level, so memory management, guidance patches, previews and interruption work as with any sampler.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import torch

from ...colorize.animediffusion.markers import PAPER_STEPS
from ...colorize.animediffusion.sampling import ancestral_step, descending, deterministic_forward, sample_ddim
from ...colorize.animediffusion.schedule import AnimeSchedule
from .model import LINES, REFERENCE, AnimeDiffusionModel

METHODS = ("ddim", "ddpm")
STARTS = ("noise", "reference")
NOISES = ("same", "different")

# (picture (B, 3, H, W) so far, steps done, steps in all)
Progress = Callable[[torch.Tensor, int, int], None]


@dataclass(frozen=True)
class Walk:
    """How pictures are made."""

    method: str = "ddim"
    """ddim: `steps` steps. ddpm: the whole ancestral chain, a thousand steps."""
    steps: int = 10
    """Steps of ddim, 1 to 999; the paper takes 10."""
    eta: float = 0.0
    """Share 0..1 of fresh noise in each step (paper: 0, released code: 1); ddpm always adds it."""
    start: str = "noise"
    """noise, or reference: the reference's deterministic forward walk (ddim only)."""
    seed: int = 0
    noise: str = "same"
    """same: all pictures of a batch start from one noise, which keeps frames of a video alike; different: each has its
    own."""
    chunk: int = 8
    """Pictures computed at once."""

    def __post_init__(self) -> None:
        for name, choices in (("method", METHODS), ("start", STARTS), ("noise", NOISES)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} {getattr(self, name)!r} is unknown; choose one of {', '.join(choices)}.")
        if not 1 <= self.steps <= 999:
            raise ValueError(f"steps is {self.steps}; choose 1 to 999.")
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta is {self.eta}; choose 0 (no fresh noise) to 1.")
        if self.chunk < 1:
            raise ValueError(f"The number of pictures at once is {self.chunk}; choose 1 or more.")
        if self.method == "ddpm" and self.start == "reference":
            raise ValueError("ddpm starts from noise; set start to noise, or method to ddim.")

    @property
    def calls(self) -> int:
        """How often the network is asked for each picture."""
        if self.method == "ddpm":
            return AnimeSchedule().steps
        return self.steps * (2 if self.start == "reference" else 1)

    def drawn(self, step: int, frames: Sequence[int], shape: Sequence[int]) -> torch.Tensor:
        """Normal noise (len(frames), *shape) of a step, a pure function of seed, step and frame; step -1 starts."""

        def one(frame: int) -> torch.Tensor:
            mixed = (self.seed * 0x9E3779B1 + frame * 0x85EBCA77 + (step + 1) * 0xC2B2AE3D) % 2**63
            return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(mixed))

        if self.noise == "same":
            return one(0).expand(len(frames), *shape)
        return torch.stack([one(frame) for frame in frames])


def steps_of(model: Any) -> int:
    """DDIM steps that a MODEL says it was trained for; the paper's 10 for one of another kind."""
    return model.model.chain_steps if isinstance(model.model, AnimeDiffusionModel) else PAPER_STEPS


def sample(model: Any, positive: list, latent: torch.Tensor, walk: Walk, progress: Progress) -> torch.Tensor:
    """Latents in -1..1 of the shape of `latent` (B, 3, H, W), in chunks. positive: from AnimeDiffusion Conditioning.

    The result does not depend on the size of the chunks. Raises ValueError for inputs of another kind.
    """
    if not isinstance(model.model, AnimeDiffusionModel):
        raise ValueError(
            "The model is not an AnimeDiffusion model. Connect model of Load AnimeDiffusion; other models are sampled "
            "with KSampler."
        )
    if model.model_options.get("sampler_cfg_function"):
        raise ValueError(
            "Another node guides the sampling (RescaleCFG, RenormCFG, their like): AnimeDiffusion has no second run "
            "to be guided away from. Remove it."
        )
    if any(LINES not in options or REFERENCE not in options for _, options in positive):
        raise ValueError("positive carries no line drawing. Connect positive of AnimeDiffusion Conditioning.")
    if latent.ndim != 4 or latent.shape[1] != 3:
        raise ValueError(
            f"The latent has the shape {tuple(latent.shape)}, AnimeDiffusion wants pixels (count, 3, height, width). "
            "Connect latent of AnimeDiffusion Conditioning."
        )
    count, *shape = latent.shape
    results = []
    for first in range(0, count, walk.chunk):
        comfy.model_management.throw_exception_if_processing_interrupted()
        frames = range(first, min(first + walk.chunk, count))
        done = first * walk.calls

        def report(step: int, picture: torch.Tensor, *_: Any, frames: range = frames, done: int = done) -> None:
            progress(picture, done + (step + 1) * len(frames), count * walk.calls)

        results.append(_sample_chunk(model, rows(positive, frames), frames, shape, walk, report))
    return torch.cat(results)


def rows(conditioning: list, frames: range) -> list:
    """The conditioning of some frames: drawings and references of those rows, where there is more than one."""

    def part(values: torch.Tensor) -> torch.Tensor:
        if values.shape[0] == 1:
            return values
        if values.shape[0] < frames.stop:
            raise ValueError(f"There are {values.shape[0]} drawings or references for frame {frames.stop}.")
        return values[frames.start : frames.stop]

    return [
        [tokens, {**options, LINES: part(options[LINES]), REFERENCE: part(options[REFERENCE])}]
        for tokens, options in conditioning
    ]


def _sample_chunk(
    model: Any, positive: list, frames: range, shape: Sequence[int], walk: Walk, report: Callable[..., None]
) -> torch.Tensor:
    start = walk.drawn(-1, frames, shape)
    schedule = AnimeSchedule()
    whole = range(schedule.steps - 1, -1, -1)
    times = whole if walk.method == "ddpm" else [t for t, _ in descending(schedule, walk.steps)]
    levels = schedule.sigmas[[*times, 0]]
    reference = None
    if walk.start == "reference":
        reference = positive[0][1][REFERENCE].expand(len(frames), -1, -1, -1)
        if list(reference.shape[-2:]) != list(shape[1:]):
            raise ValueError(
                f"The reference was prepared for {reference.shape[-1]}x{reference.shape[-2]} pixels, the latent has "
                f"{shape[2]}x{shape[1]}. Connect latent of the same AnimeDiffusion Conditioning."
            )
    sampler = comfy.samplers.KSAMPLER(
        _walked, {"walk": walk, "noise": lambda step: walk.drawn(step, frames, shape), "reference": reference}
    )
    return comfy.sample.sample_custom(
        model, start, 1.0, sampler, levels, positive, positive, torch.zeros_like(start),
        callback=report, disable_pbar=True, seed=walk.seed,
    )  # fmt: skip


@torch.no_grad()
def _walked(
    model: Any,
    x: torch.Tensor,
    sigmas: torch.Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callable[..., Any] | None = None,
    disable: bool | None = None,
    *,
    walk: Walk,
    noise: Callable[[int], torch.Tensor],
    reference: torch.Tensor | None,
) -> torch.Tensor:
    """A sampler function of ComfyUI: x is noise times the first noise level; gives the picture at step 0."""
    schedule = AnimeSchedule().to(x.device)
    calls = 0

    def predict(noisy: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """The predicted noise, from the picture ComfyUI's model answers for the same state in its own scale."""
        nonlocal calls
        sigma = schedule.sigmas[t]
        level = sigma[:, None, None, None]
        state = noisy * (1 + level**2).sqrt()
        picture = model(state, sigma, **(extra_args or {}))
        if callback is not None:
            callback({"i": calls, "denoised": picture, "x": state, "sigma": sigma, "sigma_hat": sigma})
        calls += 1
        return (state - picture) / level

    start = x / sigmas[0]
    if walk.method == "ddpm":
        for t in range(schedule.steps - 1, -1, -1):
            step = torch.full((len(x),), t, device=x.device)
            fresh = noise(schedule.steps - 1 - t).to(x)
            start = ancestral_step(schedule, start, predict(start, step), step, fresh)
        return start
    if reference is not None:
        start = deterministic_forward(predict, reference.to(x), schedule, walk.steps)
    return sample_ddim(predict, start, schedule, walk.steps, walk.eta, lambda step: noise(step).to(x))
