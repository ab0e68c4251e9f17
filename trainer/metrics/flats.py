"""How good flats are where the true ones are known: colours, regions, palette, and what hints mend."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from colorize.pictures import oklab
from colorize.pictures.flatten import flatten
from colorize.pictures.hints import Hints
from colorize.pictures.palette import Palette
from colorize.pictures.regions import RegionMap

SHOWN = 0.02  # OKLab, just visible; a true colour that is farther from every entry is not in the palette
DOT = 4  # pixels; radius of a simulated hint


@dataclass(frozen=True, eq=False)
class Truth:
    """The answer, all (H, W, ...)."""

    colours: np.ndarray
    """(H, W, 3) uint8 sRGB"""
    materials: np.ndarray
    """(H, W) uint8"""
    away: np.ndarray
    """(H, W) bool: pixels that count, away from lines"""
    figure: np.ndarray
    """(H, W) bool"""


def colour_error(picture: np.ndarray, truth: Truth) -> tuple[float, float, float]:
    """Mean CIELAB distance (CIE 1976) of a picture (H, W, 3) uint8 to the true flats: all, figure, background."""
    where = np.flatnonzero(truth.away)
    made, right = (oklab.cielab(rows.reshape(-1, 3)[where] / 255) for rows in (picture, truth.colours))
    distance = np.sqrt(((made - right) ** 2).sum(axis=1))
    figure = truth.figure.ravel()[where]
    parts = (distance, distance[figure], distance[~figure])
    whole, inside, outside = (float(part.mean()) if part.size else float("nan") for part in parts)
    return whole, inside, outside


def region_accuracy(labels: np.ndarray, truth: Truth) -> float:
    """Share of the area that lies in a region whose commonest material is its own."""
    label, material = labels[truth.away].astype(np.int64), truth.materials[truth.away]
    table = np.bincount(label * 256 + material, minlength=(int(labels.max()) + 1) * 256).reshape(-1, 256)
    return float(table.max(axis=1).sum() / max(label.size, 1))


def palette_accuracy(entries: np.ndarray, palette: Palette, truth: Truth) -> tuple[float, float, float]:
    """Share of the area whose palette entry (H, W) is the one nearest to the true colour (OKLab): of all, and of what
    has its true colour in the palette; and how much that is of all. NaN where nothing has."""
    where = np.flatnonzero(truth.away)
    right = oklab.from_srgb(truth.colours.reshape(-1, 3)[where] / 255)
    distance = np.stack([((right - entry) ** 2).sum(axis=1) for entry in palette.oklab], axis=1)
    hit, shown = distance.argmin(axis=1) == entries.ravel()[where], distance.min(axis=1) < SHOWN**2
    return float(hit.mean()), float(hit[shown].mean()) if shown.any() else float("nan"), float(shown.mean())


def median_flats(regions: RegionMap, picture: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8: the plainest flats, the median of every region and channel of a picture (H, W, 3) uint8."""
    numbers = np.arange(regions.count)
    medians = [ndimage.median(picture[..., channel], regions.labels, numbers) for channel in range(3)]
    return np.rint(np.stack(medians, axis=1)).astype(np.uint8)[regions.labels]


def hinted_errors(regions: RegionMap, picture: np.ndarray, truth: Truth, most: int) -> Iterator[float]:
    """Colour error after 0, 1, ... `most` hints: each a dot of the true colour in the region that is most wrong."""
    dots = np.zeros((*regions.pieces.shape, 4), np.float32)
    right = oklab.from_srgb(truth.colours / 255)
    for number in range(most + 1):
        made = flatten(regions, picture, hints=Hints(dots.copy(), everywhere=True)).picture
        yield colour_error(made, truth)[0]
        if number < most:
            wrong = np.sqrt(((oklab.from_srgb(made / 255) - right) ** 2).sum(axis=2)) * truth.away
            _add_dot(dots, regions, wrong, truth)


def _add_dot(dots: np.ndarray, regions: RegionMap, wrong: np.ndarray, truth: Truth) -> None:
    """A dot in the middle of the worst region that has none yet."""
    labels = regions.labels
    sums = np.bincount(labels.ravel(), wrong.ravel(), regions.count)
    sums[np.unique(labels[dots[..., 3] > 0])] = 0
    inside = labels == sums.argmax()
    depth = ndimage.distance_transform_edt(np.pad(inside & (wrong > 0), 1))[1:-1, 1:-1]
    y, x = np.unravel_index(depth.argmax(), depth.shape)
    rows, columns = np.ogrid[: dots.shape[0], : dots.shape[1]]
    disc = ((rows - y) ** 2 + (columns - x) ** 2 <= DOT**2) & inside
    dots[disc] = (*(truth.colours[y, x] / 255), 1.0)
