"""The colours a painter used: clusters of a picture's flat areas, each shade folded into the colour it lies on.

Numpy and scipy; colours are OKLab.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from . import oklab
from .region_borders import borders

SIDE = 320  # pixels of the longer side of the copy that is read
BIN = 0.02  # OKLab
JOIN = 0.055  # OKLab distance below which two clusters are one colour
FLAT = 0.025  # OKLab step to a neighbouring pixel above which a pixel is an edge
SMALLEST = 0.0015  # share of the picture
RESTING = 0.5  # a shade has at least this share of its border with the colour it lies on


def main_colours(
    picture: np.ndarray, mask: np.ndarray | None = None, count: int | None = None, fold_shades: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """(colours (k, 3) OKLab, shares (k,) of the area, largest first) of a picture (H, W, 3) sRGB 0..1.

    mask: (H, W) in 0..1, 1 = counted. count: number of colours, None = as many as are more than JOIN apart and cover
    SMALLEST. fold_shades: a darker or lighter tone of one hue that lies on its colour without a line between is no
    colour of its own.
    """
    lab, weight = _flat_pixels(picture, mask)
    if not (weight > 0).any():
        raise ValueError("The mask leaves nothing of the picture to take colours from; use another mask, or none.")
    centres, mass = _bins(lab.reshape(-1, 3), weight.ravel())
    centres, mass = linked(centres, mass, JOIN, 1)
    centres = _settled(lab.reshape(-1, 3), weight.ravel(), centres)
    label, mass = _assigned(lab, weight, centres)
    if fold_shades:
        goal = _folded(label, weight, centres, mass)
        mass = np.bincount(goal, mass, len(centres))
    keep = mass >= SMALLEST * mass.sum()
    centres, mass = centres[keep], mass[keep]
    if count is not None and len(mass) > count:
        centres, mass = linked(centres, mass, np.inf, count)
    order = np.argsort(-mass, kind="stable")
    return centres[order], mass[order] / mass.sum()


def _flat_pixels(picture: np.ndarray, mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """(OKLab (h, w, 3), weights (h, w): 1 in flat areas, 0.02 on edges, 0 outside the mask) of a reduced copy."""
    scale = min(1.0, SIDE / max(picture.shape[:2]))
    rows, columns = (max(1, round(side * scale)) for side in picture.shape[:2])
    y = np.minimum((np.arange(rows) + 0.5) / scale, picture.shape[0] - 1).astype(int)
    x = np.minimum((np.arange(columns) + 0.5) / scale, picture.shape[1] - 1).astype(int)
    lab = oklab.from_srgb(picture[y[:, None], x])
    step = np.zeros(lab.shape[:2], np.float32)
    across = np.sqrt((np.diff(lab, axis=1) ** 2).sum(axis=2))
    down = np.sqrt((np.diff(lab, axis=0) ** 2).sum(axis=2))
    step[:, 1:] = across
    step[:, :-1] = np.maximum(step[:, :-1], across)
    step[1:] = np.maximum(step[1:], down)
    step[:-1] = np.maximum(step[:-1], down)
    weight = np.where(step < FLAT, 1.0, 0.02).astype(np.float32)
    if mask is not None:
        if mask.shape != picture.shape[:2]:
            raise ValueError(
                f"The mask is {mask.shape[1]}x{mask.shape[0]} pixels, the picture {picture.shape[1]}x"
                f"{picture.shape[0]}; use a mask of the picture's size."
            )
        weight = weight * (mask[y[:, None], x] > 0.5)
    return lab, weight


def _bins(lab: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    cells = np.floor(lab / BIN).astype(np.int64)
    code = (cells[:, 0] * 1024 + cells[:, 1] + 512) * 1024 + cells[:, 2] + 512
    _, where = np.unique(code, return_inverse=True)
    mass = np.bincount(where, weight)
    centres = np.stack([np.bincount(where, weight * lab[:, k]) for k in range(3)], 1) / np.maximum(mass, 1e-9)[:, None]
    keep = np.argsort(-mass)[:600]
    keep = keep[mass[keep] > 0]
    return centres[keep].astype(np.float32), mass[keep]


def linked(centres: np.ndarray, mass: np.ndarray, limit: float, least: int) -> tuple[np.ndarray, np.ndarray]:
    """Ward-like joining: the pair of clusters that is nearest, small ones first, until all are `limit` apart."""
    centres, mass = centres.astype(np.float64).copy(), mass.astype(np.float64).copy()
    distance = np.sqrt(((centres[:, None] - centres[None]) ** 2).sum(axis=2))
    np.fill_diagonal(distance, np.inf)
    alive = np.ones(len(mass), bool)
    while alive.sum() > least:
        one = int(distance.min(axis=1).argmin())
        other = int(distance[one].argmin())
        if distance[one, other] > limit:
            break
        total = mass[one] + mass[other]
        centres[one] = (centres[one] * mass[one] + centres[other] * mass[other]) / total
        mass[one], mass[other], alive[other] = total, 0.0, False
        distance[other], distance[:, other] = np.inf, np.inf
        row = np.sqrt(((centres - centres[one]) ** 2).sum(axis=1))
        row[~alive] = np.inf
        row[one] = np.inf
        distance[one], distance[:, one] = row, row
    return centres[alive].astype(np.float32), mass[alive]


def _settled(lab: np.ndarray, weight: np.ndarray, centres: np.ndarray, kernel: float = 0.03) -> np.ndarray:
    """Every centre moved to the commonest colour near it (mean shift)."""
    for _ in range(6):
        nearest = _nearest(lab, centres)
        pull = weight * np.exp(-(((lab - centres[nearest]) ** 2).sum(axis=1)) / kernel**2)
        total = np.bincount(nearest, pull, len(centres))
        for channel in range(3):
            sums = np.bincount(nearest, pull * lab[:, channel], len(centres))
            centres[:, channel] = np.where(total > 0, sums / np.maximum(total, 1e-9), centres[:, channel])
    return centres


def _nearest(lab: np.ndarray, centres: np.ndarray) -> np.ndarray:
    return ((centres**2).sum(axis=1) - 2 * lab @ centres.T).argmin(axis=1)


def _assigned(lab: np.ndarray, weight: np.ndarray, centres: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(label of every pixel (h, w) int32, area of every centre)."""
    label = _nearest(lab.reshape(-1, 3), centres).astype(np.int32)
    return label.reshape(lab.shape[:2]), np.bincount(label, weight.ravel(), len(centres))


def _folded(label: np.ndarray, weight: np.ndarray, centres: np.ndarray, mass: np.ndarray) -> np.ndarray:
    """(k,) the colour every cluster counts as: itself, or the larger one of its hue that it lies on."""
    label = np.where(weight > 0, label, len(centres)).astype(np.int32)
    filtered = ndimage.median_filter(label, 3)
    between = borders(filtered, np.zeros(label.shape, np.uint8))
    touch = np.zeros((len(centres) + 1, len(centres) + 1), np.float32)
    touch[between.pairs[:, 0], between.pairs[:, 1]] = between.length
    touch = (touch + touch.T)[:-1, :-1]
    share = touch / np.maximum(touch.sum(axis=1, keepdims=True), 1)
    goal = np.arange(len(centres))
    for small in np.argsort(mass):
        hosts = [
            host
            for host in range(len(centres))
            if mass[host] > mass[small] and share[small, host] > RESTING and _one_hue(centres[small], centres[host])
        ]
        if hosts:
            goal[small] = max(hosts, key=lambda host: share[small, host])
    for _ in range(len(centres)):
        goal = goal[goal]
    return goal


def _one_hue(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two OKLab colours may be one colour in light and in shade."""
    chroma = np.hypot(one[1], one[2]), np.hypot(other[1], other[2])
    turn = np.hypot(one[1] - other[1], one[2] - other[2])
    return bool(abs(one[0] - other[0]) < 0.28 and turn < 0.05 + 0.45 * max(chroma))
