"""What rides in a run: from the conditioning to the conds of a step, and from there to what the layers read.

Everything about a run rides in the conditioning, so the MODEL stays as it was loaded: two samplers with different
references share it, and nothing is left behind after a run. Three stations, and all their keys are here:

1. `Payload` lies in a conditioning's dictionary under PAYLOAD, written by the nodes (`entry`, `of`).
2. `StepInputs` are the conds of a step, which ComfyUI crops, repeats and batches with the latent (`conds`, `take`).
3. `Guide` lies in transformer_options[PAYLOAD] while the U-Net runs one step; the attention layers follow it.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar

import comfy.conds
import comfy.model_management
import torch
import torch.nn.functional as F

from ..colorize.counts import check_count
from ..colorize.reference.noisy_sampling import SCHEDULE_STEPS, noisy_sampling_tokens, steps_left
from ..colorize.unet.decoder_guide import DecoderGuide, figure_split
from ..colorize.unet.size_embedding import SCORE
from ..colorize.unet.split_attention import BANK_OPTIONS, Split, SplitOptions, to_latent_size

PAYLOAD = "colorize"  # key of the payload in a conditioning's dictionary, and of the Guide in transformer_options
LAST_STEP = SCHEDULE_STEPS - 1
NOISE_STREAM = 0x5EED_C0105  # keeps the tokens' noise apart from the latent's, which is drawn from the same seed


class PlanCache:
    """Keeps who answers which query (split_attention.Split) while masks and options stay the same: usually a run."""

    def __init__(self) -> None:
        self._last: Split | None = None

    def split(
        self,
        tokens: Sequence[torch.Tensor],
        masks: torch.Tensor,
        options: SplitOptions,
        sizes: Sequence[tuple[int, int]],
    ) -> Split:
        """A Split whose plans for `sizes` are ready.

        They are made here and not in the layers, because they depend on the masks' values, which torch.compile cannot
        trace.
        """
        last = self._last
        if (
            last is not None
            and last.options == options
            and last.masks.device == masks.device
            and torch.equal(last.masks, masks)
        ):
            split = last.with_tokens(tokens)
        else:
            split = Split(tokens, masks, options)
        for size in sizes:
            split.plan(*size)
        self._last = split.with_tokens(())
        return split


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


@dataclass(eq=False)
class PictureFeatures:
    """What networks beside the model saw in pictures, once, for every step of a run.

    Compared by identity, so that equal conditions run in one batch.
    """

    tensors: tuple[torch.Tensor, ...] = field(repr=False)
    """Of every reader of the U-Net, in order: (b, ...); b is 1 or the number of pictures."""
    plans: PlanCache = field(default_factory=PlanCache, repr=False)
    """Who reads them, made in a run's first step."""
    node: ClassVar[str]
    """The node that makes them."""
    title: ClassVar[str]
    """For messages."""

    def __post_init__(self) -> None:
        self._copies: weakref.WeakValueDictionary[str, PictureFeatures] = weakref.WeakValueDictionary()

    @property
    def count(self) -> int:
        """Number of pictures that were seen."""
        return len(self.tensors[0])

    def check(self, node: str | None, pictures: int) -> None:
        """Raise ValueError unless the model reads what this node makes, and there is one, or one per picture.

        node: that of the features which the sampled model reads.
        """
        if node != self.node:
            raise ValueError(
                f"The conditioning comes from {self.node}, but the sampled model is of another family. Connect model "
                "and colorizer of the same Load ColorizeDiffusion Checkpoint."
            )
        check_count(self.title, self.count, pictures)

    def on(self, device: torch.device) -> PictureFeatures:
        """The same on a device: one copy for all conditions of a run, gone when the run's conditions are."""
        if self.tensors[0].device == device:
            return self
        copy = self._copies.get(str(device))
        if copy is None:
            tensors = tuple(values.to(device) for values in self.tensors)
            copy = self._copies[str(device)] = replace(self, tensors=tensors, plans=PlanCache())
        return copy

    to = on  # ComfyUI asks conditions to move when it spreads a run over several devices

    def read(
        self,
        rows: int,
        masks: torch.Tensor | None,  # (rows, F, h, w) figure masks at the size of the latent
        sizes: Sequence[tuple[int, int]],  # of the feature maps with attention
        options: SplitOptions,  # of the cross-attention
    ) -> dict[str, Any]:
        """The features with 1 row or `rows` rows and who reads them in one step: fields of a Guide."""
        raise NotImplementedError

    def rows(self, rows: int) -> tuple[torch.Tensor, ...]:
        """The tensors with 1 row or `rows` rows: a batch holds all pictures once per condition."""
        if self.count == 1:
            return self.tensors
        return tuple(t.repeat(rows // self.count, *(1 for _ in t.shape[1:])) for t in self.tensors)


@dataclass(eq=False)
class Banks(PictureFeatures):
    """XL: what the background plugin offers to self-attention: (b, N_i, C_i) per transformer block of the decoder."""

    node: ClassVar[str] = "Apply Background Plugin"
    title: ClassVar[str] = "backgrounds of the plugin"

    def read(
        self, rows: int, masks: torch.Tensor | None, sizes: Sequence[tuple[int, int]], options: SplitOptions
    ) -> dict[str, Any]:
        """Banks, and the split by which they are read; arguments as in `PictureFeatures.read`."""
        tensors = self.rows(rows)
        if masks is None:
            return dict(banks=tensors)
        figures, options = masks.amax(dim=1, keepdim=True), replace(BANK_OPTIONS, threshold=options.threshold)
        return dict(banks=tensors, bank_split=self.plans.split(tensors[:1] * 2, figures, options, sizes))


@dataclass(eq=False)
class StyleAndBackground(PictureFeatures):
    """v2: what the decoder reads: first the backgrounds, then the styles, in the order of the output blocks."""

    backgrounds: int = 0
    """How many of the tensors are background tokens (b, S_i, C_i); the others are style vectors (b, 2 C_i)."""
    node: ClassVar[str] = "Apply Style and Background"
    title: ClassVar[str] = "style or background pictures"

    def read(
        self, rows: int, masks: torch.Tensor | None, sizes: Sequence[tuple[int, int]], options: SplitOptions
    ) -> dict[str, Any]:
        """The `DecoderGuide` of one step; arguments as in `PictureFeatures.read`."""
        tensors = self.rows(rows)
        split = None if masks is None else figure_split(masks, options.threshold, options.soft)
        return dict(decoder=DecoderGuide(tensors[: self.backgrounds], tensors[self.backgrounds :], split))


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
                check_count(name, len(given), rows)
        if self.features is not None:
            self.features.check(node, rows)
        masks = drawn = None
        if self.masks:
            count = max(len(mask) for mask in self.masks)
            resized = [to_latent_size(m[:, None], height, width).expand(count, -1, -1, -1) for m in self.masks]
            masks = torch.cat(resized, dim=1)
        if self.settings.noise_level > 0:
            shapes = [(t.shape[1], t.shape[2]) for t in (tokens, *self.region_tokens)]
            drawn = token_noise(shapes, rows, seed or 0, self.empty)
        features = None if self.features is None else self.features.on(device)
        return StepInputs(self.settings, list(self.region_tokens) if self.masks else None, masks, drawn, features)


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
            masks=comfy.conds.CONDNoiseShape,
            noise=comfy.conds.CONDList,
            features=comfy.conds.CONDConstant,
        )
        return {key: kinds[key.removeprefix(_COND)](value) for key, value in self.keywords().items()}

    def keywords(self) -> dict[str, Any]:
        """As keyword arguments of the model, what is None left out."""
        values = {_COND + entry.name: getattr(self, entry.name) for entry in fields(self)}
        return {key: value for key, value in values.items() if value is not None}

    @classmethod
    def take(cls, keywords: MutableMapping[str, Any]) -> StepInputs | None:
        """Out of the keyword arguments of the model, which lose them; None in a run without payload."""
        values = {entry.name: keywords.pop(_COND + entry.name, None) for entry in fields(cls)}
        return None if values["settings"] is None else cls(**values)

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
    ) -> tuple[Guide, torch.Tensor]:
        """The guide of one step, and the tokens as this step sees them."""
        settings, device = self.settings, sigma.device
        every = [
            comfy.model_management.cast_to_device(values, device, dtype or values.dtype)
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
        split = None
        if settings.split is not None and masks is not None and not off:
            split = settings.plans.split(every, masks, settings.split, sizes)
        if self.features is None or off:
            return Guide(settings.strengths, split, off), every[0]
        options = BANK_OPTIONS if settings.split is None else settings.split
        read = self.features.read(len(sigma), masks, sizes, options)
        return Guide(settings.strengths, split, off, **read), every[0]

    def _noisy(
        self, tokens: list[torch.Tensor], sigma: torch.Tensor, step: torch.Tensor, sigmas: torch.Tensor | None
    ) -> list[torch.Tensor]:
        left, steps = (step, SCHEDULE_STEPS) if sigmas is None else (steps_left(sigma, sigmas), len(sigmas) - 1)
        level, pairs = self.settings.noise_level, zip(tokens, self.noise or (), strict=True)
        return [noisy_sampling_tokens(t, n.to(t), sigma, left, level, steps) for t, n in pairs]


_COND = "colorize_"  # before a field of StepInputs: its name among ComfyUI's conds


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

    @staticmethod
    def of(options: Mapping[str, Any]) -> Guide | None:
        """The guide of transformer_options; None in a run without payload."""
        return options.get(PAYLOAD)

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
