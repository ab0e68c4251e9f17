"""From a REFERENCE to ComfyUI conditioning, and from there to what cross-attention does in every step.

Everything about a run rides in the conditioning, so the MODEL stays as it was loaded: two samplers with different
references share it, and nothing is left behind after a run. `condition` is called by Apply Reference. The model's
`extra_conds` turns the payload into conds (`conds_of`) and its `_apply_model` turns the conds of one step into the
`Guide` that the cross-attention layers read (`guide_of`).

Which tokens and weights a mode gives to which region is the rule of colorize/modes.py.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import comfy.conds
import torch

from ...colorize.advice import mode_advice
from ...colorize.families import CheckpointError
from ...colorize.modes import MASK_THRESHOLD, MODES, Given, Weights, background_of, refusal, split_options
from ...colorize.pictures.figure_masks import check_mask
from ...colorize.reference.noisy_sampling import SCHEDULE_STEPS, noisy_sampling_tokens, steps_left
from ...colorize.reference.types import Reference
from ...colorize.unet.decoder_guide import DecoderGuide
from ...colorize.unet.size_embedding import SCORE
from ...colorize.unet.split_attention import Split, SplitOptions, to_latent_size
from ...colorize.unet.unet import BANK_OPTIONS
from ..checkpoint.colorizer import Colorizer

if TYPE_CHECKING:
    from .background_plugin import Banks

VARIANTS = ("paper", "released")
PAYLOAD = "colorize"  # key of the payload in a conditioning's dictionary, and of the Guide in transformer_options
LAST_STEP = 999
NOISE_STREAM = 0x5EED_C0105  # keeps the tokens' noise apart from the latent's, which is drawn from the same seed


@dataclass(frozen=True)
class ReferenceSettings:
    """The widgets of Apply Reference."""

    mode: str = "vanilla"
    """One of MODES."""
    strength: float = 1.0
    """Factor on every cross-attention result, 0..2."""
    figure_strength: float = 1.0
    """Factor on the figure's result, 0..2 (masked modes)."""
    background_strength: float = 1.0
    """Factor on the background's result, 0..2 (masked modes)."""
    merge: float = 0.0
    """Share of the background's result inside the figure, 0..1 (masked modes)."""
    mask_threshold: float = MASK_THRESHOLD
    """The figure is where its mask is greater, 0..1; 0.05 is the released application's."""
    mask_edges: str = "hard"
    """"hard": decide by the threshold; "soft": blend by the mask's value."""
    start: float = 0.0
    """Share of the run after which the reference is switched on, 0..1."""
    end: float = 1.0
    """Share of the run after which it is switched off, 0..1."""
    off_start: float = 0.0
    """Start of a second window in which it is off, 0..1."""
    off_end: float = 0.0
    """End of that window; no window unless off_start < off_end."""
    noise_level: float = 0.0
    """Share of the run in which the reference tokens carry noise, 0..1 (v1 paper, Eq. 14)."""
    variant: str = "paper"
    """"paper", or "released": figure tokens get T(mask_threshold) too, a background picture is not passed through R;
    XL: soft edges also use what resizing the mask makes below 0 and above 1."""
    size: int = 0
    """XL: the size of picture the model is told, root of its area in pixels; 0: the size that is sampled."""
    aesthetic_score: float = SCORE
    """XL: the aesthetic score the model is told, 0..10."""

    def __post_init__(self):
        for name, known in (("mode", MODES), ("variant", VARIANTS), ("mask_edges", ("hard", "soft"))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}; choose one of {', '.join(known)}.")
        if self.start > self.end:
            raise ValueError(
                f"The reference would be switched on at {self.start} of the run and off at {self.end}, before that. "
                "Set start_percent to the smaller number."
            )
        for name in ("merge", "mask_threshold", "noise_level", "start", "end", "off_start", "off_end"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it lies between 0 and 1.")
        if self.size < 0 or not 0 <= self.aesthetic_score <= 10:
            raise ValueError(
                f"size is {self.size} and aesthetic_score {self.aesthetic_score}; size is a number of pixels, or 0 for "
                "the sampled size, the score lies between 0 and 10."
            )


class PlanCache:
    """Keeps who answers which query (split_attention.Split) while masks and options stay the same: usually a run."""

    def __init__(self):
        self._last: Split | None = None

    def split(self, tokens, masks: torch.Tensor, options: SplitOptions, sizes: Sequence[tuple[int, int]]) -> Split:
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
    banks: Banks | None = None
    """What the background plugin offers to self-attention, or v2's picture encoders to the decoder."""


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


@dataclass(frozen=True, eq=False)
class Context:
    """What cross-attention reads of a reference."""

    own: torch.Tensor
    """(B, N, D) of the reference."""
    background: torch.Tensor | None
    """(B, N, D) of its background."""
    regions: tuple[torch.Tensor, ...]
    """(B, N, D) of every added figure."""


def context_of(colorizer: Colorizer, reference: Reference) -> Context:
    """The tokens of a reference as they are, or for XL as the checkpoint's token projection joins them."""
    if colorizer.projection is None:
        return Context(reference.local_tokens, reference.background_tokens, tuple(r.tokens for r in reference.regions))

    def projected(class_token, local_tokens, tagger_tokens):
        # Without tagger there is no class token either; the projection says what is missing.
        both = local_tokens if class_token is None else torch.cat([class_token, local_tokens], dim=1)
        return colorizer.projection.tokens(both, tagger_tokens)

    own, background = projected(None, reference.tokens, reference.tagger_tokens), None
    if reference.background_tokens is not None:
        background = projected(
            reference.background_class_token, reference.background_tokens, reference.background_tagger_tokens
        )
    regions = (projected(r.class_token, r.tokens, r.tagger_tokens) for r in reference.regions)
    return Context(own, background, tuple(regions))


def condition(model, colorizer: Colorizer, reference: Reference, settings: ReferenceSettings, figure_mask=None):
    """(positive, negative) of a sampler. figure_mask: (B, H, W) 0..1, 1 = figure of the sketch; masked modes need it.

    model: the ColorizeModel the conditioning is for. The negative has zero tokens and the same regions. Raises
    ValueError, naming what is missing and where to connect it.
    """
    check_mode(colorizer, reference, settings, figure_mask)
    context = context_of(colorizer, reference)
    tokens, options, region_tokens, masks = context.own, None, (), ()
    if MODES[settings.mode].splits:
        tokens, options, region_tokens, masks = _regions(colorizer, reference, context, settings, figure_mask)
    strengths = reference.levels.of(model.diffusion_model.attention_places, settings.strength)
    off = (settings.off_start, settings.off_end)
    steps = StepSettings(
        strengths=strengths if any(strength != 1.0 for strength in strengths) else None,
        window=(settings.start, settings.end),
        off_window=off if off[0] < off[1] else None,
        noise_level=settings.noise_level,
        split=options,
    )
    scalars = dict(size=settings.size, score=settings.aesthetic_score)
    positive = Payload(steps, region_tokens, masks, **scalars)
    if steps == StepSettings() and scalars == dict(size=0, score=SCORE):  # only plain cross-attention: the stock path
        return [[tokens, {}]], [[torch.zeros_like(tokens), {}]]
    negative = replace(positive, region_tokens=tuple(torch.zeros_like(t) for t in region_tokens), empty=True)
    return [[tokens, {PAYLOAD: positive}]], [[torch.zeros_like(tokens), {PAYLOAD: negative}]]


def weights_of(colorizer: Colorizer) -> Weights:
    """What decides which modes the checkpoint of a colorizer runs."""
    return Weights.of(colorizer.family, colorizer.file_name, colorizer.background_encoder is not None)


def check_mode(
    colorizer: Colorizer, reference: Reference, settings: ReferenceSettings, figure_mask: torch.Tensor | None
) -> None:
    """Raise ValueError when the mode does not run with this checkpoint, reference and mask."""
    weights = weights_of(colorizer)
    given = Given(figure_mask is not None, reference.background_tokens is not None, len(reference.regions))
    if reason := refusal(settings.mode, weights, given):
        error = CheckpointError if reason.lacks == "recovery" else ValueError
        raise error(f"{reason.text} {mode_advice(reason, weights)}")


def _regions(
    colorizer: Colorizer,
    reference: Reference,
    context: Context,
    settings: ReferenceSettings,
    figure_mask: torch.Tensor | None,
) -> tuple[torch.Tensor, SplitOptions, tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
    """(tokens of the first region, options, tokens of the others, figure masks) of a mode that splits."""
    encoder = colorizer.background_encoder
    figures = []  # (tokens, mask, strength), bottom to top
    if figure_mask is not None:
        figure_mask = check_mask(figure_mask, "figure_mask")
        if not bool(figure_mask.any()):
            logging.warning(
                "ColorizeDiffusion: figure_mask is empty, so the whole drawing counts as background. 1 must be the "
                "figure; Load Image gives an empty mask for pictures without transparency."
            )
        figures.append((context.own, figure_mask, settings.figure_strength))
    for region, tokens in zip(reference.regions, context.regions, strict=True):
        figures.append((tokens, region.mask, settings.figure_strength * region.strength))
    if settings.variant == "released" and encoder is not None and settings.mode == "fig2fig":
        figures = [(encoder.figure(t, settings.mask_threshold), mask, strength) for t, mask, strength in figures]
    options = split_options(
        settings.mode,
        weights_of(colorizer),
        tuple(strength for *_, strength in figures),
        settings.background_strength,
        threshold=settings.mask_threshold,
        merge=settings.merge,
        soft=settings.mask_edges == "soft",
        overshoot=settings.variant == "released",
    )
    tokens = [t for t, *_ in figures] + [_background(colorizer, reference, context, settings)]
    return tokens[0], options, tuple(tokens[1:]), tuple(mask for _, mask, _ in figures)


def _background(
    colorizer: Colorizer, reference: Reference, context: Context, settings: ReferenceSettings
) -> torch.Tensor:
    """(B, N, D): what the background's queries read."""
    given = Given(figure=True, background=context.background is not None)
    source = background_of(settings.mode, weights_of(colorizer), given)
    if source == "reference":
        return context.own
    if source == "background":
        return context.background
    recover = settings.variant == "paper" or not reference.background_is_picture
    return colorizer.background_encoder.background(context.background, reference.background_threshold, recover)


def conds_of(payload: Payload, tokens: torch.Tensor, noise: torch.Tensor, seed: int | None) -> dict:
    """The conds of a run: what ComfyUI crops, repeats and batches together with the latent `noise` (B, C, h, w)."""
    conds = {"colorize_settings": comfy.conds.CONDConstant(payload.settings)}
    rows, (height, width) = noise.shape[0], noise.shape[-2:]
    counted = [("references", t) for t in payload.region_tokens] + [("figure masks", m) for m in payload.masks]
    for what, given in counted:
        if len(given) not in (1, rows):
            raise ValueError(
                f"There are {len(given)} {what} for {rows} pictures. Use one, or as many as sketches "
                "(Repeat Image Batch and Image From Batch change the number)."
            )
    if payload.masks:
        count = max(len(mask) for mask in payload.masks)
        masks = [to_latent_size(m[:, None], height, width).expand(count, -1, -1, -1) for m in payload.masks]
        conds["colorize_masks"] = comfy.conds.CONDNoiseShape(torch.cat(masks, dim=1))
        conds["colorize_tokens"] = comfy.conds.CONDList(list(payload.region_tokens))
    if payload.settings.noise_level > 0:
        shapes = [(t.shape[1], t.shape[2]) for t in (tokens, *payload.region_tokens)]
        conds["colorize_noise"] = comfy.conds.CONDList(token_noise(shapes, rows, seed or 0, payload.empty))
    return conds


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


def guide_of(
    settings: StepSettings,
    tokens: list[torch.Tensor],  # (B, M, D) of every region, the conditioning's own first
    masks: torch.Tensor | None,  # (B, F, h, w) at the latent's size
    noise: list[torch.Tensor] | None,  # like tokens
    sigma: torch.Tensor,  # (B,)
    step: torch.Tensor,  # (B,) 0..999, may be fractional
    sizes: Sequence[tuple[int, int]],  # feature map sizes with cross-attention
    banks: Banks | None = None,  # of the background plugin or of v2's picture encoders
    sigmas: torch.Tensor | None = None,  # (T + 1,) of the run; None: noisy sampling counts the training schedule
) -> tuple[Guide, list[torch.Tensor]]:
    """The guide of one step, and the tokens as this step sees them."""
    if noise is not None:
        left, steps = (step, SCHEDULE_STEPS) if sigmas is None else (steps_left(sigma, sigmas), len(sigmas) - 1)
        pairs = zip(tokens, noise, strict=True)
        tokens = [noisy_sampling_tokens(t, n.to(t), sigma, left, settings.noise_level, steps) for t, n in pairs]
    off = False
    if settings.window != (0.0, 1.0) or settings.off_window:
        on = [settings.is_on(value) for value in step.tolist()]
        off = not any(on)
        if not off and not all(on):
            keep = torch.tensor(on, device=tokens[0].device).view(-1, 1, 1)
            tokens = [t * keep for t in tokens]
    split = None
    if settings.split is not None and not off:
        split = settings.plans.split(tokens, masks, settings.split, sizes)
    if banks is None or off:
        return Guide(settings.strengths, split, off), tokens
    options = BANK_OPTIONS if settings.split is None else settings.split
    return Guide(settings.strengths, split, off, **banks.read(len(sigma), masks, sizes, options)), tokens
