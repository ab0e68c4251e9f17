"""Matching of pieces, written out pixel by pixel and pair by pair: colorize/shots is compared with this."""

from __future__ import annotations

import math

import numpy as np

from colorize.shots import matching
from colorize.shots.shapes import RAYS, Shapes


def neighbours(y: int, x: int, height: int, width: int) -> list[tuple[int, int]]:
    """The four that lie beside a pixel within the picture."""
    beside = ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1))
    return [(v, u) for v, u in beside if 0 <= v < height and 0 <= u < width]


def outline(labels: np.ndarray, piece: int) -> list[tuple[int, int]]:
    """Pixels of a piece that lie beside another piece, row by row."""
    height, width = labels.shape
    own = [(y, x) for y in range(height) for x in range(width) if labels[y, x] == piece]
    return [(y, x) for y, x in own if any(labels[v, u] != piece for v, u in neighbours(y, x, height, width))]


def rays(labels: np.ndarray, piece: int) -> list[float]:
    """How far the outline reaches in every sector."""
    places = np.argwhere(labels == piece)
    cy, cx = places.mean(axis=0)
    longest = [0.0] * RAYS
    for y, x in outline(labels, piece):
        turn = math.atan2(y - cy, x - cx) / (2 * math.pi)
        sector = math.floor((turn + 1) * RAYS + 0.5) % RAYS
        longest[sector] = max(longest[sector], math.hypot(y - cy, x - cx))
    return [(found or 0.5 * math.sqrt(len(places) / math.pi)) + 0.5 for found in longest]


def affine(target: Shapes, piece: int, shift: np.ndarray, y: int, x: int) -> tuple[float, float]:
    """Motion of a pixel of a piece: ridge regression of its outline's motion, by a solver."""
    edge = outline(target.labels, piece)
    middle = np.mean(edge, axis=0)
    away = np.array(edge) - middle
    moves = np.array([shift[:, v, u] for v, u in edge], np.float64)
    centre = moves.mean(axis=0)
    ridge = matching.RIDGE * target.unit**2 * np.eye(2)
    slope = np.linalg.solve(away.T @ away / len(edge) + ridge, away.T @ (moves - centre) / len(edge))
    moved = centre + (np.array([y, x]) - middle) @ slope
    return float(moved[0]), float(moved[1])


def evidence(source: Shapes, target: Shapes, shift: np.ndarray, i: int, j: int) -> dict[str, float]:
    """Evidence that piece j of the target is piece i of the source, its neighbours apart."""
    height, width = target.labels.shape
    own = [(y, x) for y in range(height) for x in range(width) if target.labels[y, x] == j]
    landed = [_to(target, j, shift, place) for place in own]
    shared = sum(_in(place, height, width) and source.labels[place] == i for place in landed)
    whole = int((source.labels == i).sum())
    edge, edges_there = outline(target.labels, j), len(outline(source.labels, i))
    seen = [place for place in (_to(target, j, shift, each) for each in edge) if _in(place, height, width)]
    around = [_around(source, place) for place in seen]
    along = sum(i in near for near in around if len(near) > 1)
    moves = [affine(target, j, shift, y, x) for y, x in edge]
    centre = np.mean(own, axis=0) + np.mean(moves, axis=0)
    there = np.mean(np.argwhere(source.labels == i), axis=0)
    ones, others = rays(target.labels, j), rays(source.labels, i)
    spread = [_spread(shapes, piece) for shapes, piece in ((target, j), (source, i))]
    return {
        "inside": shared / len(own),
        "covers": shared / whole,
        "place": min(math.dist(centre, there) / (math.sqrt(len(own)) + 4 * target.unit), 6),
        "shape": min(sum(abs(a - b) for a, b in zip(*spread)), 3),
        "tones": sum(abs(a - b) for a, b in zip(_tones(target, j), _tones(source, i))),
        "rim": float(_rim(target.labels, j) != _rim(source.labels, i)),
        "outline": along / max(len(seen), 1),
        "outlined": min(along / max(edges_there, 1), 1),
        "rays": sum(min(a, b) ** 2 for a, b in zip(ones, others)) / sum(max(a, b) ** 2 for a, b in zip(ones, others)),
        "outline found": sum(len(near) > 1 for near in around) / max(len(seen), 1),
    }


def likelihood(source: Shapes, target: Shapes, shift: np.ndarray) -> np.ndarray:
    """(n, m) as matching.match gives it, for this motion of the lines."""
    n, m = target.count, source.count
    table = [[evidence(source, target, shift, i, j) for i in range(m)] for j in range(n)]
    first = _probabilities(table, 0)
    for j in range(n):
        for i in range(m):
            table[j][i]["neighbours"] = _support(first, source, target, i, j)
    return _probabilities(table, 1)


def _probabilities(table: list[list[dict[str, float]]], turn: int) -> np.ndarray:
    rows = []
    for pieces in table:
        logits = [
            sum(weights[turn] * each.get(name, 0.0) for name, weights in matching.WEIGHTS.items()) for each in pieces
        ]
        new = matching.NEW[turn][0] + matching.NEW[turn][1] * (1 - pieces[0]["outline found"])
        total = sum(math.exp(logit) for logit in logits) + math.exp(new)
        rows.append([math.exp(logit) / total for logit in logits])
    return np.array(rows)


def _support(first: np.ndarray, source: Shapes, target: Shapes, i: int, j: int) -> float:
    borders = {k: _border(target.labels, j, k) for k in range(target.count) if k != j}
    found = 0.0
    for k, length in borders.items():
        like = sum(first[k, o] for o in range(source.count) if o == i or _border(source.labels, o, i))
        found += length / sum(borders.values()) * like
    return min(found, 1.0)


def _border(labels: np.ndarray, one: int, other: int) -> int:
    height, width = labels.shape
    places = np.argwhere(labels == one).tolist()
    return sum(labels[v, u] == other for y, x in places for v, u in neighbours(y, x, height, width))


def _to(target: Shapes, piece: int, shift: np.ndarray, place: tuple[int, int]) -> tuple[int, int]:
    moved = affine(target, piece, shift, *place)
    return int(np.rint(place[0] + moved[0])), int(np.rint(place[1] + moved[1]))


def _in(place: tuple[int, int], height: int, width: int) -> bool:
    return 0 <= place[0] < height and 0 <= place[1] < width


def _around(source: Shapes, place: tuple[int, int]) -> set[int]:
    height, width = source.labels.shape
    reach = max(1, round(matching.NEAR * source.unit))
    return {
        int(source.labels[min(max(place[0] + dy, 0), height - 1), min(max(place[1] + dx, 0), width - 1)])
        for dy in (-reach, 0, reach)
        for dx in (-reach, 0, reach)
    }


def _spread(shapes: Shapes, piece: int) -> tuple[float, float, float]:
    away = np.argwhere(shapes.labels == piece).astype(float)
    away -= away.mean(axis=0)
    yy, xx, yx = (away[:, 0] ** 2).mean(), (away[:, 1] ** 2).mean(), (away[:, 0] * away[:, 1]).mean()
    yy, xx = yy + shapes.unit**2, xx + shapes.unit**2
    return 0.5 * math.log(yy), 0.5 * math.log(xx), yx / math.sqrt(yy * xx)


def _tones(shapes: Shapes, piece: int) -> list[float]:
    return [float(one.numpy()[shapes.labels == piece].mean()) for one in shapes.maps[0]]


def _rim(labels: np.ndarray, piece: int) -> bool:
    return bool((np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]) == piece).any())
