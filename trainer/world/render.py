"""From layout, appearance and line style to arrays, and the pairs that training and evaluation use.

Seed ranges. Item `index` (0 <= index < 2**38) of a split uses the four integer seeds
`SPLIT_START[split] + 4 * index + role` with the roles layout, reference layout, appearance and line style. The ranges
of the splits are 2**40 long and start 2**40 apart, so no held-out seed is ever a training seed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .appearance import Appearance
from .compose import compose
from .crowd import Crowd, render_crowd, stepped_back
from .drawing import Drawing
from .layout import Layout, with_background
from .linestyle import LineStyle
from .paint import (
    colour_picture,
    figure_mask,
    flat_picture,
    material_map,
    paint_index,
    paint_sketch,
    region_map,
)

WORLD_VERSION = 1
"""Raised whenever a seed draws something else than before."""

SPLIT_START = {"train": 0, "heldout": 2**40}
ITEMS_PER_SPLIT = 2**38
ROLES = ("layout", "reference_layout", "appearance", "line_style")


@dataclass(frozen=True)
class Rendering:
    """Four views of one layout, aligned pixel by pixel."""

    picture: np.ndarray
    """(H, W, 3) uint8 sRGB, with coloured lines"""
    sketch: np.ndarray
    """(H, W) uint8, black lines on white"""
    regions: np.ndarray
    """(H, W) uint8, index into REGION_NAMES"""
    mask: np.ndarray
    """(H, W) uint8, 255 on the figure and its lines, 0 on the background"""


def checked_size(size: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) in pixels; raises ValueError out of range."""
    height, width = (size, size) if isinstance(size, (int, np.integer)) else size
    if not (32 <= height <= 2048 and 32 <= width <= 2048):
        raise ValueError(f"Picture size {height}x{width} is outside 32..2048 pixels; choose both sides within it.")
    return int(height), int(width)


@lru_cache(maxsize=4)
def _compose(layout: Layout, height: int, width: int) -> Drawing:
    return compose(layout, height, width)


def render(
    layout: Layout, appearance: Appearance, line_style: LineStyle, size: int | tuple[int, int] = 256
) -> Rendering:
    """Draw everything. `size` is (height, width) in pixels or one number for a square."""
    drawing = _compose(layout, *checked_size(size))
    index = paint_index(drawing, appearance)
    return Rendering(
        colour_picture(drawing, index, appearance),
        paint_sketch(drawing, line_style),
        region_map(drawing, index),
        figure_mask(drawing),
    )


@dataclass(frozen=True)
class TrueFlats:
    """What flats of a picture should be."""

    colours: np.ndarray
    """(H, W, 3) uint8 sRGB, one colour per material"""
    materials: np.ndarray
    """(H, W) uint8, see materials.Material; lines have that of what they outline"""
    lines: np.ndarray
    """(H, W) bool"""


def true_flats(layout: Layout, appearance: Appearance, size: int | tuple[int, int] = 256) -> TrueFlats:
    """Flat colours and materials of a layout, aligned with `render`."""
    drawing = _compose(layout, *checked_size(size))
    index = paint_index(drawing, appearance)
    return TrueFlats(flat_picture(drawing, index, appearance), *material_map(drawing, index))


def picture(layout: Layout, appearance: Appearance, size: int | tuple[int, int] = 256) -> np.ndarray:
    """Only the colour picture, (H, W, 3) uint8."""
    drawing = _compose(layout, *checked_size(size))
    return colour_picture(drawing, paint_index(drawing, appearance), appearance)


def sketch(layout: Layout, line_style: LineStyle, size: int | tuple[int, int] = 256) -> np.ndarray:
    """Only the sketch, (H, W) uint8."""
    return paint_sketch(_compose(layout, *checked_size(size)), line_style)


def regions(layout: Layout, size: int | tuple[int, int] = 256) -> np.ndarray:
    """Only the region map, (H, W) uint8."""
    drawing = _compose(layout, *checked_size(size))
    return region_map(drawing, paint_index(drawing, None))


def mask(layout: Layout, size: int | tuple[int, int] = 256) -> np.ndarray:
    """Only the figure's silhouette, (H, W) uint8, 0 or 255."""
    return figure_mask(_compose(layout, *checked_size(size)))


def seeds_of(index: int, split: str = "train") -> dict[str, int]:
    """The integer seed of each role of item `index` of a split ("train" or "heldout")."""
    if split not in SPLIT_START:
        raise ValueError(f"Unknown split {split!r}; choose one of {', '.join(SPLIT_START)}.")
    if not 0 <= index < ITEMS_PER_SPLIT:
        raise ValueError(f"Item index {index} is outside 0..{ITEMS_PER_SPLIT - 1}; choose a smaller seed or count.")
    start = SPLIT_START[split] + len(ROLES) * int(index)
    return {role: start + offset for offset, role in enumerate(ROLES)}


def pose_layout(index: int, number: int, split: str = "train", background: str = "mixed") -> Layout:
    """The layout of character `index` in pose `number`, with a background of the given style."""
    layout, _ = _pose_seeds(seeds_of(index, split), number)
    return with_background(Layout.sample(layout), background)


def pose(
    index: int, number: int, split: str = "train", size: int | tuple[int, int] = 256, background: str = "mixed"
) -> Rendering:
    """Character `index` of a split in pose `number` (0, 1, 2, ...): the same appearance in ever new layouts.

    Pose 0 is the picture of `pair`, pose 1 its reference. background: "mixed" keeps that of the layout, "busy" and
    "plain" replace it where it is of another style.
    """
    seeds = seeds_of(index, split)
    _, line_style = _pose_seeds(seeds, number)
    return render(
        pose_layout(index, number, split, background),
        Appearance.sample(seeds["appearance"]),
        LineStyle.sample(line_style),
        size=size,
    )


def pair(
    index: int,
    split: str = "train",
    size: int | tuple[int, int] = 256,
    reference: int = 0,
    background: str = "mixed",
    bystanders: int = 0,
    shapes: int = 0,
    crowded_share: float = 1.0,
) -> dict[str, np.ndarray]:
    """Item `index` of a split: sketch(A), picture(A, B), regions(A), mask(A); the reference picture(C, B), its regions
    and its mask as reference, reference_regions, reference_mask.

    Pure function of its arguments. `reference` > 0 gives further reference layouts for the same item. bystanders and
    shapes (0..8) crowd the reference, see `crowded`; of many items, only this share (0..1) of the references.
    """
    drawn = pose(index, 0, split, size, background)
    if (bystanders or shapes) and _is_crowded(seeds_of(index, split), crowded_share):
        shown = crowded(index, reference + 1, split, size, background, bystanders, shapes)
    else:
        shown = pose(index, reference + 1, split, size, background)
    return {
        "picture": drawn.picture,
        "sketch": drawn.sketch,
        "reference": shown.picture,
        "regions": drawn.regions,
        "mask": drawn.mask,
        "reference_regions": shown.regions,
        "reference_mask": shown.mask,
    }


def crowded(
    index: int,
    number: int,
    split: str = "train",
    size: int | tuple[int, int] = 256,
    background: str = "mixed",
    bystanders: int = 3,
    shapes: int = 4,
) -> Rendering:
    """As `pose`, with the character made smaller among 1 to `bystanders` others and 1 to `shapes` loud shapes.

    Regions and mask know the main character and the wall only (see crowd.py); the sketch has nobody else in it.
    """
    height, width = checked_size(size)
    seeds = seeds_of(index, split)
    layout_seed, line_style = _pose_seeds(seeds, number)
    layout = stepped_back(pose_layout(index, number, split, background), layout_seed)
    appearance = Appearance.sample(seeds["appearance"])
    crowd = Crowd.sample(layout, layout_seed, seeds["appearance"], bystanders, shapes)
    drawing = _compose(layout, height, width)
    others = [_compose(one.layout, height, width) for one in crowd.bystanders]
    picture, regions, mask = render_crowd(drawing, appearance, crowd, others)
    return Rendering(picture, paint_sketch(drawing, LineStyle.sample(line_style)), regions, mask)


def _is_crowded(seeds: dict[str, int], share: float) -> bool:
    if not 0 <= share <= 1:
        raise ValueError(f"The crowded share is {share}; choose 0 (no reference) to 1 (all references).")
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seeds["appearance"], 0xC20E]))).random() < share


def _pose_seeds(seeds: dict[str, int], number: int) -> tuple[int, int]:
    """Layout and line style seed of a pose; the lower 44 bits tell the splits apart, the upper ones the poses."""
    if number == 0:
        return seeds["layout"], seeds["line_style"]
    return seeds["reference_layout"] + (number - 1 << 44), seeds["line_style"] + (number << 44)
