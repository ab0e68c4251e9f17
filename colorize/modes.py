"""The modes: who answers which query of the drawing, with which tokens and which weights. The one home of that rule.

ComfyUI (Apply Reference and Preflight) and the trainer (stages, evaluate, sample) ask here and nowhere else. Source:
Image Referenced Sketch Colorization Based on Animation Creation Workflow (CVPR 2025), and the released applications.

| mode           | figure                    | background                                   | files    |
| vanilla        | tokens e, plain weights, the whole picture                               | all      |
| masked vanilla | e, plain weights          | background tokens or e, plain weights        | all      |
|  with plugin   | e, background weights     | background tokens, background weights        | XL       |
| bg2fig         | e, figure weights         | e, plain weights                             | v1.5     |
| fig2fig        | e, figure weights         | R(background tokens + T(t)), background weights | v1.5  |
|                | e, figure weights         | background tokens, background weights        | v2, XL*  |

*: an XL file with region weights for both, as the trainer's stage xl_lora makes them. bg2fig runs with it as well.

e: the tokens of the reference. R is the recovery transformer, T the threshold embedding, t the threshold of the
reference's mask. XL reads the tokens that its token projection makes of image and tagger tokens; its background weights
belong to the background plugin and were trained to be on for the whole picture.

v2 (released application): vanilla is its plain mode, masked vanilla without background tokens its "FG enhance", fig2fig
its "BG enhance".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from .families import Family
from .unet.split_attention import SplitOptions

FIGURE, BACKGROUND = "fg", "bg"  # kinds of region weights; None stands for the plain ones

MASK_THRESHOLD = 0.05  # a place of the drawing is figure where its mask is greater (released applications)
REFERENCE_THRESHOLD = 0.5  # a pixel of the reference is figure where its mask is not below this


@dataclass(frozen=True)
class Mode:
    """One row of the table."""

    name: str
    figure: str | None = None
    """Region weights that answer the queries of figures; None: the plain weights."""
    background: str | None = None
    """Region weights that answer the queries of the background."""
    splits: bool = True
    """Whether figure and background are told apart, by a figure mask of the drawing."""
    background_tokens: str = "never"
    """Whether the background's queries read tokens of their own: "never", "optional" or "always"."""

    @property
    def needs_weights(self) -> bool:
        """Whether the model must have region weights."""
        return self.figure is not None or self.background is not None


_ROWS = (
    Mode("vanilla", splits=False),
    Mode("masked vanilla", background_tokens="optional"),
    Mode("bg2fig", FIGURE),
    Mode("fig2fig", FIGURE, BACKGROUND, background_tokens="always"),
)
MODES: dict[str, Mode] = {mode.name: mode for mode in _ROWS}


@dataclass(frozen=True)
class Weights:
    """What of a model decides which modes it runs, and how."""

    title: str
    """The family, for messages: "ColorizeDiffusion v1.5"."""
    name: str
    """The file, or what else a message may call the model."""
    regions: bool = False
    """Whether there are region weights of figure and background."""
    recovers: bool = False
    """Whether the family reads the background of fig2fig through a recovery transformer (v1.5)."""
    recovery: bool = False
    """Whether that transformer and the threshold embedding are there."""
    warps: bool = False
    """v2: backgrounds come from a picture encoder; its figure weights were never trained without them (no bg2fig)."""
    xl: bool = False
    """Whether it is an SDXL network."""
    plugin: bool = False
    """Whether there is a background plugin (XL)."""
    ties_to_figure: bool = False
    """Whether a place whose mask is exactly the threshold is figure (released v1 code)."""

    @classmethod
    def of(cls, family: Family, name: str, recovery: bool) -> Weights:
        """Of a checkpoint of a family. recovery: whether the recovery networks were found in it."""
        return cls(
            title=family.title,
            name=name,
            regions=family.has_regions,
            recovers=family.recovers_background,
            recovery=recovery,
            warps=family.is_v2,
            xl=family.is_xl,
            plugin=family.has_plugin,
            ties_to_figure=family.name == "v1",
        )


@dataclass(frozen=True)
class Given:
    """What a run was given."""

    figure: bool = False
    """Whether it is known where the figure of the drawing is: by a mask, or by added figures."""
    background: bool = False
    """Whether there are tokens of the reference's background."""
    added: int = 0
    """Number of added figures, each with a reference of its own."""


@dataclass(frozen=True)
class Refusal:
    """Why a mode does not run."""

    lacks: str
    """"split", "region weights", "bg2fig", "figure", "background" or "recovery": by this a caller gives its advice."""
    text: str
    """One sentence or two for the user; the next step is the caller's, who knows where it is taken."""
    instead: tuple[str, ...]
    """Modes that would run with what there is."""


def named(text: str) -> Mode:
    """The mode of this name. ValueError for another, with the names there are."""
    if text not in MODES:
        raise ValueError(f"mode is {text!r}; choose one of {', '.join(MODES)}.")
    return MODES[text]


def refusal(mode: str, weights: Weights, given: Given) -> Refusal | None:
    """Why a mode does not run with a model and what was given; None when it does. The first reason in this order."""
    if (reason := _lack(named(mode), weights, given)) is None:
        return None
    instead = tuple(name for name, row in MODES.items() if name != mode and _lack(row, weights, given) is None)
    return Refusal(*reason, instead)


def _lack(mode: Mode, weights: Weights, given: Given) -> tuple[str, str] | None:
    """(what is missing, the sentence) of a refusal."""
    if not mode.splits:
        if not given.added:
            return None
        count = f"{given.added} added region{'' if given.added == 1 else 's'}"
        return "split", f"The reference has {count} (Add Region), but the mode {mode.name} knows one region only."
    if mode.needs_weights and not weights.regions:
        return "region weights", (
            f"The mode {mode.name} needs the region weights of a ColorizeDiffusion v1.5 checkpoint (or of an XL model "
            f"that the trainer's stage xl_lora made); {weights.name} is {weights.title} without them."
        )
    if mode.name == "bg2fig" and weights.warps:
        return "bg2fig", f"{weights.name} is {weights.title}, whose weights know no bg2fig."
    if not given.figure and not given.added:
        return "figure", f"The mode {mode.name} needs to know where the figure is."
    if mode.background_tokens == "always" and not given.background:
        return "background", f"The mode {mode.name} needs to know the reference's background."
    if mode.background_tokens == "always" and weights.recovers and not weights.recovery:
        return "recovery", f"{weights.name} has region weights but no recovery transformer, which {mode.name} needs."
    return None


def background_of(mode: str, weights: Weights, given: Given) -> str:
    """Which tokens the background's queries read in a mode that splits.

    "reference": those of the whole reference; "background": those of its background; "recovered": these after threshold
    embedding and recovery transformer.
    """
    row = named(mode)
    if row.background_tokens == "never" or not given.background:
        return "reference"
    return "recovered" if row.background_tokens == "always" and weights.recovers else "background"


def split_options(
    mode: str,
    weights: Weights,
    strengths: Sequence[float] = (1.0,),  # of every figure, bottom to top
    background_strength: float = 1.0,
    *,
    threshold: float = MASK_THRESHOLD,
    merge: float = 0.0,
    soft: bool = False,
    overshoot: bool = False,  # soft edges of an XL model as the released code computes them
) -> SplitOptions:
    """How split attention composes the regions in a mode that splits; see SplitOptions for the numbers."""
    row = named(mode)
    if not row.splits:
        raise ValueError(f"The mode {mode} does not split the picture.")
    return SplitOptions(
        kinds=(*[row.figure] * len(strengths), row.background),
        strengths=(*strengths, background_strength),
        threshold=threshold,
        merge=merge,
        soft=soft,
        overshoot=soft and overshoot and weights.xl,
        ties_to_figure=weights.ties_to_figure,
    )


def with_plugin(options: SplitOptions) -> SplitOptions:
    """The same regions when the background plugin is on: its background weights answer every query, as trained."""
    return replace(options, kinds=(BACKGROUND,) * len(options.kinds))
