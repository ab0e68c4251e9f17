"""Paired measurements: A and B take turns, so that whatever slows the machine down slows both."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


def timed(action: Callable[[], object]) -> tuple[float, float]:
    """(seconds on the wall, seconds of processor time) that a call takes."""
    wall, cpu = time.perf_counter(), time.process_time()
    action()
    return time.perf_counter() - wall, time.process_time() - cpu


@dataclass(frozen=True)
class Ratio:
    """Time of A over time of B, from pairs of neighbouring runs."""

    walls: tuple[float, ...]
    """ratio of each pair, by the clock on the wall"""
    cpus: tuple[float, ...]
    """ratio of each pair, by processor time: steadier on a busy machine"""
    a_seconds: float
    """median wall time"""
    b_seconds: float
    """median wall time"""

    @property
    def median(self) -> float:
        return statistics.median(self.walls)

    def __str__(self) -> str:
        low, _, high = statistics.quantiles(self.walls, n=4)
        return (
            f"ratio {self.median:.3f} (half of {len(self.walls)} pairs within {low:.3f} .. {high:.3f}; processor time "
            f"{statistics.median(self.cpus):.3f}; {self.a_seconds:.3f} s against {self.b_seconds:.3f} s)"
        )


def paired(a: Callable[[], object], b: Callable[[], object], repeats: int, warmup: int = 2) -> Ratio:
    """Run a and b `repeats` times each, first a b, then b a, and so on. At least two repeats."""
    for _ in range(warmup):
        a()
        b()
    a_times, b_times = [], []
    for turn in range(max(2, repeats)):
        order = ((a, a_times), (b, b_times))
        for action, times in order if turn % 2 == 0 else reversed(order):
            times.append(timed(action))
    walls, cpus = (
        tuple(one[clock] / other[clock] for one, other in zip(a_times, b_times, strict=True)) for clock in (0, 1)
    )
    a_wall, b_wall = (statistics.median(wall for wall, _ in times) for times in (a_times, b_times))
    return Ratio(walls, cpus, a_wall, b_wall)
