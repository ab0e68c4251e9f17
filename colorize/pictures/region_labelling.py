"""Which palette entry every piece takes: by its own colours and by its neighbours' choices.

A Potts energy over the graph of the pieces, minimised by expansion moves (Boykov, Veksler, Zabih: Fast Approximate
Energy Minimization via Graph Cuts, TPAMI 2001): many pieces change together, where changing one after the other stops
at what no single piece can better. The colour term is the mean over the piece's samples of the squared distance to the
entry, truncated, so that a piece of two colours takes one of them and not what lies between (several results of one
drawing vote on it); the border term is paid for every pixel of border between pieces of different entries: much on open
paper (one thing, most likely), hardly across ink.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from .region_borders import Borders
from .region_colours import Samples
from .regions import RegionMap

NOISE = 0.07  # OKLab: one standard deviation of a result's colour
FARTHEST = 0.25  # OKLab: beyond, a colour is just wrong, and how wrong hardly counts
BEYOND = 0.05
LIGHTNESS = 0.4  # weight of lightness in distances, which shadows and a result's mood change most
OPEN, INKED = 10.0, 0.02  # cost of a border pixel of the working copy on open paper, and across ink
VOTE = 2.0  # cost by which an entry may be dearer than a result's cheapest and still have a good part of its vote
LEAST_VOTE = 1e-6
COMMON = 0.1  # weight of how common an entry is in the reference
ROUNDS = 6
LARGEST = 2**29  # of the whole numbers that the flow is counted in


def costs(found: Samples, entries: np.ndarray, shares: np.ndarray | None = None) -> np.ndarray:
    """(n, k) what every entry (k, 3) OKLab costs every piece; pieces that show more count more.

    shares: (k,) how common the entries are in the reference.
    """
    tables = [_distances(found, entries, number) for number in range(found.results)]
    table = tables[0] if len(tables) == 1 else _voted(np.stack(tables))
    if shares is not None:
        table -= COMMON * np.log(np.maximum(shares, 1e-4))
    total = np.bincount(found.piece, found.weight, found.count)
    return table * np.sqrt(total + 1)[:, None]


def _distances(found: Samples, entries: np.ndarray, number: int) -> np.ndarray:
    """(n, k) mean distance of every piece, in one of the results, to every entry, in units of the noise, squared."""
    size = len(found.piece) // found.results
    of = slice(number * size, (number + 1) * size)
    colours, piece, weight = found.colours[of], found.piece[of], found.weight[of]
    scale = np.array([LIGHTNESS, 1, 1], np.float32)
    total = np.maximum(np.bincount(piece, weight, found.count), 1e-9)
    table = np.empty((found.count, len(entries)), np.float64)
    for row, entry in enumerate(entries):
        squared = (((colours - entry) * scale) ** 2).sum(axis=1)
        squared = (np.minimum(squared, FARTHEST**2) + BEYOND * squared) / NOISE**2
        table[:, row] = np.bincount(piece, weight * squared, found.count) / total
    return table


def _voted(tables: np.ndarray) -> np.ndarray:
    """Costs (n, k) of what results (N, n, k) say of a piece together, up to a constant of its own.

    Every result shares one vote out among the entries by their likelihood, and the votes are added: results that agree
    win over one that is far off, where the mean of their colours would lie between. One result alone stays as it is.
    """
    votes = np.exp(-(tables - tables.min(axis=2, keepdims=True)) / VOTE)
    votes /= votes.sum(axis=2, keepdims=True)
    return -VOTE * np.log(votes.mean(axis=0) + LEAST_VOTE)


def choose(table: np.ndarray, regions: RegionMap, fixed: np.ndarray | None = None) -> np.ndarray:
    """(n,) int32: the entry of every piece, from `costs`. fixed: (n,) the entry of pieces that have one, else -1."""
    links = _links(regions.borders, regions.region_of).tocoo()
    once = links.row < links.col
    one, other, weight = links.row[once], links.col[once], links.data[once]
    if fixed is not None:
        table = table.copy()
        certain = np.flatnonzero(fixed >= 0)
        table[certain] = 2 * np.ptp(table) + 2 * np.asarray(links.sum(axis=1))[certain] + 1
        table[certain, fixed[certain]] = 0
    choice = table.argmin(axis=1).astype(np.int32)
    least = _energy(table, choice, one, other, weight)
    for _ in range(ROUNDS):
        before = least
        for entry in range(table.shape[1]):
            changed = np.where(_expansion(table, choice, entry, one, other, weight), np.int32(entry), choice)
            energy = _energy(table, changed, one, other, weight)
            if energy < least - 1e-9 * abs(least):
                choice, least = changed, energy
        if least == before:
            break
    return choice


def _energy(table: np.ndarray, choice: np.ndarray, one: np.ndarray, other: np.ndarray, weight: np.ndarray) -> float:
    """What a choice costs: its colours, and its links (one, other) between different entries."""
    return float(table[np.arange(len(choice)), choice].sum() + weight[choice[one] != choice[other]].sum())


def _expansion(
    table: np.ndarray, choice: np.ndarray, entry: int, one: np.ndarray, other: np.ndarray, weight: np.ndarray
) -> np.ndarray:
    """(n,) bool: which pieces change to `entry`, so that no other set of them costs less.

    The cut of a graph: pieces on the sink's side change. Link costs are split as in Kolmogorov and Zabih (What Energy
    Functions Can Be Minimized via Graph Cuts?, TPAMI 2004): a part for either end and an edge between.
    """
    count = len(choice)
    stay = weight * (choice[one] != choice[other])
    left, right = weight * (choice[one] != entry), weight * (choice[other] != entry)
    change = table[:, entry] - table[np.arange(count), choice]
    change = change + np.bincount(one, right - stay, count) - np.bincount(other, right, count)
    source, sink, pieces = count, count + 1, np.arange(count)
    rows = np.concatenate([np.where(change > 0, source, pieces), one])
    columns = np.concatenate([np.where(change > 0, pieces, sink), other])
    capacity = np.concatenate([np.abs(change), left + right - stay])
    scale = LARGEST / max(float(capacity.sum()), 1e-9)
    capacity = np.rint(capacity * scale).astype(np.int32)
    graph = sparse.csr_matrix((capacity, (rows, columns)), (count + 2,) * 2)
    spare = graph - csgraph.maximum_flow(graph, source, sink).flow
    spare.data = np.maximum(spare.data, 0)
    spare.eliminate_zeros()
    stays = csgraph.breadth_first_order(spare, source, return_predecessors=False)
    changes = np.ones(count + 2, bool)
    changes[stays] = False
    return changes[:count]


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
