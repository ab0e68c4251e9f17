"""Hints: dots and scribbles of colour on a transparent picture, which say what colour a region has."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from . import oklab
from .palette import Entry, Palette, colour_name
from .regions import RegionMap

TOUCHED = 0.15  # share of a scribble that has to lie in a piece; what runs over a line by mistake is less
SAME = 0.02  # OKLab distance below which a hint means a colour of the palette


@dataclass(frozen=True, eq=False)
class Hints:
    """Colours that a person gave."""

    colours: np.ndarray
    """(H, W, 4) RGBA in 0..1, of the drawing's size; opaque where there is a hint"""
    everywhere: bool = False
    """also for the regions that had the same colour as the hinted ones"""


def fixed_entries(
    hints: Hints, regions: RegionMap, palette: Palette, tolerance: float
) -> tuple[Palette, np.ndarray | None]:
    """(the palette with the hints' colours, (n,) entry of every piece that hints decide, else -1; None = no hints).

    The pieces of a region without a hint of their own follow, where all hints of the region are within `tolerance`.
    """
    height, width = regions.pieces.shape
    if hints.colours.shape != (height, width, 4):
        raise ValueError(
            f"The hints are {hints.colours.shape[1]}x{hints.colours.shape[0]} pixels, the drawing {width}x{height}; "
            "paint them on a transparent layer over the drawing itself."
        )
    given = _piece_colours(hints.colours, regions.pieces)
    if not given:
        return palette, None
    fixed = np.full(len(regions.region_of), -1, np.int32)
    for piece, colour in given.items():
        palette, fixed[piece] = _entry_of(colour, palette)
    known = palette.oklab
    for region in np.unique(regions.region_of[list(given)]):
        inside = np.flatnonzero(regions.region_of == region)
        hinted = inside[fixed[inside] >= 0]
        tones = known[fixed[hinted]]
        if np.sqrt(((tones - tones[0]) ** 2).sum(axis=1)).max() <= tolerance:
            fixed[inside[fixed[inside] < 0]] = fixed[hinted[0]]
    return palette, fixed


def _piece_colours(picture: np.ndarray, pieces: np.ndarray) -> dict[int, np.ndarray]:
    """The colour (3,) of every piece that a scribble touches; later scribbles, from top to bottom, win."""
    labels, count = ndimage.label(picture[..., 3] > 0.5, np.ones((3, 3), bool))
    given: dict[int, np.ndarray] = {}
    for number, box in enumerate(ndimage.find_objects(labels), 1):
        inside = labels[box] == number
        found, sizes = np.unique(pieces[box][inside], return_counts=True)
        colour = np.median(picture[box][inside][:, :3], axis=0)
        for piece in found[sizes >= TOUCHED * inside.sum()].tolist():
            given[piece] = colour
    return given


def _entry_of(colour: np.ndarray, palette: Palette) -> tuple[Palette, int]:
    """(the palette, with the colour (3,) in it; the number of its entry)."""
    apart = np.sqrt(((palette.oklab - oklab.from_srgb(colour)) ** 2).sum(axis=1))
    if apart.min() <= SAME:
        return palette, int(apart.argmin())
    code = "#{:02x}{:02x}{:02x}".format(*np.rint(np.asarray(colour) * 255).astype(int).tolist())
    return Palette((*palette.entries, Entry(f"hint {colour_name(code)}", code))), len(palette.entries)
