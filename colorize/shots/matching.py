"""Which piece of one drawing is which of another, and how sure that is.

Every piece of the target asks for every piece of the source how well it fits: by where the lines moved, by its shape,
by its outline, by its neighbours. The answers of a piece are a softmax over all pieces of the source and "new", that
is, nothing there. So many pieces may be parts of one (a hand divides a sleeve), one may have parts of many, and what
comes from behind something is new.

Sources. AnT (Casey et al.: The Animation Transformer, ICCV 2021): pieces enclosed by lines are what is matched, by
their looks and their place, and colours are the linear combination of the source's by a softmax of the likeness.
BasicPBC (Dai et al., CVPR 2024): the target's piece is asked whether it is included in the source's, not whether it
equals it, after the motion of the lines has brought it near. Both learn the likeness by networks from thousands of
frames; here it is ten numbers, WEIGHTS, fitted to procedural shots (docs/LOG.md), and no network is needed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .line_motion import motion
from .shapes import Shapes

WEIGHTS = {  # first pass, second pass: what a unit of each kind of evidence adds to the logit
    "inside": (2.70, 2.11),
    "covers": (0.93, 1.21),
    "place": (-0.30, -0.09),
    "shape": (-0.19, -0.21),
    "tones": (-2.38, -2.25),
    "rim": (-0.41, -0.51),
    "outline": (2.98, 1.88),
    "outlined": (1.15, 1.08),
    "rays": (3.13, 3.09),
    "neighbours": (0.0, 2.77),
}
NEW = ((1.75, 0.56), (3.00, 0.79))  # logit of "new" in either pass: a constant, and for outlines not found
RIDGE = 60.0  # squared units by which a piece has to be wider before its motion may turn or stretch it
SPARE = 1.2  # of its own area, as which a piece of the source may be found again
HALF = 0.5  # of its area from which a piece counts for how much larger all are
NEAR = 2  # units; how near to an outline a moved outline has to lie


@dataclass(frozen=True, eq=False)
class Matches:
    """How the n pieces of a target come from the m of a source."""

    likelihood: np.ndarray
    """(n, m) float32: the probability that a piece is, or is a part of, a piece of the source; rows sum to 1 - new"""

    @property
    def new(self) -> np.ndarray:
        """(n,) the probability that the piece was not there."""
        return 1 - self.likelihood.sum(axis=1)

    @property
    def best(self) -> np.ndarray:
        """(n,) int: the likeliest piece of the source, -1 where the piece is rather new."""
        best = self.likelihood.argmax(axis=1)
        return np.where(self.likelihood.max(axis=1) > self.new, best, -1)


def match(source: Shapes, target: Shapes) -> Matches:
    """Match two drawings of one size."""
    if source.labels.shape != target.labels.shape:
        sizes = " and ".join(f"{shape[1]}x{shape[0]}" for shape in (source.labels.shape, target.labels.shape))
        raise ValueError(f"Drawings of different sizes cannot be matched ({sizes}); bring all frames to one size.")
    found = likelihood(source, target, motion(source.maps, target.maps))
    return Matches(rivals(found, source.areas, target.areas))


def rivals(found: np.ndarray, source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(n, m) float32: probabilities (n, m) after the target's pieces have competed for those of the source.

    A soft form of a cycle check: a piece gives way where another is likelier to be of the same piece, by the ratio of
    their probabilities; and of a piece of the source no more than SPARE times its area is taken, where the pieces of
    the target are not larger in general. What is too much is new. source (m,), target (n,): areas in pixels.
    """
    claimed = found * found / np.maximum(found.max(axis=0, keepdims=True), 1e-9)
    new = 1 - found.sum(axis=1, keepdims=True)
    claimed = claimed / np.maximum(claimed.sum(axis=1, keepdims=True) + new, 1e-9)
    taken = target @ claimed / np.maximum(source, 1)
    usual = max(1.0, float(np.median(taken[taken > HALF]))) if (taken > HALF).any() else 1.0
    return (claimed * np.minimum(1, SPARE * usual / np.maximum(taken, 1e-9))).astype(np.float32)


def likelihood(source: Shapes, target: Shapes, shift: np.ndarray) -> np.ndarray:
    """(n, m) float32 as in Matches, for a motion (2, h, w) of the target's lines back to the source's."""
    moved = piece_motion(target, shift)
    evidence = {**_inclusion(source, target, moved), **_outlines(source, target, moved), **_looks(source, target)}
    evidence["place"] = _distances(source, target, moved)
    found = evidence.pop("outline found")
    first = _softmax(evidence, found, 0)
    evidence["neighbours"] = _support(first, source, target)
    return _softmax(evidence, found, 1)


def piece_motion(target: Shapes, shift: np.ndarray) -> np.ndarray:
    """(2, h, w): the motion (2, h, w) of its outline as one affine motion of every piece, by ridge regression."""
    piece = target.labels[target.edges[:, 0], target.edges[:, 1]]
    count = np.maximum(np.bincount(piece, minlength=target.count), 1)

    def mean(values: np.ndarray) -> np.ndarray:
        return np.bincount(piece, values, target.count) / count

    middle = np.stack([mean(target.edges[:, 0]), mean(target.edges[:, 1])], axis=1)
    y, x = (target.edges - middle[piece]).T
    ridge = RIDGE * target.unit**2
    yy, xx, yx = mean(y * y) + ridge, mean(x * x) + ridge, mean(y * x)
    determinant = yy * xx - yx**2
    rows, columns = np.indices(target.labels.shape)
    away = rows - middle[target.labels, 0], columns - middle[target.labels, 1]
    moved = np.empty_like(shift)
    for axis in range(2):
        along = shift[axis, target.edges[:, 0], target.edges[:, 1]].astype(np.float64)
        centre = mean(along)
        along = along - centre[piece]
        py, px = mean(y * along), mean(x * along)
        down, right = (xx * py - yx * px) / determinant, (yy * px - yx * py) / determinant
        moved[axis] = centre[target.labels] + down[target.labels] * away[0] + right[target.labels] * away[1]
    return moved


def _landed(target: Shapes, moved: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """((k, 2) places (e, 2) of the target after their motion, those that stay in the picture; (e,) bool which)."""
    height, width = target.labels.shape
    landed = np.rint(places + moved[:, places[:, 0], places[:, 1]].T).astype(int)
    inside = ((landed >= 0) & (landed < (height, width))).all(axis=1)
    return landed[inside], inside


def _inclusion(source: Shapes, target: Shapes, moved: np.ndarray) -> dict[str, np.ndarray]:
    """inside: share of a piece that comes to lie in one of the source; covers: share of that one it covers."""
    landed, kept = _landed(target, moved, np.argwhere(target.labels >= 0))
    code = target.labels.ravel()[kept].astype(np.int64) * source.count + source.labels[landed[:, 0], landed[:, 1]]
    shared = np.bincount(code, minlength=target.count * source.count).reshape(target.count, source.count)
    return {
        "inside": shared / np.maximum(target.areas, 1)[:, None],
        "covers": shared / np.maximum(source.areas, 1)[None],
    }


def _outlines(source: Shapes, target: Shapes, moved: np.ndarray) -> dict[str, np.ndarray]:
    """outline: share of a piece's outline that lies along one of the source's; outlined: share of that one.

    "outline found", (n,): share that lies along any.
    """
    height, width = source.labels.shape
    landed, kept = _landed(target, moved, target.edges)
    piece = target.labels[target.edges[kept, 0], target.edges[kept, 1]]
    reach = max(1, round(NEAR * source.unit))
    around = []
    for down in (-reach, 0, reach):
        for right in (-reach, 0, reach):
            y, x = np.clip(landed[:, 0] + down, 0, height - 1), np.clip(landed[:, 1] + right, 0, width - 1)
            around.append(source.labels[y, x])
    near = np.sort(np.stack(around, axis=1), axis=1)
    once = np.ones(near.shape, bool)
    once[:, 1:] = near[:, 1:] != near[:, :-1]
    on_outline = once.sum(axis=1) > 1
    once &= on_outline[:, None]
    code = (piece[:, None].astype(np.int64) * source.count + near)[once]
    along = np.bincount(code, minlength=target.count * source.count).reshape(target.count, source.count)
    length = np.maximum(np.bincount(piece, minlength=target.count), 1)
    whole = np.bincount(source.labels[source.edges[:, 0], source.edges[:, 1]], minlength=source.count)
    return {
        "outline": along / length[:, None],
        "outlined": np.minimum(along / np.maximum(whole, 1)[None], 1),
        "outline found": np.bincount(piece[on_outline], minlength=target.count) / length,
    }


def _looks(source: Shapes, target: Shapes) -> dict[str, np.ndarray]:
    """rays: overlap of the two outlines laid centre on centre; shape, tones, rim: how unlike they are otherwise."""
    overlap, union = (np.zeros((target.count, source.count), np.float32) for _ in range(2))
    for one, other in zip(target.rays.T, source.rays.T, strict=True):
        overlap += np.minimum(one[:, None], other[None]) ** 2
        union += np.maximum(one[:, None], other[None]) ** 2
    spreads, leanings = [], []
    for each in (target, source):
        wide = each.moments[:, :2] + each.unit**2
        spreads.append(0.5 * np.log(wide))
        leanings.append(each.moments[:, 2] / np.sqrt(wide.prod(axis=1)))
    unlike = _differences(spreads[0], spreads[1]) + np.abs(leanings[0][:, None] - leanings[1][None])
    return {
        "rays": overlap / union,
        "shape": np.minimum(unlike, 3),
        "tones": _differences(target.tones, source.tones),
        "rim": (target.touches[:, None] != source.touches[None]).astype(np.float32),
    }


def _differences(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(n, m) sum of the absolute differences of the rows of (n, k) and (m, k)."""
    total = np.zeros((len(one), len(other)), np.float32)
    for a, b in zip(one.T, other.T, strict=True):
        total += np.abs(a[:, None] - b[None])
    return total


def _distances(source: Shapes, target: Shapes, moved: np.ndarray) -> np.ndarray:
    """(n, m) how far a moved centre lies from the source's, in sizes of the piece, at most 6."""
    piece = target.labels[target.edges[:, 0], target.edges[:, 1]]
    count = np.maximum(np.bincount(piece, minlength=target.count), 1)
    along = moved[:, target.edges[:, 0], target.edges[:, 1]]
    centres = target.centres + np.stack([np.bincount(piece, one, target.count) / count for one in along], axis=1)
    apart = np.hypot(*(centres[:, None] - source.centres[None]).transpose(2, 0, 1))
    return np.minimum(apart / (np.sqrt(np.maximum(target.areas, 1)) + 4 * target.unit)[:, None], 6)


def _support(likelihood: np.ndarray, source: Shapes, target: Shapes) -> np.ndarray:
    """(n, m) share of a piece's border behind which lies what the source's piece has beside it, or that piece itself.

    Relaxation labelling (Rosenfeld, Hummel, Zucker: Scene Labeling by Relaxation Operations, 1976), one round.
    """
    around = target.borders / np.maximum(target.borders.sum(axis=1, keepdims=True), 1e-6)
    beside = (source.borders > 0).astype(np.float32) + np.eye(source.count, dtype=np.float32)
    return np.clip(around @ (likelihood @ beside), 0, 1)


def _softmax(evidence: dict[str, np.ndarray], found: np.ndarray, turn: int) -> np.ndarray:
    """(n, m) float32 probabilities from the evidence with the weights of a pass; the rest of a row is "new"."""
    logit = np.zeros(next(iter(evidence.values())).shape, np.float64)
    for name, values in evidence.items():
        logit += WEIGHTS[name][turn] * values
    new = (NEW[turn][0] + NEW[turn][1] * (1 - found))[:, None]
    top = np.maximum(logit.max(axis=1, keepdims=True), new)
    strength = np.exp(logit - top)
    return (strength / (strength.sum(axis=1, keepdims=True) + np.exp(new - top))).astype(np.float32)
