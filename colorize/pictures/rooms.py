"""Rooms: the parts of the paper that a painter's bucket should fill, though the lines around them have gaps.

Trapped-ball filling (Zhang, Chen, Zhu, Chen, Hu, Martin: Vectorizing Cartoon Animations, TVCG 2009) lets a ball of one
radius roll in the drawing, then a smaller one, and so on. Here all radii are tried at once: the distance to the nearest
line has a peak in every room, and a pass between every two; the radius of the largest ball that gets through is the
height of the pass. Rooms are the basins of the distance, joined from the highest pass down, unless the pass is a gap:
low beside the peaks on both of its sides, and no wider than a gap may be. So one opening is a gap between two large
rooms and no gap at the tip of a strand of hair, which one radius for all cannot tell apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

ALL, FIRST, LATER = slice(None), slice(None, -1), slice(1, None)
TOUCHING = (  # two views of a map that lay every pixel beside a neighbour: right, below, and both diagonals
    ((ALL, FIRST), (ALL, LATER)),
    ((FIRST, ALL), (LATER, ALL)),
    ((FIRST, FIRST), (LATER, LATER)),
    ((FIRST, LATER), (LATER, FIRST)),
)
STEPS = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))


@dataclass(frozen=True)
class Gaps:
    """What counts as a gap in a line."""

    ratio: float
    """a pass is a gap when it is narrower than this share of the smaller of the two rooms it joins, 0..1"""
    width: float
    """widest gap in pixels"""


def basins(distance: np.ndarray, paper: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Steepest ascent on (H, W) distance: (labels (H, W) int32, -1 on lines; peaks (n,) the height of every basin)."""
    height, width = distance.shape
    value = np.where(paper, distance, -1).astype(np.float32)
    padded = np.pad(value, 1, constant_values=-2)
    places = np.pad(np.arange(height * width, dtype=np.int32).reshape(height, width), 1)
    best, target = value.copy(), places[1:-1, 1:-1].copy()
    for down, right in STEPS:
        rows, columns = slice(1 + down, 1 + down + height), slice(1 + right, 1 + right + width)
        higher, where = padded[rows, columns], places[rows, columns]
        better = (higher > best) | ((higher == best) & (where > target))
        np.copyto(best, higher, where=better)
        np.copyto(target, where, where=better)
    target = target.ravel()
    inside = np.flatnonzero(paper)
    pointer = target[inside]
    while True:  # every round doubles the length of the path that is followed
        target[inside] = pointer
        further = target[pointer]
        if np.array_equal(further, pointer):
            break
        pointer = further
    tops, numbers = np.unique(pointer, return_inverse=True)
    labels = np.full(height * width, -1, np.int32)
    labels[inside] = numbers
    return labels.reshape(height, width), distance.ravel()[tops].astype(np.float32)


def passes(labels: np.ndarray, distance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where basins touch: pairs (m, 2) int32 of labels and (m,) the height of the highest pass between them."""
    ends, heights = [], []
    for one, other in TOUCHING:
        a, b = labels[one], labels[other]
        differ = (a != b) & (a >= 0) & (b >= 0)
        ends.append(np.stack([a[differ], b[differ]], axis=1))
        heights.append(np.minimum(distance[one][differ], distance[other][differ]))
    return highest(np.concatenate(ends), np.concatenate(heights), int(labels.max()) + 1)


def highest(ends: np.ndarray, heights: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Every pair of different ends (m, 2) once, the smaller of `count` labels first, with its greatest height."""
    ends = np.sort(ends.astype(np.int64), axis=1)
    apart = ends[:, 0] != ends[:, 1]
    code, where = np.unique(ends[apart, 0] * count + ends[apart, 1], return_inverse=True)
    height = np.zeros(len(code), np.float32)
    np.maximum.at(height, where, heights[apart])
    return np.stack([code // count, code % count], axis=1).astype(np.int32), height


def joined(pairs: np.ndarray, heights: np.ndarray, peaks: np.ndarray, gaps: Gaps) -> np.ndarray:
    """(n,) int32: number of the room of every basin, 0, 1, 2, ... Passes are taken from the highest down."""
    parent, top = list(range(len(peaks))), peaks.tolist()
    order = np.argsort(-heights, kind="stable")

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for (one, other), height in zip(pairs[order].tolist(), heights[order].tolist()):
        a, b = root(one), root(other)
        if a == b:
            continue
        if height >= gaps.ratio * min(top[a], top[b]) or 2 * height > gaps.width:
            if top[a] < top[b]:
                a, b = b, a
            parent[b] = a
    roots = np.array([root(node) for node in range(len(peaks))], np.int32)
    return np.unique(roots, return_inverse=True)[1].astype(np.int32)
