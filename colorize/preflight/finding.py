"""What Preflight looks at, what it may find, and the limits it measures by.

The limits are rules of thumb, after the released applications' advice where there is any.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch

from ..distilled import Distilled
from ..families import Family
from ..modes import MASK_THRESHOLD, REFERENCE_THRESHOLD
from ..reference.types import Reference
from ..sampler_settings import SamplerSettings

LEVELS = ("problem", "warning", "note", "fine")
"""problem: the run fails or its result is useless. warning: the result suffers. note: good to know. fine: as it should
be."""

TRAINED_SIDE = {"official": (512, 768), "xl": (1024, 1536), "small": (256, 384)}  # best and largest side in pixels
SECOND_PASS = 1.5  # times the largest side: from there on a second pass, too, sees too little of the whole
ENCODER_SIDE = 224  # pixels, what the reference encoder of the official models reads

UNSURE = 0.1  # share of light pixels this close to a half: paper and lines cannot be told apart
GREY_PAPER = 0.12  # darkness of the paper from which clean_paper is worth it
FAINT = 0.5  # darkness of the darkest lines
THIN, THICK = 0.7, 8.0  # pixels of line width at the sampled size
SCREENED = 0.05  # share of a drawing in hatching or screentone
SHADES = 0.35  # share of middle tones that line art does not have
COLOURED, COLOURLESS = 0.15, 0.03  # share of coloured pixels in a sketch; mean saturation of a reference
BLANK = 0.6  # share of a reference that its trimmed part has; less is worth a word
DARK = 0.15  # mean brightness of a reference below which it is a night picture
LONG, VERY_LONG = 1.5, 2.0  # long side over short side of a reference that is squashed to a square: note, warning
MARGINS = 0.3  # share of the canvas around a padded drawing
SOLID = 0.25  # share of the drawing in solid black areas


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    level: str
    """One of LEVELS."""
    subject: str
    """"sketch", "reference", "masks" or "model": which panel of the preview it belongs to."""
    text: str
    """What was found."""
    fix: str = ""
    """What to do about it; empty for what is fine."""


class Network(Protocol):
    """What Preflight asks of the model inside a MODEL; other models have none of it."""

    @property
    def context_dim(self) -> int:
        """Width of the tokens it reads."""


class CheckpointFacts(Protocol):
    """What Preflight asks of a COLORIZER."""

    @property
    def family(self) -> Family:
        """What was found out about the file."""

    @property
    def file_name(self) -> str:
        """For messages."""

    @property
    def background_encoder(self) -> Any:
        """The recovery networks, or None."""


@dataclass(frozen=True, eq=False)
class Inputs:
    """Everything Preflight looks at. What is None is not examined."""

    sketch: torch.Tensor | None = None
    """Drawings as the artist made them, before Prepare Sketch."""
    sketch_mask: torch.Tensor | None = None
    """Their transparency, 1 = transparent."""
    figure_mask: torch.Tensor | None = None
    """Where the figure is in the drawings."""
    reference: torch.Tensor | None = None
    """Reference pictures, before Encode Reference."""
    reference_mask: torch.Tensor | None = None
    """Their transparency."""
    reference_figure_mask: torch.Tensor | None = None
    """Where the figure is in the references."""
    width: int = 512
    """Of the sampled picture, pixels."""
    height: int = 512
    second_pass: tuple[int, int] | None = None
    """(width, height) in pixels of a second pass, or of one tile of it."""
    tile: tuple[int, int] | None = None
    """(width, height) in pixels of the tiles in which the model is sampled."""
    mode: str = "vanilla"
    """Mode of Apply Reference."""
    mask_threshold: float = MASK_THRESHOLD
    """Of Apply Reference."""
    reference_mask_threshold: float = REFERENCE_THRESHOLD
    """Of Encode Reference."""
    model: Network | None = None
    """The model inside a MODEL."""
    is_ours: bool = True
    """Whether that is one of our models."""
    colorizer: CheckpointFacts | None = None
    """The reference side of the checkpoint: `file_name`, `family` and `background_encoder`."""
    encoded: Reference | None = None
    """The output of Encode Reference."""
    student: Distilled | None = None
    """What a model of few steps says about itself."""
    samplers: tuple[SamplerSettings, ...] = ()
    """How the samplers of the graph are set that this model is for."""
    core_remark: str = ""
    """What is to be said about the ComfyUI this runs in; empty for one that was tested."""


def broken_values(image: torch.Tensor, subject: str, name: str) -> list[Finding]:
    broken = int((~torch.isfinite(image)).sum())
    if not broken:
        return []
    text = f"{name} has {broken} of {image.numel()} values that are NaN or infinite; they count as black."
    return [Finding("problem", subject, text, "Look at the node that makes the picture.")]
