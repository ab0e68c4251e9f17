"""Bootstrap intervals over pairs: how much a number owes to the pictures that happened to be measured.

Percentile bootstrap (Efron 1979): the pairs are drawn again with replacement, the statistic is computed on every draw,
and the middle 95 % of the answers are the interval. All values of a pair are drawn together, so two models measured
on the same pairs are compared pair by pair, and what the pairs have in common cancels out of the difference.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

DRAWS = 2000
PERCENT = (2.5, 97.5)
Statistic = Callable[[np.ndarray], float]


def interval(
    values: np.ndarray, statistic: Statistic = np.median, draws: int = DRAWS, seed: int = 0
) -> tuple[float, float]:
    """95 % interval of a statistic over the first axis (pairs) of `values`, which may hold NaN (not measured).

    The statistic gets the drawn values without NaN, flat; NaN when no draw holds any value.
    """

    def measured(sample: np.ndarray) -> float:
        known = sample[~np.isnan(sample)]
        return statistic(known) if known.size else np.nan

    return _interval(np.asarray(values), measured, draws, seed)


def joint_interval(
    ours: np.ndarray,
    theirs: np.ndarray,
    statistic: Callable[[np.ndarray, np.ndarray], float],
    draws: int = DRAWS,
    seed: int = 0,
) -> tuple[float, float]:
    """95 % interval of statistic(ours, theirs) over pairs: a difference or a ratio, say. NaN are left in."""
    if len(ours) != len(theirs):
        raise ValueError(f"{len(ours)} and {len(theirs)} pairs are not the same pairs; measure both on one set.")
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    return _interval(np.arange(len(ours)), lambda rows: statistic(ours[rows], theirs[rows]), draws, seed)


def _interval(values: np.ndarray, statistic: Statistic, draws: int, seed: int) -> tuple[float, float]:
    if not len(values):
        raise ValueError("There is no interval of no pairs; measure at least one.")
    random, count = np.random.default_rng(seed), len(values)
    estimates = [statistic(values[random.integers(0, count, count)]) for _ in range(draws)]  # memory: one draw
    low, high = np.nanpercentile(estimates, PERCENT) if np.isfinite(estimates).any() else (np.nan, np.nan)
    return float(low), float(high)
