"""Figures of a shot, named once by masks on one frame and followed through the others.

A figure is treated as a colour is: every piece of the named frame belongs to a figure or to nobody, and the pieces of
the other frames are asked what they are. What nobody is sure of belongs with what lies around it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..pictures.regions import RegionMap
from .carrying import SURE, carried, check_key_frame
from .shapes import Shapes, shapes_of

HALF = 0.5  # share of a piece from which it belongs to a figure
LIKELY = 0.5  # belief from which a piece decides for itself
ROUNDS = 8  # from neighbour to neighbour


@dataclass(frozen=True, eq=False)
class Followed:
    """Where the figures are in every frame."""

    masks: np.ndarray
    """(frames, figures, H, W) float32, 1 where a figure is; figures do not overlap"""
    unsure: np.ndarray
    """(frames, H, W) float32, 1 where that is a guess"""


def followed(
    regions: Sequence[RegionMap],
    masks: np.ndarray,
    key_frame: int = 0,
    on_frame: Callable[[], None] = lambda: None,
) -> Followed:
    """Follow figures through the frames of a shot.

    masks: (figures, H, W) in 0..1 over the drawing of the key frame; of masks that overlap the last has the piece.
    on_frame is called once for every other frame. Raises ValueError for masks of another size and numbers out of range.
    """
    check_key_frame(key_frame, len(regions))
    key, figures = regions[key_frame], len(masks)
    if masks.shape[1:] != key.pieces.shape:
        size, wanted = masks.shape[:0:-1], key.pieces.shape[::-1]
        raise ValueError(
            f"The masks are {size[0]}x{size[1]} pixels, the drawings {wanted[0]}x{wanted[1]}; paint them over the "
            "drawing of the key frame, or scale them to its size."
        )
    owner = np.full(len(key.region_of), figures)
    for number, mask in enumerate(masks):
        share = np.bincount(key.pieces.ravel(), mask.ravel(), len(owner)) / np.maximum(key.areas, 1)
        owner[share >= HALF] = number
    shapes = [shapes_of(one) for one in regions]
    beliefs = carried(shapes, {key_frame: owner}, figures + 1, on_frame=on_frame)
    where, unsure = [], []
    for one, shape, belief in zip(regions, shapes, beliefs, strict=True):
        chosen = _by_neighbours(shape, belief)[one.pieces]
        where.append(np.stack([chosen == number for number in range(figures)]))
        unsure.append((belief.max(axis=1) < SURE)[one.pieces])
    return Followed(np.stack(where).astype(np.float32), np.stack(unsure).astype(np.float32))


def _by_neighbours(shapes: Shapes, belief: np.ndarray) -> np.ndarray:
    """(n,) the owner of every piece from a belief (n, k): its likeliest, or that of most of its border."""
    owner = np.where(belief.max(axis=1) >= LIKELY, belief.argmax(axis=1), -1)
    for _ in range(ROUNDS):
        open_ = np.flatnonzero(owner < 0)
        if not len(open_):
            break
        votes = np.zeros((len(open_), belief.shape[1]))
        for number in range(belief.shape[1]):
            votes[:, number] = shapes.borders[np.ix_(open_, owner == number)].sum(axis=1)
        heard = votes.any(axis=1)
        owner[open_[heard]] = votes[heard].argmax(axis=1)
    return np.where(owner < 0, belief.shape[1] - 1, owner)
