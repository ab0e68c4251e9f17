"""What rides in a run: from the conditioning to the conds of a step, and from there to what the layers read.

Everything about a run rides in the conditioning, so the MODEL stays as it was loaded: two samplers with different
references share it, and nothing is left behind after a run. Three stations, and all their keys are here:

1. `Payload` lies in a conditioning's dictionary under PAYLOAD, written by the nodes (`entry`, `of`).
2. `StepInputs` are the conds of a step, which ComfyUI crops, repeats and batches with the latent (`conds`, `take`).
3. `Guide` lies in transformer_options[PAYLOAD] while the U-Net runs one step; the attention layers follow it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import comfy.conds
import comfy.model_management
import torch
import torch.nn.functional as F

from ..colorize.counts import check_count
from ..colorize.reference.noisy_sampling import SCHEDULE_STEPS, noisy_sampling_tokens, steps_left
from ..colorize.unet.decoder_guide import DecoderGuide
from ..colorize.unet.kept import KeptLayer
from ..colorize.unet.size_embedding import SCORE
from ..colorize.unet.split_attention import BANK_OPTIONS, Split, SplitOptions, to_latent_size
from .features import PictureFeatures, PlanCache
from .run_memory import Pairs, RunMemory, Shown, pick

PAYLOAD = "colorize"  # key of the payload in a conditioning's dictionary, and of the Guide in transformer_options
COND = "colorize_"  # before a field of StepInputs: its name among ComfyUI's conds
LAST_STEP = SCHEDULE_STEPS - 1
NOISE_STREAM = 0x5EED_C0105  # keeps the tokens' noise apart from the latent's, which is drawn from the same seed


@dataclass(frozen=True)
class StepSettings:
    """What every step of a run needs to know. Compared by value, so that equal conditions run in one batch."""

    strengths: tuple[float, ...] | None = None
    """Factor of every cross-attention layer; None: 1 everywhere."""
    window: tuple[float, float] = (0.0, 1.0)
    """Part of the run in which the reference is on."""
    off_window: tuple[float, float] | None = None
    """Part of the run in which it is off again."""
    noise_level: float = 0.0
    """See ReferenceSettings."""
    split: SplitOptions | None = None
    """How the regions are composed; None: no regions."""
    plans: PlanCache = field(default_factory=PlanCache, compare=False, repr=False)
    """The plans of the run, made in its first step."""

    def is_on(self, step: float) -> bool:
        """Whether the reference is on at a step 0..999: progress is 1 - step / 999 (released code)."""
        progress = 1 - step / LAST_STEP
        inside = self.window[0] <= progress <= self.window[1]
        return inside and not (self.off_window and self.off_window[0] <= progress <= self.off_window[1])


@dataclass(frozen=True, eq=False)
class Payload:
    """What rides beside the tokens of a conditioning."""

    settings: StepSettings
    region_tokens: tuple[torch.Tensor, ...] = ()
    """(B, M, D) of every region after the first, background last; the first region's are the conditioning's own."""
    masks: tuple[torch.Tensor, ...] = ()
    """(B, H, W) of every figure, 0..1, any size."""
    empty: bool = False
    """Whether this is the condition without reference (all tokens 0)."""
    size: int = 0
    """See ReferenceSettings."""
    score: float = SCORE
    """See ReferenceSettings."""
    features: PictureFeatures | None = None
    """What the background plugin offers to self-attention, or v2's picture encoders to the decoder."""
    own: torch.Tensor | None = field(default=None, repr=False)
    """(B, M, D): the tokens of the first region, by which a change on the way to the sampler is seen."""

    def entry(self) -> dict[str, Payload]:
        """The payload as a conditioning's dictionary holds it."""
        return {PAYLOAD: self}

    @staticmethod
    def of(options: Mapping[str, Any]) -> Payload | None:
        """The payload of a conditioning's dictionary, or of the keywords of `extra_conds`; None without any."""
        return options.get(PAYLOAD)

    def inputs(
        self,
        tokens: torch.Tensor,  # (b, M, D) of the conditioning
        noise: torch.Tensor,  # (B, C, h, w), like the latent
        seed: int | None,
        device: torch.device,
        node: str | None,  # whose features the sampled model reads
    ) -> StepInputs:
        """What the steps of a run with this payload get. Raises ValueError where numbers do not fit together."""
        rows, (height, width) = noise.shape[0], noise.shape[-2:]
        for name, values in (("references", self.region_tokens), ("figure masks", self.masks)):
            for given in values:
                check_count(name, len(given), rows, repeats=True)
        empty = self.empty or not bool(tokens.any())
        others = self._others(tokens, empty)
        if self.features is not None:
            self.features.check(node, rows)
        masks = drawn = None
        if self.masks:
            count = math.lcm(*(len(mask) for mask in self.masks))
            resized = [to_latent_size(mask[:, None], height, width) for mask in self.masks]
            masks = torch.cat([mask.repeat(count // len(mask), 1, 1, 1) for mask in resized], dim=1)
        if self.settings.noise_level > 0:
            shapes = [(t.shape[1], t.shape[2]) for t in (tokens, *self.region_tokens)]
            drawn = token_noise(shapes, rows, seed or 0, empty)
        features = None if self.features is None else self.features.on(device)
        return StepInputs(self.settings, others if self.masks else None, masks, drawn, features)

    def _others(self, tokens: torch.Tensor, empty: bool) -> list[torch.Tensor]:
        """The tokens of the regions after the first. ValueError where only the first region's were changed."""
        if empty:  # as Conditioning Zero Out makes it: without reference means without any
            return [torch.zeros_like(values) for values in self.region_tokens]
        if self.region_tokens and self.own is not None and not _same(tokens, self.own):
            raise ValueError(
                "A node between Apply Reference and the sampler changed the tokens of the conditioning (Conditioning "
                "Average, Concat and their like). With figure masks they are the figure's alone, the background's ride "
                "beside them, and half a change is no picture that anybody asked for. Mix references with Blend "
                "References instead, or use mode vanilla without a figure mask."
            )
        return list(self.region_tokens)


@dataclass(frozen=True, eq=False)
class StepInputs:
    """The conds of one step of a run, as ComfyUI hands them over."""

    settings: StepSettings
    tokens: list[torch.Tensor] | None = None
    """(B, M, D) of every region after the first."""
    masks: torch.Tensor | None = None
    """(B, F, h, w): figure masks at the latent's size."""
    noise: list[torch.Tensor] | None = None
    """(B, M, D) per region, the first included: noise of the tokens."""
    features: PictureFeatures | None = None

    def conds(self) -> dict[str, comfy.conds.CONDRegular]:
        """As conds, which ComfyUI crops, repeats and batches together with the latent."""
        kinds = dict(
            settings=comfy.conds.CONDConstant,
            tokens=comfy.conds.CONDList,
            fine_masks=FineMasks,
            noise=comfy.conds.CONDList,
            features=comfy.conds.CONDConstant,
        )
        return {key: kinds[key.removeprefix(COND)](value) for key, value in self.keywords().items()}

    def keywords(self) -> dict[str, Any]:
        """As keyword arguments of the model, what is None left out."""
        values = {COND + entry.name: getattr(self, entry.name) for entry in fields(self)}
        if (masks := values.pop(f"{COND}masks")) is not None:
            values[f"{COND}fine_masks"] = masks.repeat_interleave(FINE, -2).repeat_interleave(FINE, -1)
        return {key: value for key, value in values.items() if value is not None}

    @classmethod
    def take(cls, keywords: MutableMapping[str, Any]) -> StepInputs | None:
        """Out of the keyword arguments of the model, which lose them; None in a run without payload."""
        values = {entry.name: keywords.pop(COND + entry.name, None) for entry in fields(cls)}
        if (fine := keywords.pop(f"{COND}fine_masks", None)) is not None:
            values["masks"] = fine[..., ::FINE, ::FINE]
        return None if values["settings"] is None else cls(**values)

    def check_size(self, size: Sequence[int]) -> None:
        """ValueError unless the figure masks have the `size` (h, w) of the latent that is sampled in this call."""
        if self.masks is not None and self.masks.shape[-2:] != tuple(size):
            height, width = self.masks.shape[-2:]
            raise ValueError(
                f"A node samples a part of {size[1]}x{size[0]} cells of the latent, and the figure masks of {width}x"
                f"{height} cells were not cropped with it. Remove the node that samples in tiles, or use mode vanilla "
                "without a figure mask."
            )

    def stretched(self, size: tuple[int, int], plans: PlanCache) -> StepInputs:
        """For another picture of `size` (h, w): its figure masks are stretched, features are this picture's alone.

        plans: of the other picture.
        """
        if self.masks is None or self.masks.shape[-2:] == size:
            return replace(self, features=None)
        masks = F.interpolate(self.masks.float(), size=size, mode="bilinear", align_corners=False).to(self.masks)
        return replace(self, masks=masks, settings=replace(self.settings, plans=plans), features=None)

    def guide(
        self,
        tokens: torch.Tensor,  # (B, M, D) of the conditioning
        sigma: torch.Tensor,  # (B,)
        step: torch.Tensor,  # (B,) 0..999, may be fractional
        sizes: Sequence[tuple[int, int]],  # feature map sizes with cross-attention
        sigmas: torch.Tensor | None = None,  # (T + 1,) of the run; None: noisy sampling counts the training schedule
        dtype: torch.dtype | None = None,  # of the tokens in the network; None: as they are
        memory: RunMemory | None = None,  # of the run; None: every row and layer computes everything anew
        network: Any = None,  # whose layers read the guide; of a memory
    ) -> tuple[Guide, torch.Tensor]:
        """The guide of one step, and the tokens as this step sees them."""
        settings, device = self.settings, sigma.device
        every = [
            in_rows(comfy.model_management.cast_to_device(values, device, dtype or values.dtype), len(sigma))
            for values in (tokens, *(self.tokens or ()))
        ]
        masks = None if self.masks is None else self.masks.to(device)
        if self.noise is not None:
            every = self._noisy(every, sigma, step, sigmas)
        off = False
        if settings.window != (0.0, 1.0) or settings.off_window:
            on = [settings.is_on(value) for value in step.tolist()]
            off = not any(on)
            if not off and not all(on):
                keep = torch.tensor(on, device=device).view(-1, 1, 1)
                every = [t * keep for t in every]
        split, shown = None, None
        if memory is not None and not off:
            parts = every if masks is not None else every[:1]
            kinds = (None,) if settings.split is None or masks is None else settings.split.kinds
            shown = memory.shown(network, parts, kinds)
        blank = shown is not None and shown.rows == ()
        if settings.split is not None and masks is not None and not off and not blank:
            rows = None if shown is None else shown.rows
            tokens_shown = every if shown is None else shown.tokens
            split = settings.plans.split(tokens_shown, pick(masks, rows), settings.split, sizes)
        shown = None if blank else shown
        # Noise makes other tokens in every step.
        kept = shown.layers() if shown is not None and self.noise is None else None
        guide = Guide(settings.strengths, split, off or blank, own=every[0], shown=shown, kept=kept)
        if self.features is None or off:
            return guide, every[0]
        options = BANK_OPTIONS if settings.split is None else settings.split
        read = self.features.read(len(sigma), masks, sizes, options)
        return replace(guide, **read), every[0]

    def _noisy(
        self, tokens: list[torch.Tensor], sigma: torch.Tensor, step: torch.Tensor, sigmas: torch.Tensor | None
    ) -> list[torch.Tensor]:
        left, steps = (step, SCHEDULE_STEPS) if sigmas is None else (steps_left(sigma, sigmas), len(sigmas) - 1)
        level, pairs = self.settings.noise_level, zip(tokens, self.noise or (), strict=True)
        return [noisy_sampling_tokens(t, in_rows(n.to(t), len(t)), sigma, left, level, steps) for t, n in pairs]


FINE = 2  # times finer than the latent, see FineMasks


class FineMasks(comfy.conds.CONDNoiseShape):
    """Figure masks of FINE times the latent's size, cropped with it.

    A pack for tiles (Tiled Diffusion) crops every tensor of a call that has another size than the latent by the same
    part, and fails on those of its own size.
    """

    def process_cond(self, batch_size: int, area: Sequence[int] | None = None, **kwargs: Any) -> FineMasks:
        return super().process_cond(batch_size=batch_size, area=area and [FINE * side for side in area], **kwargs)


def in_rows(values: torch.Tensor, rows: int) -> torch.Tensor:
    """(b, ...) -> (rows, ...): what rides in lists is not repeated by packs that make more rows, tile after tile."""
    if len(values) == rows or rows % len(values):
        return values
    return values.repeat(rows // len(values), *(1 for _ in values.shape[1:]))


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a is b or (a.shape == b.shape and torch.equal(a.to(b), b))


@dataclass(frozen=True, eq=False)
class Guide:
    """What a cross-attention layer does in this step; lies in transformer_options[PAYLOAD]."""

    strengths: tuple[float, ...] | None
    split: Split | None
    off: bool
    """The reference is switched off: every result is 0."""
    banks: tuple[torch.Tensor, ...] = ()
    """Of the background plugin: (1 or B, N_i, C_i) per self-attention of the decoder."""
    bank_split: Split | None = None
    """Which self-attention queries read the picture (figure) and which the bank; None: all read both. No tokens."""
    decoder: DecoderGuide | None = None
    """v2: what the output blocks read of a style and of a background."""
    handed: dict[str, Any] = field(default_factory=dict)
    """From a patch to the cross-attention layer that runs next (model/others.py)."""
    own: torch.Tensor | None = field(default=None, repr=False)
    """(B, M, D) tokens that the layers are called with; what `shown` says is true of no others."""
    shown: Shown | None = field(default=None, repr=False)
    """Rows that show a reference, the split's alone; None: all rows."""
    bank_pairs: Pairs = field(default=(), repr=False)
    """Keys and values of the banks; empty: projected by the layers."""
    kept: tuple[KeptLayer, ...] | None = field(default=None, repr=False)
    """Of every cross-attention layer, for the rows that show a reference; None: computed by the layer."""

    @staticmethod
    def of(options: Mapping[str, Any]) -> Guide | None:
        """The guide of transformer_options; None in a run without payload."""
        return options.get(PAYLOAD)

    def rows(self, context: torch.Tensor | None) -> tuple[int, ...] | None:
        """The rows that a layer called with these tokens has to answer; None: all. The others' answer is zero."""
        return self.shown.rows if self.shown is not None and self._knows(context) else None

    def kept_of(self, place: int, context: torch.Tensor | None) -> KeptLayer | None:
        """What is kept of the layer at `place` that is called with these tokens; None: nothing."""
        return self.kept[place] if self.kept is not None and self._knows(context) else None

    def _knows(self, context: torch.Tensor | None) -> bool:
        """Whether these are the tokens that `shown` and `kept` are of; a split brings its own."""
        return self.split is not None or context is self.own

    def into(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """A copy of transformer_options with this guide."""
        return {**options, PAYLOAD: self}


def noise_stream(seed: int, stream: int) -> torch.Generator:
    """Random numbers (CPU) of a run's seed that are not those its start noise is drawn from; `stream` tells users."""
    return torch.Generator().manual_seed((seed ^ stream) & (2**63 - 1))


def token_noise(shapes: Sequence[tuple[int, int]], rows: int, seed: int, empty: bool = False) -> list[torch.Tensor]:
    """Standard normal noise (rows, M, D) per region, float32 on the CPU.

    Drawn picture by picture, so that a picture's noise does not depend on the size of its batch. empty: zeros, for the
    condition without reference.
    """
    if empty:
        return [torch.zeros(rows, *shape) for shape in shapes]
    generator = noise_stream(seed, NOISE_STREAM)
    drawn = [[torch.randn(shape, generator=generator) for shape in shapes] for _ in range(rows)]
    return [torch.stack(region) for region in zip(*drawn, strict=True)]


def with_patch(options: dict, name: str, patch: Any, first: bool = False) -> dict:
    """A copy of transformer_options with one more patch; dictionaries and lists on the way are copied too."""
    patches = dict(options.get("patches", {}))
    others = list(patches.get(name, ()))
    patches[name] = [patch, *others] if first else [*others, patch]
    return {**options, "patches": patches}
