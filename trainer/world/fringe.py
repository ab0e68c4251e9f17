"""Where the locks of a fringe end and part, in face coordinates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .scene import Scene

Point = tuple[float, float]
Lock = tuple[Point, Point, float]
"""Where it ends, where it parts from the next, and how far it bends sideways."""


def fringe_locks(scene: Scene) -> list[Lock]:
    """Locks of the fringe from left to right: (tip, notch after it, sideways bend)."""
    lay, rng = scene.layout, scene.rng
    kind, count = lay.fringe, lay.fringe_locks
    root = -0.2
    if kind in ("straight", "hime"):
        count = 5 if kind == "straight" else 7
        low = -0.06 if kind == "straight" else -0.13
        xs = np.linspace(-0.84, 0.84, count + 1)
        return [
            (
                ((xs[i] + xs[i + 1]) / 2 + rng.uniform(-0.03, 0.03), low + rng.uniform(0, 0.06)),
                (xs[i + 1], low - rng.uniform(0.12, 0.22)),
                0.0,
            )
            for i in range(count)
        ]
    if kind in ("parted", "curtain"):
        out, gap = [], (-0.9 if kind == "curtain" else -0.72)
        lows = (0.22, -0.02, -0.2) if kind == "parted" else (0.5, 0.2)
        for side in (-1, 1):
            xs = np.linspace(0.86, 0.4 if kind == "curtain" else 0.3, len(lows))
            locks = []
            for i, (x, low) in enumerate(zip(xs, lows)):
                notch = (side * (x - 0.17), -0.25 - 0.18 * i) if i < len(lows) - 1 else (0.05, gap)
                locks.append(((side * x, low + rng.uniform(-0.05, 0.05)), notch, side * 0.1))
            if side < 0:
                out += locks
            else:
                locks = locks[::-1]
                notches = [(lock[1]) for lock in locks][1:] + [(0.86, -0.2)]
                out += [(lock[0], notch, lock[2]) for lock, notch in zip(locks, notches)]
        return out
    if kind == "open":
        side = rng.choice([-1, 1])
        return [
            ((-0.8, -0.3), (-0.7, -0.62), 0.0),
            ((side * 0.3, -0.28), (side * 0.3 + 0.1, -0.82), 0.1),
            ((0.8, -0.3), (0.86, -0.3), 0.0),
        ]
    if kind == "wisps":
        return [((x, rng.uniform(-0.25, 0.1)), (x + 0.2, -0.55), 0.05) for x in (-0.6, -0.2, 0.12, 0.6)]
    if kind == "swept":
        xs = np.linspace(-0.9, 0.62, count + 1)
        out = []
        for i in range(count):
            low = 0.12 - 0.32 * (i / count) + rng.uniform(-0.06, 0.06)
            out.append(((xs[i] + 0.02, low), (xs[i + 1] - 0.02, -0.22 - 0.55 * ((i + 1) / count) ** 1.6), -0.14))
        return [*out, ((0.86, 0.1), (0.9, -0.25), 0.12)]
    xs = np.linspace(-0.86, 0.86, count + 1)
    out = []
    for i in range(count):
        mid = (xs[i] + xs[i + 1]) / 2
        low = {"soft": 0.02, "spiky": 0.06, "centre_lock": -0.08}[kind] + 0.12 * abs(mid) + rng.uniform(-0.1, 0.06)
        if kind == "centre_lock" and i == count // 2:
            low = 0.36
        sway = (0.12 if kind == "spiky" else 0.06) * rng.uniform(-1, 1)
        notch_y = root - rng.uniform(0.02, 0.3) - (0.15 if kind == "spiky" else 0)
        out.append(((mid + sway, low), (xs[i + 1], notch_y), 0.1 * np.sign(mid) + sway * 0.5))
    return out


def mirrored(locks: Sequence[Lock]) -> list[Lock]:
    """The same fringe seen in a mirror."""
    tips = [(-tip[0], tip[1]) for tip, _, _ in locks][::-1]
    bends = [-bend for _, _, bend in locks][::-1]
    notches = [(-n[0], n[1]) for _, n, _ in locks][:-1][::-1] + [(0.88, -0.22)]
    return list(zip(tips, notches, bends))
