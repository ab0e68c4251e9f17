"""Regions of a drawing: what a painter fills in one go. The lines belong to regions too, so flats run under them.

From the drawing's ink a working copy is made whose lines are about two pixels wide; its rooms (see `rooms.py`) are
found there and carried back to the drawing's own pixels, where they meet in the middle of the lines. Two grades are
kept: regions, by what the lines say alone, and the pieces they consist of, cut at every narrow place, so that colours
can still decide whether an opening was a gap.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage

from .ink import WorkingCopy, ink_of, working_copy
from .region_borders import Borders, borders, without_small
from .rooms import Gaps, basins, highest, joined, passes
from .spread import spread

PIECE_RATIO = 0.8  # a pass below this share of both peaks parts two pieces
REGION_RATIO = 0.6
SLIVER = 1.5  # pixels of the working copy; rooms whose peak is lower are slivers between double strokes
SMALL_AREA = 2.0  # rooms below (SMALL_AREA x line width)^2 join a neighbour
FRAME = 0.004  # of the longer side: width of a line around the picture
SOLID = 2.0  # line widths; ink that is thicker to both sides is a region of its own (hair filled with black)


@dataclass(frozen=True, eq=False)
class RegionMap:
    """The regions of one drawing."""

    pieces: np.ndarray
    """(H, W) int32, 0..n-1: the piece of every pixel of the drawing"""
    region_of: np.ndarray
    """(n,) int32, 0..k-1: the region every piece belongs to"""
    ink: np.ndarray
    """(H, W) uint8: how much line lies on every pixel, 255 = full"""
    borders: Borders
    """between the pieces, in pixels of the working copy"""
    areas: np.ndarray
    """(n,) int64, pixels of every piece"""
    line_width: float
    """mean width of the lines in pixels of the drawing"""

    @property
    def count(self) -> int:
        """Number of regions."""
        return int(self.region_of.max()) + 1

    @property
    def labels(self) -> np.ndarray:
        """(H, W) int32: the region of every pixel, 0..count-1."""
        return self.region_of[self.pieces]


@dataclass(frozen=True, eq=False)
class Regions:
    """REGIONS: the regions of a batch of drawings of one size."""

    maps: tuple[RegionMap, ...]


def find_regions(
    image: torch.Tensor,
    mask: torch.Tensor | None = None,
    polarity: str = "auto",
    gap: float | None = None,
) -> Regions:
    """Regions of the drawings of a comfy batch (B, H, W, C) in 0..1; mask and polarity as in `artist_lines.line_layer`.

    gap: widest gap in a line in pixels of the drawing; None chooses by the drawing's size and its lines. Raises
    ValueError for a blank drawing.
    """
    check_gap(gap)
    return Regions(tuple(region_map(ink, gap) for ink in inks_of(image, mask, polarity)))


def check_gap(gap: float | None) -> None:
    """ValueError for a gap that is no width."""
    if gap is not None and not 0 <= gap < math.inf:
        raise ValueError(f"gap is {gap} pixels; give 0 or more, or none for the automatic choice.")


def inks_of(image: torch.Tensor, mask: torch.Tensor | None = None, polarity: str = "auto") -> list[np.ndarray]:
    """As `ink.ink_of`. Raises ValueError for a blank drawing."""
    inks = ink_of(image, mask, polarity)
    for number, ink in enumerate(inks, 1):
        if not ink.any():
            raise ValueError(
                f"Drawing {number} of {image.shape[0]} ({ink.shape[1]}x{ink.shape[0]} pixels) has no lines to find "
                "regions between. Connect the line drawing itself, and its MASK where the lines are its transparency."
            )
    return inks


def _framed(ink: np.ndarray) -> np.ndarray:
    """Ink (H, W) with a line around the picture, of the width that stays one in the working copy."""
    width = max(1, round(max(ink.shape) * FRAME))
    framed = np.full_like(ink, 255)
    framed[width:-width, width:-width] = ink[width:-width, width:-width]
    return framed


def region_map(ink: np.ndarray, gap: float | None = None, framed: bool = False) -> RegionMap:
    """Regions of one drawing, from its ink (H, W) uint8 as `ink.ink_of` gives it. gap: as for `find_regions`.

    framed: the picture's edge counts as a line, so that an outline which ends just before it encloses.
    """
    ink = _framed(ink) if framed else ink
    copy = working_copy(ink)
    seeds, region_of = _rooms(copy, None if gap is None else gap / copy.factor)
    height, width = ink.shape
    grown = np.repeat(np.repeat(seeds, copy.factor, axis=0), copy.factor, axis=1)[:height, :width]
    pieces = spread(grown, ink)
    areas = np.bincount(pieces.ravel(), minlength=len(region_of))
    filled = spread(seeds, copy.ink)
    between = borders(filled, copy.ink)
    return RegionMap(pieces, region_of, ink, between, areas, copy.line_width * copy.factor)


def automatic_gap(copy: WorkingCopy) -> float:
    """Widest gap in pixels of the working copy: four line widths, or 4 % of the longer side where that is more."""
    return max(4.0 * copy.line_width, 0.04 * max(copy.lines.shape))


def _rooms(copy: WorkingCopy, gap: float | None) -> tuple[np.ndarray, np.ndarray]:
    """(seeds (h, w) int32 of the pieces, -1 on lines; (n,) region of every piece)."""
    paper = ~copy.lines
    solid, solids = _solids(copy)
    if not paper.any():
        return np.zeros(paper.shape, np.int32), np.zeros(1, np.int32)
    distance = np.ones(paper.shape, np.float32)  # without a line all is one room
    if copy.lines.any():
        distance = ndimage.distance_transform_edt(paper).astype(np.float32)
    labels, peaks = basins(distance, paper)
    pairs, heights = passes(labels, distance)
    room = joined(pairs, heights, peaks, Gaps(PIECE_RATIO, np.inf))
    count = int(room.max()) + 1
    seeds = np.where(paper, room[labels], -1).astype(np.int32)
    top = np.zeros(count, np.float32)
    np.maximum.at(top, room, peaks)
    pairs, heights = highest(room[pairs], heights, count)
    wide = automatic_gap(copy) if gap is None else gap
    region_of = joined(pairs, heights, top, Gaps(REGION_RATIO, wide))
    if solids:
        seeds = np.where(solid > 0, solid + (count - 1), seeds)
        region_of = np.concatenate([region_of, region_of.max() + 1 + np.arange(solids, dtype=np.int32)])
        top = np.concatenate([top, np.full(solids, np.inf, np.float32)])
    return _merged(seeds, region_of, top, copy)


def _solids(copy: WorkingCopy) -> tuple[np.ndarray, int]:
    """(labels (h, w) int32, 0 = none; count) of areas filled with ink."""
    reach = int(np.ceil(SOLID * copy.line_width))
    depth = ndimage.distance_transform_cdt(np.pad(copy.lines, reach, constant_values=True), "chessboard")
    core = depth[reach:-reach, reach:-reach] > reach
    if not core.any():
        return np.zeros(core.shape, np.int32), 0
    grown = ndimage.binary_dilation(core, np.ones((3, 3), bool), iterations=reach, mask=copy.lines)
    labels, count = ndimage.label(grown)
    return labels.astype(np.int32), count


def _merged(
    seeds: np.ndarray, region_of: np.ndarray, top: np.ndarray, copy: WorkingCopy
) -> tuple[np.ndarray, np.ndarray]:
    """Slivers and specks joined to their neighbours; pieces and regions numbered anew."""
    filled = spread(seeds, copy.ink)
    areas = np.bincount(seeds[seeds >= 0], minlength=len(region_of))
    between = borders(filled, copy.ink)
    small = (areas < (SMALL_AREA * copy.line_width) ** 2) | (top <= SLIVER)
    goal = without_small(areas, small, between)
    kept, number = np.unique(goal, return_inverse=True)
    regions = np.unique(region_of[kept], return_inverse=True)[1].astype(np.int32)
    return np.where(seeds >= 0, number[seeds], -1).astype(np.int32), regions
