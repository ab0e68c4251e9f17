"""Two references as one: every token that the models read is a mixture of both, at the same place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from ..counts import check_counts
from .card import same_encoder
from .types import Reference

COUNT_ADVICE = "Encode one picture, or as many in both."
TOKENS = ("background_tokens", "background_class_token", "tagger_tokens", "background_tagger_tokens")
"""Fields of a reference beside `tokens` that are mixed, where both references have them."""


def blend(reference: Reference, other: Reference, share: float) -> Reference:
    """REFERENCE of (1 - share) of the first and share of the other, 0..1: tokens of figure and background, tagger
    features, threshold. Added figures, levels and fit are the first one's. Raises ValueError for two that do not go
    together.

    It is what averaging two conditionings does to their tokens, done where all of them still lie together; a masked
    mode reads more than a conditioning's own.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share is {share}. Choose a number from 0 (the reference alone) to 1 (the other alone).")
    _check(reference, other)

    def mixed(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
        return torch.lerp(ours.float(), theirs.float(), share).to(ours.dtype)

    both: dict[str, Any] = {name: _both(getattr(reference, name), getattr(other, name), mixed) for name in TOKENS}
    ours, theirs = reference.background_threshold, other.background_threshold
    return replace(
        reference,
        **both,
        tokens=mixed(reference.tokens, other.tokens),
        background_threshold=ours + (theirs - ours) * share,
        edits=(*reference.edits, *(f"other: {edit}" for edit in other.edits), f"blend: {share:g} of another reference"),
        tags=tuple(dict.fromkeys((*reference.tags, *other.tags))),
        palette=(),  # the colours of a mixture are nobody's
        encoder_mark=_either(reference.encoder_mark, other.encoder_mark),
        tagger_mark=_either(reference.tagger_mark, other.tagger_mark),
    )


def _both(
    ours: torch.Tensor | None, theirs: torch.Tensor | None, mixed: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
) -> torch.Tensor | None:
    return None if ours is None or theirs is None else mixed(ours, theirs)


def _either(ours: torch.Tensor | None, theirs: torch.Tensor | None) -> torch.Tensor | None:
    return theirs if ours is None else ours


def _differ(mark: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    """Whether two marks belong to different networks; one that is not known could be any."""
    return mark is not None and other is not None and not same_encoder(mark, other)


def _check(reference: Reference, other: Reference) -> None:
    shapes = [tuple(r.tokens.shape[1:]) for r in (reference, other)]
    if shapes[0] != shapes[1] or _differ(reference.encoder_mark, other.encoder_mark):
        (count, width), (others, wide) = shapes
        raise ValueError(
            f"The references come from different encoders ({count} tokens of width {width}, and {others} of {wide}): "
            "their tokens mean different things. Encode both with the same Load Reference Encoder."
        )
    check_counts({"references": reference.count, "other references": other.count}, COUNT_ADVICE)
    if other.regions:
        raise ValueError(
            f"The other reference has {len(other.regions)} added figures, which have no counterpart to be mixed with. "
            "Blend first, then add figures to the result with Add Region."
        )
    _check_backgrounds(reference, other)
    _check_taggers(reference, other)


def _check_backgrounds(reference: Reference, other: Reference) -> None:
    has = [r.background_tokens is not None for r in (reference, other)]
    if has[0] != has[1]:
        raise ValueError(
            f"Only the {'reference' if has[0] else 'other reference'} has a background of its own. Connect figure_mask "
            "or background of Encode Reference for both, or for none."
        )
    if has[0] and reference.background_is_picture != other.background_is_picture:
        raise ValueError(
            "One background is a picture of its own, the other what figure_mask leaves of the reference: models read "
            "the two in different ways. Connect background of Encode Reference for both, or for none."
        )


def _check_taggers(reference: Reference, other: Reference) -> None:
    ours, theirs = reference.tagger_tokens, other.tagger_tokens
    if (ours is None) != (theirs is None):
        raise ValueError(
            "Only one of the references has a tagger's features. Connect tagger of Encode Reference for both (XL "
            "models), or for none."
        )
    if ours is None or theirs is None:
        return
    different = reference.second_tower != other.second_tower or ours.shape[1:] != theirs.shape[1:]
    if different or _differ(reference.tagger_mark, other.tagger_mark):
        raise ValueError(
            "The references were tagged by different taggers. Connect the same Load Tagger (or second_encoder) to both "
            "Encode Reference."
        )
