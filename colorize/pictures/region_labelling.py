"""Which palette entry every piece takes: by its own colours and by its neighbours' choices.

A Potts energy over the graph of the pieces, minimised by iterated conditional modes (Besag 1986). The colour term is
the mean over the piece's samples of the squared distance to the entry, truncated, so that a piece of two colours takes
one of them and not what lies between; the border term is paid for every pixel of border between pieces of different
entries: much on open paper (one thing, most likely), hardly across ink.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse

from .region_borders import Borders
from .region_colours import Samples
from .regions import RegionMap

NOISE = 0.07  # OKLab: one standard deviation of a result's colour
FARTHEST = 0.15  # OKLab: beyond, a colour is just wrong, and how wrong hardly counts
BEYOND = 0.05
LIGHTNESS = 0.7  # weight of lightness in distances, which shadows change most
OPEN, INKED = 10.0, 0.05  # cost of a border pixel of the working copy on open paper, and across ink
COMMON = 0.1  # weight of how common an entry is in the reference
ROUNDS = 12


def costs(found: Samples, entries: np.ndarray, shares: np.ndarray | None = None) -> np.ndarray:
    """(n, k) what every entry (k, 3) OKLab costs every piece; pieces that show more count more.

    shares: (k,) how common the entries are in the reference.
    """
    scale = np.array([LIGHTNESS, 1, 1], np.float32)
    total = np.bincount(found.piece, found.weight, found.count)
    table = np.empty((found.count, len(entries)), np.float64)
    for number, entry in enumerate(entries):
        squared = (((found.colours - entry) * scale) ** 2).sum(axis=1)
        squared = (np.minimum(squared, FARTHEST**2) + BEYOND * squared) / NOISE**2
        table[:, number] = np.bincount(found.piece, found.weight * squared, found.count) / np.maximum(total, 1e-9)
    if shares is not None:
        table -= COMMON * np.log(np.maximum(shares, 1e-4))
    return table * np.sqrt(total + 1)[:, None]


def choose(table: np.ndarray, regions: RegionMap, fixed: np.ndarray | None = None) -> np.ndarray:
    """(n,) int32: the entry of every piece, from `costs`. fixed: (n,) the entry of pieces that have one, else -1."""
    links = _links(regions.borders, regions.region_of)
    choice = table.argmin(axis=1)
    free = np.ones(len(choice), bool)
    if fixed is not None:
        free = fixed < 0
        choice = np.where(free, choice, fixed)
    order = np.flatnonzero(free)
    order = order[np.argsort(-np.ptp(table[order], axis=1), kind="stable")]  # the surest pieces first
    for _ in range(ROUNDS):
        before = choice.copy()
        for piece in order.tolist():
            start, stop = links.indptr[piece : piece + 2]
            energy = table[piece].copy()
            np.subtract.at(energy, choice[links.indices[start:stop]], links.data[start:stop])
            choice[piece] = energy.argmin()
        if np.array_equal(before, choice):
            break
    return choice.astype(np.int32)


def _links(between: Borders, region_of: np.ndarray) -> sparse.csr_matrix:
    """(n, n) what it costs two neighbours to differ.

    Between two regions open paper counts in full where it is a third of the border around the smaller piece: a gap in
    an outline is less.
    """
    a, b = between.pairs.T
    inked = between.length - between.open
    around = np.bincount(np.concatenate([a, b]), np.concatenate([between.length] * 2), len(region_of))
    opened = np.minimum(1, 3 * between.open / np.maximum(np.minimum(around[a], around[b]), 1))
    together = region_of[a] == region_of[b]
    strength = OPEN * np.where(together, 1, opened) * between.open + INKED * np.where(together, 2, 1) * inked
    rows, columns = np.concatenate([a, b]), np.concatenate([b, a])
    return sparse.csr_matrix((np.concatenate([strength, strength]), (rows, columns)), (len(region_of),) * 2)
