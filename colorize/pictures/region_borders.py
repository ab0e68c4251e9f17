"""Borders between regions: how long they are, and how much ink lies on them; joining small regions to neighbours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

OPEN_INK = 40  # 0..255; a border pixel with less is open paper


@dataclass(frozen=True, eq=False)
class Borders:
    """What lies between m pairs of touching regions."""

    pairs: np.ndarray
    """(m, 2) int32, the smaller label first, sorted"""
    length: np.ndarray
    """(m,) float32, pixels of the common border"""
    open: np.ndarray
    """(m,) float32, those of them without ink"""


def borders(labels: np.ndarray, ink: np.ndarray) -> Borders:
    """Borders of a map (H, W) without unlabelled pixels; ink (H, W) uint8."""
    count = int(labels.max()) + 1
    codes, opens = [], []
    for one, other, a, b in (
        (labels[:, :-1], labels[:, 1:], ink[:, :-1], ink[:, 1:]),
        (labels[:-1], labels[1:], ink[:-1], ink[1:]),
    ):
        differ = one != other
        p, q = one[differ].astype(np.int64), other[differ].astype(np.int64)
        codes.append(np.minimum(p, q) * count + np.maximum(p, q))
        opens.append(np.maximum(a[differ], b[differ]) < OPEN_INK)
    found, where = np.unique(np.concatenate(codes), return_inverse=True)
    length = np.bincount(where, minlength=len(found)).astype(np.float32)
    clear = np.bincount(where, weights=np.concatenate(opens), minlength=len(found)).astype(np.float32)
    pairs = np.stack([found // count, found % count], axis=1).astype(np.int32)
    return Borders(pairs, length, clear)


def without_small(areas: np.ndarray, small: np.ndarray, between: Borders, open_weight: float = 4.0) -> np.ndarray:
    """(n,) int32: the region that every region joins, itself where it stays; labels are not renumbered.

    areas: (n,) pixels; small: (n,) bool. From the smallest up, a small region joins the neighbour with which it has the
    longest border, where open paper counts `open_weight` times. A region without neighbours stays.
    """
    weights = between.length + (open_weight - 1) * between.open
    near: dict[int, dict[int, float]] = {}
    for (one, other), weight in zip(between.pairs.tolist(), weights.tolist()):
        near.setdefault(one, {})[other] = weight
        near.setdefault(other, {})[one] = weight
    parent = list(range(len(areas)))
    for region in sorted(np.flatnonzero(small).tolist(), key=lambda index: areas[index]):
        around = near.pop(region, None)
        if not around:
            continue
        goal = max(around, key=around.__getitem__)
        parent[region] = goal
        for other, weight in around.items():
            links = near[other]
            del links[region]
            if other != goal:
                links[goal] = links.get(goal, 0.0) + weight
                near[goal][other] = links[goal]
    for region in range(len(parent)):
        goal = region
        while parent[goal] != goal:
            goal = parent[goal]
        parent[region] = goal
    return np.array(parent, np.int32)
