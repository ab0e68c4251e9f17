"""From a REFERENCE to ComfyUI conditioning: what Apply Reference does.

Which tokens and weights a mode gives to which region is the rule of colorize/modes.py; how the result rides through a
run is payload.py.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any

import torch

from ...colorize.advice import mode_advice
from ...colorize.families import CheckpointError
from ...colorize.modes import MASK_THRESHOLD, MODES, Given, Weights, background_of, refusal, split_options
from ...colorize.reference.types import Reference, read_tokens
from ...colorize.unet.size_embedding import SCORE
from ...colorize.unet.split_attention import SplitOptions
from ..checkpoint.colorizer import Colorizer
from ..payload import Payload, StepSettings

VARIANTS = ("paper", "released")


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

    def __post_init__(self) -> None:
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
    """The tokens of a reference as they are, or for XL as the checkpoint's token projection joins them.

    ValueError where a model reads class tokens that an older card does not have.
    """
    if colorizer.family.tokens == "cls":
        return _class_tokens(colorizer, reference)
    projection = colorizer.projection
    if projection is None:
        return Context(reference.local_tokens, reference.background_tokens, tuple(r.tokens for r in reference.regions))

    def projected(
        class_token: torch.Tensor | None, local_tokens: torch.Tensor, tagger_tokens: torch.Tensor | None
    ) -> torch.Tensor:
        # Without tagger there is no class token either; the projection says what is missing.
        both = local_tokens if class_token is None else torch.cat([class_token, local_tokens], dim=1)
        return projection.tokens(both, tagger_tokens, reference.second_tower)

    own = projected(None, reference.tokens, reference.tagger_tokens)
    background: torch.Tensor | None = None
    if reference.background_tokens is not None:
        background = projected(
            reference.background_class_token, reference.background_tokens, reference.background_tagger_tokens
        )
    regions = (projected(r.class_token, r.tokens, r.tagger_tokens) for r in reference.regions)
    return Context(own, background, tuple(regions))


def _class_tokens(colorizer: Colorizer, reference: Reference) -> Context:
    """What a CLS model reads: class tokens (B, 1, D)."""
    regions = [region.class_token for region in reference.regions if region.class_token is not None]
    background = reference.background_class_token
    lacks_background = background is None and reference.background_tokens is not None
    if len(regions) < len(reference.regions) or lacks_background:
        raise ValueError(
            f"{colorizer.file_name} reads the class token of a reference, and the card does not hold that of its "
            "background or of an added region. Encode the reference again and save a new card."
        )
    return Context(read_tokens(reference.tokens, "cls"), background, tuple(regions))


def condition(
    model: Any,
    colorizer: Colorizer,
    reference: Reference,
    settings: ReferenceSettings,
    figure_mask: torch.Tensor | None = None,
) -> tuple[list, list]:
    """(positive, negative) of a sampler. figure_mask: (B, H, W) 0..1, 1 = figure of the sketch, as
    figure_masks.check_mask gives it; masked modes need it.

    model: the ColorizeModel the conditioning is for. The negative has zero tokens and the same regions. Raises
    ValueError, naming what is missing and where to connect it.
    """
    check_mode(colorizer, reference, settings, figure_mask)
    context = context_of(colorizer, reference)
    tokens = context.own
    options: SplitOptions | None = None
    region_tokens: tuple[torch.Tensor, ...] = ()
    masks: tuple[torch.Tensor, ...] = ()
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
    scalars: dict[str, Any] = dict(size=settings.size, score=settings.aesthetic_score)
    positive = Payload(steps, region_tokens, masks, own=tokens, **scalars)
    if steps == StepSettings() and scalars == dict(size=0, score=SCORE):  # only plain cross-attention: the stock path
        return [[tokens, {}]], [[torch.zeros_like(tokens), {}]]
    nothing = torch.zeros_like(tokens)
    others = tuple(torch.zeros_like(t) for t in region_tokens)
    negative = replace(positive, region_tokens=others, empty=True, own=nothing)
    return [[tokens, positive.entry()]], [[nothing, negative.entry()]]


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
    first, *others = *(t for t, *_ in figures), _background(colorizer, reference, context, settings)
    return first, options, tuple(others), tuple(mask for _, mask, _ in figures)


def _background(
    colorizer: Colorizer, reference: Reference, context: Context, settings: ReferenceSettings
) -> torch.Tensor:
    """(B, N, D): what the background's queries read."""
    given = Given(figure=True, background=context.background is not None)
    source = background_of(settings.mode, weights_of(colorizer), given)
    tokens, encoder = context.background, colorizer.background_encoder
    if source == "reference" or tokens is None:
        return context.own
    if source == "background" or encoder is None:
        return tokens
    recover = settings.variant == "paper" or not reference.background_is_picture
    return encoder.background(tokens, reference.background_threshold, recover)
