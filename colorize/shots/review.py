"""What a person looks at when a shot is coloured: the regions that were not sure, and what changed its colour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..pictures.flatten import Flats
from .carrying import SURE
from .matching import Matches

SMALL = 5e-4  # share of the picture below which an unsure region is not worth a look
FAR = 0.3  # OKLab; a change of colour that the flicker map shows white


@dataclass(frozen=True)
class Unsure:
    """A region whose colour was not carried: the model chose it, and somebody should look."""

    frame: int
    """counted from 0"""
    x: int
    """a pixel in it"""
    y: int
    share: float
    """of the picture, 0..1"""
    colour: str
    """"#rrggbb", what the model chose of the shot's palette"""
    thing: int = 0
    """the same number is the same thing in all frames, counted from 1; 0 = it has its colour from an earlier frame"""


def unsure_regions(flats: Flats, sure: np.ndarray, frame: int, things: np.ndarray | None = None) -> list[Unsure]:
    """The regions of a frame with pieces (n,) that are not sure, the largest first.

    things: (n,) of `Strangers.next`.
    """
    regions, found = flats.regions, []
    total = regions.pieces.size
    for region in np.unique(regions.region_of[~sure]):
        pieces = np.flatnonzero((regions.region_of == region) & ~sure)
        share = float(regions.areas[pieces].sum()) / total
        if share < SMALL:
            continue
        largest = int(pieces[regions.areas[pieces].argmax()])
        places = np.argwhere(regions.pieces == largest)
        y, x = places[np.abs(places - places.mean(axis=0)).sum(axis=1).argmin()].tolist()
        thing = 0 if things is None else max(0, int(things[largest]) - len(flats.palette.entries) + 1)
        colour = flats.palette.entries[flats.entry[largest]].colour
        found.append(Unsure(frame, x, y, round(share, 5), colour, thing))
    return sorted(found, key=lambda one: -one.share)


def flicker_map(before: Flats, now: Flats, matches: Matches) -> np.ndarray:
    """(H, W) float32: where a surely matched piece has another colour than in the frame before, by how far, 0..1."""
    best = matches.likelihood.argmax(axis=1)
    apart = np.sqrt(((now.palette.oklab[now.entry] - before.palette.oklab[before.entry][best]) ** 2).sum(axis=1))
    changed = (now.palette.srgb[now.entry] != before.palette.srgb[before.entry][best]).any(axis=1)
    sure = matches.likelihood.max(axis=1) >= SURE
    return (np.where(sure & changed, np.minimum(apart / FAR, 1), 0).astype(np.float32))[now.regions.pieces]


def told(unsure: Sequence[Unsure], frames: int) -> str:
    """What a person reads of the unsure regions: a line for every thing, and one for every frame with others."""
    if not unsure:
        return f"All regions of {frames} frames have the key's colours."
    lines = []
    for thing in sorted({one.thing for one in unsure if one.thing}):
        seen = [one for one in unsure if one.thing == thing]
        best = max(seen, key=lambda one: one.share)
        numbers = sorted({one.frame for one in seen})
        where = f"frame {numbers[0]}" if len(numbers) == 1 else f"frames {numbers[0]} to {numbers[-1]}"
        share = f"{100 * best.share:.1f} %"
        lines.append(f"{thing}: {where}, {best.colour}; in frame {best.frame} at ({best.x}, {best.y}), {share}")
    for frame in sorted({one.frame for one in unsure if not one.thing}):
        here = [one for one in unsure if one.frame == frame and not one.thing]
        places = ", ".join(f"({one.x}, {one.y}) {one.colour} {100 * one.share:.1f} %" for one in here)
        lines.append(f"as before, frame {frame}: {places}")
    return "\n".join(lines)
