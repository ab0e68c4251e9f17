"""How rightly colours are carried through a shot whose true colours and things are known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

KINDS = 256  # more than there are materials


@dataclass(frozen=True, eq=False)
class FrameTruth:
    """The answer for the n pieces of one frame."""

    pieces: np.ndarray
    """(H, W) int32"""
    materials: np.ndarray
    """(H, W) uint8: one material has one colour"""
    things: np.ndarray
    """(H, W) int: the same number is the same thing in all frames"""
    away: np.ndarray
    """(H, W) bool: pixels that count, away from lines"""

    @property
    def count(self) -> int:
        """Number of pieces."""
        return int(self.pieces.max()) + 1

    def table(self) -> np.ndarray:
        """(n, KINDS) how many pixels that count of every material lie in every piece."""
        code = self.pieces[self.away].astype(np.int64) * KINDS + self.materials[self.away]
        return np.bincount(code, minlength=self.count * KINDS).reshape(-1, KINDS)

    def entries(self) -> np.ndarray:
        """(n,) int: the commonest material of every piece, that of its lines too: what a painter gives it."""
        code = self.pieces.ravel().astype(np.int64) * KINDS + self.materials.ravel()
        return np.bincount(code, minlength=self.count * KINDS).reshape(-1, KINDS).argmax(axis=1)


def right(entry: np.ndarray, truth: FrameTruth, where: np.ndarray | None = None) -> float:
    """Share of the area whose piece has its true material, from the entry (n,) of every piece, -1 = none.

    where: (H, W) bool, the area; NaN when it is empty.
    """
    counted = truth.away if where is None else truth.away & where
    given = entry[truth.pieces[counted]]
    return float((given == truth.materials[counted]).mean()) if given.size else float("nan")


def flicker(entries: list[np.ndarray], truths: list[FrameTruth]) -> float:
    """Share of the area, over all frames but the first, whose entry is not the one its thing mostly had a frame before.

    Only things that both frames show, and pieces that have an entry, count. 0 is what painted animation has.
    """
    changed = counted = 0
    usual: dict[int, int] = {}
    for number, (entry, truth) in enumerate(zip(entries, truths, strict=True)):
        given, thing = entry[truth.pieces[truth.away]], truth.things[truth.away].astype(np.int64)
        thing, given = thing[given >= 0], given[given >= 0]
        code, sizes = np.unique(thing * KINDS + given, return_counts=True)
        now: dict[int, int] = {}
        for key, size in sorted(zip(code.tolist(), sizes.tolist()), key=lambda pair: pair[1]):
            now[key // KINDS] = key % KINDS
            if number and key // KINDS in usual:
                counted += size
                changed += size * (usual[key // KINDS] != key % KINDS)
        usual = now
    return changed / counted if counted else float("nan")


CAUSES = ("lost: pieces", "lost: not in the key", "lost: here", "lost: before")


def lost(entries: list[np.ndarray], truths: list[FrameTruth]) -> dict[str, float]:
    """Shares of the area, means over all frames but the first, whose entry is wrong, by cause.

    pieces: the piece has several colours, and this is not its commonest: no line parts them, or it was not found. not
    in the key: a thing that the first frame does not show. The rest are errors of the matching: here, where most of the
    thing was right in the frame before, or was not there; before, where it was wrong already.
    """
    found: dict[str, list[float]] = {cause: [] for cause in CAUSES}
    was_wrong = np.zeros(0, int)
    for number, (entry, truth) in enumerate(zip(entries, truths, strict=True)):
        piece, right_one, thing = (array[truth.away] for array in (truth.pieces, truth.materials, truth.things))
        wrong = entry[piece] != right_one
        mixed = wrong & (truth.table().argmax(axis=1)[piece] != right_one)
        new = wrong & ~mixed & ~np.isin(thing, truths[0].things)
        matching, carried_on = wrong & ~mixed & ~new, np.isin(thing, was_wrong)
        if number:
            for cause, where in zip(CAUSES, (mixed, new, matching & ~carried_on, matching & carried_on), strict=True):
                found[cause].append(float(where.mean()) if where.size else 0.0)
        things, places = np.unique(thing, return_inverse=True)
        was_wrong = things[np.bincount(places, wrong, len(things)) * 2 > np.bincount(places, minlength=len(things))]
    return {cause: float(np.mean(shares)) for cause, shares in found.items()}


def by_overlap(pieces: np.ndarray, before: np.ndarray, entry: np.ndarray) -> np.ndarray:
    """(n,) the plainest transfer: the entry of the earlier piece (H, W) that covers most of a piece's place."""
    most = int(before.max()) + 1
    code = pieces.ravel().astype(np.int64) * most + before.ravel()
    return entry[np.bincount(code, minlength=(int(pieces.max()) + 1) * most).reshape(-1, most).argmax(axis=1)]
