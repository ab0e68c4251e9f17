"""The figure of a drawing from its lines alone: no network, no download.

The drawing's regions (`regions.find_regions`, which closes gaps) are told apart by where they lie. What reaches the top
or the sides of the picture is background, unless it lies where figures do; what the figure's outline encloses is
figure. A figure may leave the picture at the bottom, its head at the top, and low at the sides.
Parts that hang on nothing go, holes are filled. Every panel of a comic page (`panels.py`) is looked at for itself; what
lies between them is background. It is a rule of thumb for one figure, or several side by side, before a
plain background: closed shapes behind the figure (a tiled wall, furniture) look enclosed too. A rough mask, painted
over the figure, decides where it errs.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage

from ..counts import check_count
from .figure_masks import MASK_ADVICE
from .panels import find_panels
from .regions import RegionMap, check_gap, inks_of, region_map

# Where figures are, by experience with portraits and standing figures; widths are shares of the picture's width.
HEAD_WIDTH, BODY_WIDTH, BODY_AT = 0.17, 0.44, 0.9  # half widths at the top and from this height on
RIM = 0.07  # how softly the middle passes into the sides
EMPTY_TOP = 0.1  # share of the height in which figures are rare
SIDES_DOWN_TO = 0.75  # share of the height to which touching a side means background
TOUCHES = 0.03  # share of a region's outline on top and sides from which on it counts as reaching them
BACKGROUND_BELOW = 0.42  # how likely a place (less that share) must be for a region that reaches the rim
ENCLOSED_ABOVE = 0.1  # the same for enclosed regions
HEAD_AREA, HEAD_OFF = 0.01, 0.25  # a head cut off by the top: least share of the picture, furthest off its middle
ISLAND = 0.15  # parts below this share of the largest one go
PAINTED = 0.5  # share of a region that a rough mask must cover


def likely_places(height: int, width: int) -> np.ndarray:
    """(height, width) in 0..1: how often a figure covers a place."""
    down = (np.arange(height, dtype=np.float32)[:, None] + 0.5) / height
    across = (np.arange(width, dtype=np.float32)[None] + 0.5) / width
    half = HEAD_WIDTH + (BODY_WIDTH - HEAD_WIDTH) * np.clip(down / BODY_AT, 0, 1)
    half = np.minimum(half * np.sqrt(np.clip(height / width, 0.6, 1.6)), 0.48)
    middle = 1 / (1 + np.exp((np.abs(across - 0.5) - half) / RIM))
    return middle * np.clip((down + 0.06) / (EMPTY_TOP + 0.06), 0, 1)


def figure_regions(found: RegionMap) -> np.ndarray:
    """(regions,) bool: which regions of a drawing are its figure, by their places."""
    labels, count = found.labels, found.count
    height, width = labels.shape
    area = np.bincount(labels.ravel(), minlength=count).astype(np.float32)
    likely = np.bincount(labels.ravel(), likely_places(height, width).ravel(), count) / area
    upper = max(1, int(SIDES_DOWN_TO * height))
    top = np.bincount(labels[0], minlength=count)
    sides = np.bincount(labels[:upper, 0], minlength=count) + np.bincount(labels[:upper, -1], minlength=count)
    outline = 2 * np.sqrt(np.pi * area)  # of a round region; long ones reach the rim with less of theirs
    reach = (top + sides) / (top + sides + outline)
    columns = np.broadcast_to((np.arange(width) + 0.5) / width, labels.shape)
    middle = np.bincount(labels.ravel(), columns.ravel(), count) / area
    head = (top > 0) & (sides < TOUCHES * outline) & (np.abs(middle - 0.5) < HEAD_OFF)
    head &= area > HEAD_AREA * height * width
    enclosed = reach <= TOUCHES
    return head | (enclosed & (likely > ENCLOSED_ABOVE)) | (~enclosed & (likely - reach > BACKGROUND_BELOW))


def painted_regions(found: RegionMap, rough: np.ndarray) -> np.ndarray:
    """(regions,) bool: which regions a rough mask (H, W) in 0..1 covers by more than half."""
    area = np.bincount(found.labels.ravel(), minlength=found.count)
    return np.bincount(found.labels.ravel(), rough.ravel(), found.count) / area > PAINTED


def without_islands_and_holes(figure: np.ndarray) -> np.ndarray:
    """(H, W) bool: parts that are small beside the largest one go, holes are filled; the bottom closes the figure."""
    parts, count = ndimage.label(figure)
    if not count:
        return figure
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    kept = sizes[parts] >= ISLAND * sizes.max()
    outside, _ = ndimage.label(~np.pad(kept, ((1, 0), (1, 1))))
    return ~(outside == outside[0, 0])[1:, 1:-1]


def drawn_figures(
    image: torch.Tensor,
    mask: torch.Tensor | None = None,
    polarity: str = "auto",
    gap: float | None = None,
    rough: torch.Tensor | None = None,
) -> torch.Tensor:
    """Figures of the drawings of a comfy batch (B, H, W, C) -> masks (B, H, W) of 0 and 1, 1 = figure.

    mask, polarity, gap: as for `regions.find_regions`; a gap that is given also closes what is open towards the
    picture's edge (in all drawings that would shut in the background beside an elbow near the edge). rough: a mask
    (1 or B, h, w) in 0..1, painted roughly over the figure, stretched over the drawing: its regions by more than half
    are then the figure, and nothing else is.
    Raises ValueError for a drawing without lines, and for masks that do not fit in number.
    """
    check_gap(gap)
    inks = inks_of(image, mask, polarity)
    height, width = image.shape[1:3]
    if rough is not None:
        check_count("rough masks", len(rough), len(inks), "drawings", MASK_ADVICE)
        rough = torch.nn.functional.interpolate(rough[:, None].float(), (height, width), mode="area")[:, 0].cpu()
    figures = np.zeros((len(inks), height, width), np.float32)
    for index, ink in enumerate(inks):  # of a page every panel that holds lines, of a drawing all of it
        painted = None if rough is None else rough[index % len(rough)].numpy()
        for panel in find_panels(ink):
            if ink[panel.place].any():
                part = None if painted is None else painted[panel.place]
                figures[index][panel.place] = _figure(ink[panel.place], gap, part)
    return torch.from_numpy(figures)


def _figure(ink: np.ndarray, gap: float | None, painted: np.ndarray | None) -> np.ndarray:
    """(H, W) bool: the figure of one panel or drawing."""
    found = region_map(ink, gap, framed=gap is not None)
    if painted is not None:
        return painted_regions(found, painted)[found.labels]
    return without_islands_and_holes(figure_regions(found)[found.labels])
