"""Colours of the pieces of a drawing in a soft result: what lies inside them, away from their edges."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage

from . import oklab
from .regions import RegionMap

LONGEST = 768  # pixels of the longer side of the copy on which colours are read
EDGE = 0.008  # of that side: nearer to an edge the colours of both sides mix
KERNEL = 0.06  # OKLab distance at which a colour stops counting for the mode
STEPS = 8
MOST = 2048  # samples of a piece; of a larger one every second, third, ... counts twice, three times, ...


@dataclass(frozen=True, eq=False)
class Samples:
    """Colours of a picture with the piece they lie in."""

    colours: np.ndarray
    """(m, 3) float32 OKLab"""
    piece: np.ndarray
    """(m,) int32"""
    weight: np.ndarray
    """(m,) float32, 0..1: how far from lines and edges"""
    count: int
    """number of pieces"""
    results: int = 1
    """how many results of the drawing these are of, one after the other, each at the same places"""


def samples(regions: RegionMap, picture: np.ndarray, most: int = MOST) -> Samples:
    """Samples of a picture (H, W, 3) sRGB 0..1 of any size, with the same proportions as the drawing.

    Or of several results of the drawing, (N, H, W, 3). A large piece gives about `most` of the pixels of each, spread
    evenly, with the weight of all.
    """
    height, width = regions.pieces.shape
    scale = min(1.0, LONGEST / max(height, width))
    rows, columns = max(1, round(height * scale)), max(1, round(width * scale))
    y = np.minimum((np.arange(rows) + 0.5) * height / rows, height - 1).astype(int)
    x = np.minimum((np.arange(columns) + 0.5) * width / columns, width - 1).astype(int)
    piece = regions.pieces[y[:, None], x]
    edge = regions.ink[y[:, None], x] > 60
    edge[:, 1:] |= piece[:, 1:] != piece[:, :-1]
    edge[1:] |= piece[1:] != piece[:-1]
    reach = max(1.5, EDGE * max(rows, columns))
    away = ndimage.distance_transform_edt(~edge) if edge.any() else np.full(edge.shape, reach)
    weight = np.clip(away / reach, 0, 1) ** 2 + 1e-4
    piece, weight = piece.ravel(), weight.ravel().astype(np.float32)
    kept, times = _thinned(piece, len(regions.region_of), most)
    pictures = picture if picture.ndim == 4 else picture[None]
    found = [oklab.from_srgb(_resized(one, rows, columns).reshape(-1, 3)[kept]) for one in pictures]
    count, weight = len(pictures), weight[kept] * times
    return Samples(
        np.concatenate(found), np.tile(piece[kept], count), np.tile(weight, count), len(regions.region_of), count
    )


def _thinned(piece: np.ndarray, count: int, most: int) -> tuple[np.ndarray, np.ndarray]:
    """(places that are kept, how many each stands for) of a flat map of pieces, at most about `most` of every piece."""
    sizes = np.bincount(piece, minlength=count)
    every = np.maximum(1, sizes // most)
    order = np.argsort(piece, kind="stable")
    rank = np.arange(len(piece)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    kept = np.sort(order[rank % every[piece[order]] == 0])
    times = sizes / np.maximum(np.bincount(piece[kept], minlength=count), 1)
    return kept, times[piece[kept]].astype(np.float32)


def _resized(picture: np.ndarray, rows: int, columns: int) -> np.ndarray:
    tensor = torch.from_numpy(np.ascontiguousarray(picture, np.float32)).permute(2, 0, 1)[None]
    if tensor.shape[-2:] != (rows, columns):
        tensor = torch.nn.functional.interpolate(
            tensor, (rows, columns), mode="bilinear", align_corners=False, antialias=True
        )
    return tensor[0].permute(1, 2, 0).clamp(0, 1).numpy()


def modes(found: Samples, groups: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(colours (n, 3) OKLab, weights (n,) float32, spreads (n,) float32 mean distance) of every piece, or group.

    groups: (number of pieces,) group of every piece. From the geometric median (Weiszfeld) the colour climbs to the
    mode (mean shift), so that a shadow over less than half of a piece does not darken it. No samples: weight 0.
    """
    group = found.piece if groups is None else groups[found.piece]
    count = found.count if groups is None else int(groups.max()) + 1
    total = np.bincount(group, found.weight, count)
    centre = _means(found.colours, found.weight, group, count)
    for step in range(2 * STEPS):
        distance = np.sqrt(((found.colours - centre[group]) ** 2).sum(axis=1))
        pull = 1 / np.maximum(distance, 0.01) if step < STEPS else np.exp(-((distance / KERNEL) ** 2)) + 1e-9
        centre = _means(found.colours, found.weight * pull, group, count)
    spread = np.bincount(group, found.weight * distance, count) / np.maximum(total, 1e-9)
    return centre, total.astype(np.float32), spread.astype(np.float32)


def _means(colours: np.ndarray, weight: np.ndarray, group: np.ndarray, count: int) -> np.ndarray:
    total = np.maximum(np.bincount(group, weight, count), 1e-12)
    sums = [np.bincount(group, weight * colours[:, channel], count) / total for channel in range(3)]
    return np.stack(sums, axis=1).astype(np.float32)
