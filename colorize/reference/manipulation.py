"""Editing a reference with words: moving its tokens along directions of the text-image space. Pure functions.

ColorizeDiffusion v1 (arXiv 2401.01456), Algorithm 1 (global, Eq 5 to 7) and Algorithm 2 (local, Eq 8 to 13).

Symbols: v tokens, e target, a anchor, c control (text vectors of length 1), s target scale, d the distance to go,
m correlation with c, w position weights, r strength ratio, t0 <= t1 <= t2 <= t3 thresholds on m.
Shape legend: B batch, N local tokens, T any number of tokens, D width. A text vector is (D,), or (B or 1, 1, D).

Paper and released code differ; `variant` chooses (golden cases manipulation_global, manipulation_local):
                                paper                               released
    global, anchor, enhance     (s - v'.e) e                        s e
    local, without anchor       d = s                               d = s - cls.e
    weights, t0 < m <= t1       -r d to 0, continuous               -d to 0: jumps at t0 from -r d
Eq 8 as printed adds one number to a whole token; its form in Eq 13, a multiple of a direction, is what is meant.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

VARIANTS = ("paper", "released")
THRESHOLDS = (0.5, 0.55, 0.65, 0.95)
"""t0, t1, t2, t3 of paper and released code."""
RATIO = 2.0
"""r of paper and released code."""
BANDS = len(THRESHOLDS) + 1


def dot(tokens: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """Scalar products of tokens (B, T, D) with a text vector -> (B, T, 1)."""
    return (tokens * text).sum(-1, keepdim=True)


def check_thresholds(thresholds: Sequence[float]) -> tuple[float, float, float, float]:
    """The four thresholds as floats. Raises ValueError unless 0 <= t0 <= t1 <= t2 <= t3 <= 1."""
    values = tuple(map(float, thresholds))
    ordered = len(values) == 4 and all(map(math.isfinite, values)) and list(values) == sorted(values)
    if not ordered or values[0] < 0 or values[3] > 1:
        found = ", ".join(f"{value:g}" for value in values)
        raise ValueError(
            f"The thresholds are {found}; expected four numbers between 0 and 1, none smaller than the one before. "
            f"The paper's are {', '.join(map(str, THRESHOLDS))}."
        )
    return values[0], values[1], values[2], values[3]


# -- where: correlation and weights ------------------------------------------------------------------------------------


def correlation(tokens: torch.Tensor, control: torch.Tensor) -> torch.Tensor:
    """m: local tokens (B, N, D) . c, brought to 0..1 over the tokens of each reference -> (B, N, 1)."""
    return min_max(dot(tokens, control))


def min_max(values: torch.Tensor) -> torch.Tensor:
    """Values (B, N, 1) -> 0..1 for each reference.

    0 is what the control words mean most, 1 what they mean least (see reference.correlation). Where all values of a
    reference are equal (the paper's formula would be 0/0), they become 1: the edit then acts on all of them, by d.
    """
    low, high = values.amin(1, keepdim=True), values.amax(1, keepdim=True)
    span = high - low
    return torch.where(span > 0, (values - low) / torch.where(span > 0, span, torch.ones_like(span)), 1.0)


def bands(m: torch.Tensor, thresholds: Sequence[float] = THRESHOLDS) -> torch.Tensor:
    """Which of the five intervals a correlation lies in, 0 to 4; an upper end belongs to its interval. int64."""
    edges = torch.tensor(check_thresholds(thresholds), dtype=m.dtype, device=m.device)
    return torch.bucketize(m.contiguous(), edges)


def position_weights(
    m: torch.Tensor,
    distance: torch.Tensor | float,
    thresholds: Sequence[float] = THRESHOLDS,
    ratio: float = RATIO,
    variant: str = "paper",
) -> torch.Tensor:
    """w (Eq 10) of correlations m (B, N, 1) and d = distance, (B, 1, 1) or a number -> (B, N, 1).

        m <= t0        -r d
        t0 < m <= t1   from -r d (released: from -d) to 0
        t1 < m <= t2   from 0 to d / 2
        t2 < m <= t3   from d / 2 to d
        t3 < m         d

    Low m is what the control words mean: r is the strength there (4.2), and r = 0 leaves exactly those places alone.
    Raises ValueError for thresholds out of order and for an unknown variant.
    """
    check_variant(variant)
    t0, t1, t2, t3 = check_thresholds(thresholds)

    def share(start: float, end: float) -> torch.Tensor:
        return (m - start) / (end - start) if end > start else torch.zeros_like(m)

    slope = ratio if variant == "paper" else 1.0
    factors = torch.where(m <= t3, 0.5 + 0.5 * share(t2, t3), torch.ones_like(m))
    factors = torch.where(m <= t2, 0.5 * share(t1, t2), factors)
    factors = torch.where(m <= t1, slope * (share(t0, t1) - 1), factors)
    factors = torch.where(m <= t0, torch.full_like(m, -ratio), factors)
    return factors * distance


# -- the two algorithms ------------------------------------------------------------------------------------------------


def manipulate_global(
    tokens: torch.Tensor,
    target: torch.Tensor,
    anchor: torch.Tensor | None = None,
    scale: float = 8.0,
    enhance: bool = False,
    variant: str = "paper",
) -> torch.Tensor:
    """Algorithm 1: tokens (B, T, D), each by itself -> the same shape. The class token is what the paper edits.

    without anchor            v + (s - v.e) e                   the projection on the target becomes s
    without anchor, enhance   v + s e
    anchor                    v + s (e - a)
    anchor, enhance           v' = v - (v.a) a; v' + (s - v'.e) e       (released: v' + s e)
    """
    check_variant(variant)
    if anchor is None:
        return tokens + (scale if enhance else scale - dot(tokens, target)) * target
    if not enhance:
        return tokens + scale * (target - anchor)
    cleared = tokens - dot(tokens, anchor) * anchor
    return cleared + (scale - dot(cleared, target) if variant == "paper" else scale) * target


def manipulate_local(
    tokens: torch.Tensor,
    target: torch.Tensor,
    anchor: torch.Tensor | None = None,
    control: torch.Tensor | None = None,
    scale: float = 8.0,
    enhance: bool = False,
    thresholds: Sequence[float] = THRESHOLDS,
    ratio: float = RATIO,
    variant: str = "paper",
) -> torch.Tensor:
    """Algorithm 2: tokens (B, 1 + N, D), class token first -> the same shape; the class token stays as it is.

    See `move_local` for the equations.
    """
    cls, local = tokens[:, :1], tokens[:, 1:]
    moved = move_local(local, cls, target, anchor, control, scale, enhance, thresholds, ratio, variant)
    return torch.cat([cls, moved], dim=1)


def move_local(
    local: torch.Tensor,
    cls: torch.Tensor,
    target: torch.Tensor,
    anchor: torch.Tensor | None = None,
    control: torch.Tensor | None = None,
    scale: float = 8.0,
    enhance: bool = False,
    thresholds: Sequence[float] = THRESHOLDS,
    ratio: float = RATIO,
    variant: str = "paper",
) -> torch.Tensor:
    """Local tokens (B, N, D) and their class token (B, 1, D) -> moved local tokens (Eq 13).

        anchor            v + w (e - a),           d = s - cls.e
        anchor, enhance   v + (w + v.a) (e - a),   d = s - cls.a
        without anchor    v + w e,                 d = s (Algorithm 2; released: s - cls.e, as Eq 11); enhance: the same

    control None: every place counts fully, w = d (the paper's control word "everything").
    """
    check_variant(variant)
    if anchor is not None:
        distance = scale - dot(cls, anchor if enhance else target)
    elif variant == "paper":
        distance = torch.full_like(cls[..., :1], scale)
    else:
        distance = scale - dot(cls, target)
    if control is None:
        check_thresholds(thresholds)
        weights = distance
    else:
        weights = position_weights(correlation(local, control), distance, thresholds, ratio, variant)
    if anchor is None:
        return local + weights * target
    if enhance:
        weights = weights + dot(local, anchor)
    return local + weights * (target - anchor)


def check_variant(variant: str) -> None:
    """Raise ValueError unless the variant is known."""
    if variant not in VARIANTS:
        raise ValueError(f"Manipulation variant {variant!r} is unknown; choose one of {', '.join(VARIANTS)}.")
