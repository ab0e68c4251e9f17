"""Flats: one colour for everything that is one thing, with the drawing's own edges.

A soft result says which colour, the regions of the drawing say where. The colours of the pieces are gathered in a
palette, found in the result or given; every piece then takes the entry that its own colours and its neighbours ask for
(see region_labelling.py). With a given palette every flat is one of its colours to the bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from . import oklab
from .hints import Hints, fixed_entries
from .palette import Palette, named
from .palette_extraction import linked
from .region_colours import Samples, modes, samples
from .region_labelling import choose, costs
from .regions import RegionMap

ONE_COLOUR = 0.04  # OKLab distance below which two flats are one colour
PROPORTIONS = 0.02  # by which those of result and drawing may differ


@dataclass(frozen=True, eq=False)
class Flats:
    """Flat colours of one drawing."""

    regions: RegionMap
    palette: Palette
    """the colours in use, and those of a given palette that no piece took"""
    entry: np.ndarray
    """(n,) int32: the palette entry of every piece"""

    @property
    def picture(self) -> np.ndarray:
        """(H, W, 3) uint8 sRGB."""
        return self.palette.srgb[self.entry][self.regions.pieces]

    @property
    def entries(self) -> np.ndarray:
        """(H, W) int32: the palette entry of every pixel."""
        return self.entry[self.regions.pieces]


def flatten(
    regions: RegionMap,
    picture: np.ndarray,
    palette: Palette | None = None,
    colours: int | None = None,
    hints: Hints | None = None,
    tolerance: float = ONE_COLOUR,
) -> Flats:
    """Flats of one drawing from a soft result (h, w, 3) sRGB 0..1 of the same proportions, or from several that vote.

    picture: (N, h, w, 3) for N results of the same drawing and reference, which differ by their seeds.
    palette: the only colours allowed, None = those of the result. colours: how many the result's palette has, None =
    as many as are more than `tolerance` (OKLab) apart. hints: colours that are certain. Raises ValueError.
    """
    check_proportions(regions, picture)
    if colours is not None and colours < 1:
        raise ValueError(f"{colours} colours were asked for; choose 1 or more, or automatic.")
    found = samples(regions, picture)
    locked = palette is not None
    if palette is None:
        palette = result_palette(found, colours, tolerance)
    fixed = None
    if hints is not None and hints.colours.any():
        palette, fixed = fixed_entries(hints, regions, palette, tolerance)
    table = costs(found, palette.oklab, palette.shares if locked and fixed is None else None)
    entry = choose(table, regions, fixed)
    if fixed is None:
        return Flats(regions, palette, entry) if locked else _settled(regions, found, entry)
    if hints is not None and hints.everywhere:
        entry = _everywhere(entry, choose(table, regions), fixed, regions.areas)
    return Flats(regions, palette, entry)


def check_proportions(regions: RegionMap, picture: np.ndarray) -> None:
    """Raise ValueError where a result cannot belong to the drawing of these regions."""
    height, width = regions.pieces.shape
    rows, columns = picture.shape[-3:-1]
    if abs(math.log((columns / rows) / (width / height))) > PROPORTIONS + 1 / min(rows, columns, height, width):
        raise ValueError(
            f"The result is {columns}x{rows} pixels, the drawing of the regions {width}x{height}: the proportions "
            "differ. Bring the result to the drawing with Restore Size first, or find the regions of its own drawing."
        )


def result_palette(found: Samples, colours: int | None, tolerance: float) -> Palette:
    """The colours of the pieces of a result, gathered until they are `tolerance` apart, or `colours` are left."""
    centres, mass, _ = modes(found)
    seen = mass > 0
    centres, mass = centres[seen], mass[seen]
    if len(mass) > 800:  # the smallest pieces join afterwards
        largest = np.argsort(-mass, kind="stable")[:800]
        centres, mass = centres[largest], mass[largest]
    centres, mass = linked(centres, mass, tolerance, 1)
    if colours is not None and len(mass) > colours:
        centres, mass = linked(centres, mass, np.inf, colours)
    return named(centres, mass / mass.sum())


def _settled(regions: RegionMap, found: Samples, entry: np.ndarray) -> Flats:
    """Every entry becomes the commonest colour of all that took it."""
    used, group = np.unique(entry, return_inverse=True)
    centres, mass, _ = modes(found, group.astype(np.int32))
    palette = named(centres, mass / max(float(mass.sum()), 1e-9))
    codes = {row.colour: number for number, row in enumerate(palette.entries)}
    rounded = np.rint(oklab.to_srgb(centres) * 255).astype(int)
    numbers = np.array([codes["#{:02x}{:02x}{:02x}".format(*colour)] for colour in rounded.tolist()], np.int32)
    return Flats(regions, palette, numbers[group])


def _everywhere(entry: np.ndarray, unhinted: np.ndarray, fixed: np.ndarray, areas: np.ndarray) -> np.ndarray:
    """Hints also for all pieces whose entry, were there no hints, is that of the hinted pieces (by their area)."""
    result = entry.copy()
    for hint in np.unique(fixed[fixed >= 0]):
        pieces = fixed == hint
        usual = int(np.bincount(unhinted[pieces], areas[pieces]).argmax())
        result[(unhinted == usual) & (fixed < 0)] = hint
    return result
