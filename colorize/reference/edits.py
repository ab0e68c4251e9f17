"""Editing a REFERENCE with prompts: what the Manipulate Reference nodes do. The equations: reference.manipulation."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from . import manipulation
from .manipulation import RATIO, THRESHOLDS
from .types import Reference

PARTS = ("reference", "background", "both")
EVERYTHING = "everything"
NO_ANCHOR = "none"
LARGEST_SCALE = 15.0
LARGEST_RATIO = 15.0


class TextSide(Protocol):
    """What an edit needs of a text encoder; see text.LoadedTextEncoder."""

    @property
    def width(self) -> int:
        """Of its vectors."""

    @property
    def file_name(self) -> str:
        """For messages."""

    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        """Texts -> vectors (n, width) of length 1."""


@dataclass(frozen=True)
class Edit:
    """What both kinds of edit have in common."""

    target: str
    """What it should become."""
    target_scale: float = 8.0
    """s, 0..15; the paper uses 4 to 15."""
    anchor: str = ""
    """What it is now; empty or "none": no anchor. In the variant "released" an empty one is the empty text."""
    enhance: bool = False
    part: str = "reference"
    """Which tokens: "reference", "background" (those of figure_mask or background), "both"."""
    variant: str = "paper"

    @property
    def anchor_text(self) -> str | None:
        """The anchor to encode; None without one."""
        text = self.anchor.strip()
        if text.lower() == NO_ANCHOR or (not text and self.variant == "paper"):
            return None
        return text

    @property
    def sentence(self) -> str:
        """For the list of edits that a reference carries."""
        words = [f"target {self.target.strip()!r} at {self.target_scale:g}"]
        words += [] if self.anchor_text is None else [f"anchor {self.anchor_text!r}"]
        words += ["enhance"] if self.enhance else []
        words += [f"part {self.part}"] if self.part != "reference" else []
        return ", ".join([*words, f"variant {self.variant}"])

    def check(self, reference: Reference) -> None:
        """Raise ValueError for settings out of range, and for a part that the reference does not have."""
        check_part(reference, self.part)
        check_number("target_scale", self.target_scale, LARGEST_SCALE)
        manipulation.check_variant(self.variant)


def manipulate_global(reference: Reference, text_encoder: TextSide, edit: Edit) -> Reference:
    """REFERENCE with every token moved by Algorithm 1, each by itself. Raises ValueError.

    The paper edits the class token, for its CLS model. For models that read the local tokens, as all released ones do,
    it calls a global edit ineffective (4.2): it then moves every place alike, wherever the words belong.
    """
    edit.check(reference)
    e, a = vectors(text_encoder, reference, edit.target, edit.anchor_text)

    def moved(tokens: torch.Tensor) -> torch.Tensor:
        return manipulation.manipulate_global(tokens, e, a, edit.target_scale, edit.enhance, edit.variant)

    return _edited(reference, edit.part, moved, moved, moved, f"global: {edit.sentence}")


def manipulate_local(
    reference: Reference,
    text_encoder: TextSide,
    edit: Edit,
    control: str = "",
    thresholds: Sequence[float] = THRESHOLDS,
    strength_ratio: float = RATIO,
) -> Reference:
    """REFERENCE with its local tokens moved by Algorithm 2; the class token stays. Raises ValueError.

    control: what marks the places to edit. Empty or "everything": all places alike, which the released application
    intends; there, and in the variant "released", both are plain prompts.
    The background tokens have no class token of their own: the reference's takes its place.
    """
    edit.check(reference)
    check_number("strength_ratio", strength_ratio, LARGEST_RATIO)
    thresholds = manipulation.check_thresholds(thresholds)
    prompt = control.strip()
    where = None if edit.variant == "paper" and prompt.lower() in ("", EVERYTHING) else prompt
    e, a, c = vectors(text_encoder, reference, edit.target, edit.anchor_text, where)
    cls = reference.tokens[:, :1]
    _warn_of_reversal(cls, e, a, edit)

    def moved(local: torch.Tensor) -> torch.Tensor:
        return manipulation.move_local(
            local, cls, e, a, c, edit.target_scale, edit.enhance, thresholds, strength_ratio, edit.variant
        )

    numbers = "" if where is None else f", thresholds {' '.join(f'{value:g}' for value in thresholds)}"
    place = EVERYTHING if where is None else repr(where)
    sentence = f"local: {edit.sentence}, control {place}{numbers}, strength ratio {strength_ratio:g}"

    def whole(tokens: torch.Tensor) -> torch.Tensor:
        return torch.cat([cls, moved(tokens[:, 1:])], 1)

    return _edited(reference, edit.part, whole, moved, lambda theirs: theirs, sentence)


def vectors(text_encoder: TextSide, reference: Reference, prompt: str, *others: str | None) -> list:
    """Prompts -> one vector (D,) each; None stays None.

    Raises ValueError when the first prompt is empty, or the encoder's width is not that of the reference.
    """
    if not prompt.strip():
        raise ValueError("The prompt is empty. Write one or a few English words, for example: blonde hair.")
    if text_encoder.width != reference.width:
        raise ValueError(
            f"The text encoder {text_encoder.file_name} writes vectors of width {text_encoder.width}, the reference "
            f"has tokens of width {reference.width}: they are not of one CLIP. Load Text Encoder and Load Reference "
            "Encoder need the same CLIP (for official models: OpenCLIP ViT-H/14, width 1024)."
        )
    texts = [prompt.strip(), *others]
    written = [text for text in texts if text is not None]
    found = iter(text_encoder.encode(written).to(reference.tokens))
    return [None if text is None else next(found) for text in texts]


def check_part(reference: Reference, part: str) -> None:
    """Raise ValueError for an unknown part, and for a background that the reference does not have."""
    if part not in PARTS:
        raise ValueError(f"part is {part!r}; choose one of {', '.join(PARTS)}.")
    if part != "reference" and reference.background_tokens is None:
        raise ValueError(
            f"part is {part!r}, but the reference has no background of its own. Connect figure_mask or background to "
            "Encode Reference, or choose the part reference."
        )


def check_number(name: str, value: float, largest: float) -> None:
    """Raise ValueError unless 0 <= value <= largest."""
    if not 0 <= value <= largest:  # also NaN
        raise ValueError(f"{name} is {value}; choose a number between 0 and {largest:g}.")


def _warn_of_reversal(cls: torch.Tensor, target: torch.Tensor, anchor: torch.Tensor | None, edit: Edit) -> None:
    """Below the projection of the class token the distance to go is negative, which is seldom meant."""
    if anchor is None and edit.variant == "paper":
        return
    reached = manipulation.dot(cls, anchor if anchor is not None and edit.enhance else target).max().item()
    if edit.target_scale < reached:
        logging.warning(
            "target_scale %.2f is below %.2f, what the reference has already: the edit goes the other way, away from "
            "the target. Raise target_scale above it.",
            edit.target_scale, reached,
        )  # fmt: skip


def _edited(
    reference: Reference,
    part: str,
    on_tokens: Callable[[torch.Tensor], torch.Tensor],  # class token and local tokens
    on_background: Callable[[torch.Tensor], torch.Tensor],  # local tokens only
    on_class: Callable[[torch.Tensor], torch.Tensor],  # the background's class token
    sentence: str,
) -> Reference:
    tokens = reference.tokens if part == "background" else on_tokens(reference.tokens)
    background, theirs = reference.background_tokens, reference.background_class_token
    if part != "reference" and background is not None:
        background = on_background(background)
        theirs = None if theirs is None else on_class(theirs)
    if not all(bool(torch.isfinite(values).all()) for values in (tokens, background, theirs) if values is not None):
        raise ValueError("The reference holds NaN or infinite values. Encode it again.")
    return replace(
        reference,
        tokens=tokens,
        background_tokens=background,
        background_class_token=theirs,
        edits=(*reference.edits, sentence),
    )
