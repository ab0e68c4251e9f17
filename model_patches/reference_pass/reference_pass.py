"""The reference beside the picture: in every step its noised latent runs through the U-Net before the picture does.

What the first run shows (its `Effect`s record it) changes the second run: attention injection (attention_injection.py)
and matching of statistics (adain.py). Both go through one wrapper around the model, so that they share the reference's
run when they read the same reference.

The reference's run has the noise level, tokens, regions and settings of the picture's rows, and other packs' patches,
but no control of theirs. Its noise is drawn from the seed of the run and is the same in all its steps and rows, so a
result does not depend on how ComfyUI batches the conditions. (The released application draws fresh noise per step and
rounds the step; ours keeps the exact noise level.)
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import comfy.model_management
import torch
from comfy.patcher_extension import WrappersMP

from ...colorize.counts import check_count
from ...colorize.pictures.images import PIXELS_PER_LATENT
from ..features import PlanCache
from ..model.sketch_control import SketchControl, entries_of
from ..payload import LAST_STEP, StepInputs, noise_stream

KEY = "colorize_reference_pass"  # of the wrappers on the model
SEED = "colorize_seed"  # in transformer_options: the seed of the run
LATENT_ADVICE = "Use one, or as many as sketches (Repeat Latent Batch and Latent From Batch change the number)."
NOISE_STREAM = 0x5EED_1A7E47  # keeps the reference's noise apart from the picture's, which comes from the same seed


@dataclass(frozen=True, eq=False)
class Source:
    """A reference as the U-Net reads it."""

    latents: torch.Tensor
    """(b, 4, h, w) in the model's scale, without noise; b is 1 or the number of pictures. Any h and w."""
    maps: tuple[torch.Tensor, ...] = ()
    """The sketch maps of the reference, shallow to deep, already times their strength, 1 or b rows; () = no sketch."""
    noise: torch.Tensor | None = None
    """(1, 4, h, w): fixed noise; None draws it from the run's seed."""
    plans: PlanCache = field(default_factory=PlanCache, repr=False)
    """Who answers which query of the reference, where its size is not the picture's."""

    def to(self, device: torch.device) -> Source:
        """The same on another device."""
        noise = None if self.noise is None else self.noise.to(device)
        maps = tuple(values.to(device) for values in self.maps)
        return dataclasses.replace(self, latents=self.latents.to(device), maps=maps, noise=noise)

    def equals(self, other: Source) -> bool:
        """Whether one run serves both."""
        return self is other or (
            len(self.maps) == len(other.maps)
            and self.noise is other.noise
            and _equal(self.latents, other.latents)
            and all(map(_equal, self.maps, other.maps))
        )

    def noised(self, model_sampling: Any, sigma: torch.Tensor, pictures: int, seed: int) -> torch.Tensor:
        """(B, 4, h, w): the latents at the noise levels sigma (B,), B a multiple of `pictures`, as a sampler has x."""
        noise = self.noise
        if noise is None:
            noise = torch.randn(1, *self.latents.shape[1:], generator=noise_stream(seed, NOISE_STREAM))
        latents = self._rows(self.latents, pictures, len(sigma)).to(sigma.device)
        noise = noise.to(latents).expand(len(latents), -1, -1, -1)
        return model_sampling.noise_scaling(sigma.view(-1, 1, 1, 1), noise, latents, False)

    def control(self, pictures: int, rows: int) -> dict[str, list] | None:
        """The sketch maps as ComfyUI hands controls to the U-Net (deepest first); None without a sketch."""
        if not self.maps:
            return None
        maps = [self._rows(values, pictures, rows) for values in self.maps]
        return {"input": entries_of(maps), "middle": [], "output": []}

    @staticmethod
    def _rows(values: torch.Tensor, pictures: int, rows: int) -> torch.Tensor:
        """One row per row of the batch, which holds all pictures once per condition."""
        check_count("reference latents", len(values), pictures, advice=LATENT_ADVICE)
        return values.expand(rows, -1, -1, -1) if len(values) == 1 else values.repeat(rows // pictures, 1, 1, 1)


def _equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a is b or (a.shape == b.shape and a.device == b.device and torch.equal(a, b))


class Recorded(Exception):
    """Raised by a patch to end the reference's run: nobody reads what would come after. No error."""


class Effect(Protocol):
    """What is taken from the reference's run and done to the picture's. A frozen dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]
    title: str
    """For messages."""

    @property
    def source(self) -> Source:
        """Whose run it reads."""

    @property
    def start(self) -> float:
        """Share of the run from which it acts, 0..1."""

    @property
    def end(self) -> float:
        """Share of the run up to which it acts, 0..1."""

    def record(self, network: torch.nn.Module, options: dict, kept: dict) -> dict:
        """transformer_options of the reference's run of the U-Net `network`, with patches that fill `kept`.

        They may end it with `Recorded` at the last self-attention of the last block, so nothing later can be recorded.
        """

    def apply(self, options: dict, kept: dict, pictures: int) -> dict:
        """transformer_options of the picture's run, with patches that use `kept`."""


def check_window(start: float, end: float) -> None:
    """Raise ValueError unless 0 <= start <= end <= 1."""
    for name, value in (("start_percent", start), ("end_percent", end)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} is {value}; it lies between 0 and 1.")
    if start > end:
        raise ValueError(
            f"It would be switched on at {start} of the run and off at {end}, before that. "
            "Set start_percent to the smaller number."
        )


@dataclass(frozen=True, eq=False)
class ReferencePass:
    """The APPLY_MODEL wrapper: runs the references of the effects that act in this step, then the picture."""

    effects: tuple[Effect, ...]

    def __call__(
        self,
        executor: Any,
        x: torch.Tensor,
        t: torch.Tensor,
        c_concat: torch.Tensor | None = None,
        c_crossattn: torch.Tensor | None = None,
        control: Any = None,
        transformer_options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Denoised latents (B, 4, h, w) of x at the noise levels t (B,). Outside all windows exactly the model's."""
        model, transformer_options = executor.class_obj, transformer_options or {}
        progress = 1 - model.model_sampling.timestep(t).max().item() / LAST_STEP
        active = [effect for effect in self.effects if effect.start <= progress <= effect.end]
        options = transformer_options
        pictures = len(x) // len(transformer_options.get("cond_or_uncond") or (0,))
        seed = transformer_options.get(SEED) or 0
        for source in unique(effect.source for effect in active):
            sharing: list[tuple[Effect, dict]] = [(effect, {}) for effect in active if effect.source is source]
            first = transformer_options
            for effect, kept in sharing:
                first = effect.record(model.diffusion_model, first, kept)
            noised = source.noised(model.model_sampling, t, pictures, seed)
            own = conditions_at(kwargs, source)
            with contextlib.suppress(Recorded):
                executor(noised, t, c_concat, c_crossattn, source.control(pictures, len(x)), first, **own)
            for effect, kept in sharing:
                options = effect.apply(options, kept, pictures)
        return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)

    def to(self, target: torch.device | torch.dtype) -> ReferencePass:
        """On another device (ComfyUI asks at the start of a run). A dtype changes nothing: noise needs float32."""
        if not isinstance(target, (torch.device, str)):
            return self
        moved = {id(source): source.to(torch.device(target)) for source in self.sources}
        effects = (dataclasses.replace(effect, source=moved[id(effect.source)]) for effect in self.effects)
        return ReferencePass(tuple(effects))

    @property
    def sources(self) -> list[Source]:
        """The references, each once."""
        return unique(effect.source for effect in self.effects)

    def declare(self, executor: Any, model: Any, noise_shape: Sequence[int], *args: Any, **kwargs: Any) -> Any:
        """PREPARE_SAMPLING wrapper: the memory estimate counts the largest reference like more pictures.

        Its run and the picture's follow each other, so this covers the features that are kept between them and the
        longer attention.
        """
        rows, *rest = noise_shape
        pixels = max(source.latents.shape[-2:].numel() for source in self.sources)
        rows = math.ceil(rows * (1 + pixels / math.prod(rest[1:])))
        return executor(model, [rows, *rest], *args, **kwargs)


def remember_seed(
    executor: Any,
    noise: torch.Tensor,
    latent_image: torch.Tensor,
    sampler: Any,
    sigmas: torch.Tensor,
    denoise_mask: torch.Tensor | None = None,
    callback: Callable[..., Any] | None = None,
    disable_pbar: bool = False,
    seed: int | None = None,
    **kwargs: Any,
) -> torch.Tensor:
    """OUTER_SAMPLE wrapper: the run's seed into its transformer_options, a copy that ends with the run."""
    executor.class_obj.model_options.setdefault("transformer_options", {})[SEED] = seed
    return executor(noise, latent_image, sampler, sigmas, denoise_mask, callback, disable_pbar, seed, **kwargs)


def unique(sources: Iterable[Source]) -> list[Source]:
    """Every object once, in order."""
    return list({id(source): source for source in sources}.values())


def conditions_at(conditions: dict, source: Source) -> dict:
    """The conditions of a picture's rows for the reference's run: its figure masks are stretched.

    What a plugin or a picture encoder saw belongs to the picture and is left out.
    """
    conditions = dict(conditions)
    inputs = StepInputs.take(conditions)
    if inputs is None:
        return conditions
    height, width = source.latents.shape[-2:]
    return {**conditions, **inputs.stretched((height, width), source.plans).keywords()}


def attach(model: Any, effect: Effect) -> Any:
    """A clone of the MODEL with the effect. ValueError when it has one of the same kind."""
    clone = model.clone()
    present = [w for w in clone.get_wrappers(WrappersMP.APPLY_MODEL, KEY) if isinstance(w, ReferencePass)]
    effects = tuple(other for wrapper in present for other in wrapper.effects)
    if any(type(other) is type(effect) for other in effects):
        raise ValueError(
            f"The model has passed through {effect.title} already, and one reference is all it can follow. Connect the "
            "model from before the first one, or remove one of the two nodes."
        )
    same = next((other.source for other in effects if other.source.equals(effect.source)), effect.source)
    both = ReferencePass((*effects, dataclasses.replace(effect, source=same)))
    wrappers = {
        WrappersMP.APPLY_MODEL: both,
        WrappersMP.PREPARE_SAMPLING: both.declare,
        WrappersMP.OUTER_SAMPLE: remember_seed,
    }
    for kind, wrapper in wrappers.items():
        clone.remove_wrappers_with_key(kind, KEY)
        clone.add_wrapper_with_key(kind, KEY, wrapper)
    return clone


def read_latent(model: Any, latent: dict) -> torch.Tensor:
    """The LATENT of a reference -> (b, 4, h, w) float32 in the model's scale, on the CPU, or ValueError."""
    samples = latent["samples"]
    if samples.ndim != 4 or samples.shape[1] != 4:
        raise ValueError(
            f"reference_latent is a latent of shape {tuple(samples.shape)}; this model works with (batch, 4, height, "
            "width). Encode the reference picture with VAE Encode and the vae of Load ColorizeDiffusion Checkpoint."
        )
    if not torch.isfinite(samples).all():
        raise ValueError("reference_latent holds values that are not numbers (NaN). Encode the reference again.")
    if not samples.any():
        logging.warning(
            "ColorizeDiffusion: reference_latent is empty, a plain grey picture. Connect VAE Encode of the reference, "
            "not the latent of Prepare Sketch."
        )
    return model.model.process_latent_in(samples.float().cpu())


def encode_sketch(
    control_net: Any, sketch: torch.Tensor, size: Sequence[int], scale: float
) -> tuple[torch.Tensor, ...]:
    """The maps of a sketch (b, H, W, 3), white lines on black, for latents of `size` (h, w), times `scale`.

    control_net: the sketch encoder of a ColorizeDiffusion checkpoint, its level strengths count. ValueError otherwise.
    """
    if not isinstance(control_net, SketchControl):
        raise ValueError(
            f"The control_net is {type(control_net).__name__}, not the sketch encoder of a ColorizeDiffusion "
            "checkpoint. Connect control_net of Load ColorizeDiffusion Checkpoint."
        )
    height, width = (side * PIXELS_PER_LATENT for side in size)
    control = control_net.copy().set_cond_hint(sketch.movedim(-1, 1))
    needed = control.inference_memory_requirements(control.compute_dtype)
    comfy.model_management.load_models_gpu([control.patcher], memory_required=needed)
    maps = control.features(height, width, control.patcher.load_device)
    keep = comfy.model_management.intermediate_device()
    return tuple((m * (scale * s)).to(keep) for m, s in zip(maps, control.map_strengths, strict=True))
