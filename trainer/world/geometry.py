"""Curves and frames: everything here maps (N, 2) float arrays of (x, y) points to such arrays, y pointing down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike


@lru_cache(maxsize=16)
def _catmull_rom_basis(steps: int) -> np.ndarray:
    t = np.arange(steps)[:, None] / steps
    return (
        np.concatenate([-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, -(t**2) + t**3], axis=1)
        * 0.5
    )


@lru_cache(maxsize=16)
def _quadratic_basis(steps: int) -> np.ndarray:
    t = np.arange(1, steps + 1)[:, None] / steps
    return np.concatenate([(1 - t) ** 2, 2 * t * (1 - t), t**2], axis=1)


def closed_spline(points: ArrayLike, steps: int = 7) -> np.ndarray:
    """Catmull-Rom curve through the given points (N, 2), closed; N * steps points."""
    p = np.asarray(points, dtype=np.float64)
    windows = np.stack([np.roll(p, 1, 0), p, np.roll(p, -1, 0), np.roll(p, -2, 0)], axis=1)
    return np.einsum("sk,nkd->nsd", _catmull_rom_basis(steps), windows).reshape(-1, 2)


def open_spline(points: ArrayLike, steps: int = 7) -> np.ndarray:
    """Catmull-Rom curve through the given points (N, 2), from the first to the last."""
    p = np.asarray(points, dtype=np.float64)
    q = np.concatenate([2 * p[:1] - p[1:2], p, 2 * p[-1:] - p[-2:-1]])
    windows = np.stack([q[:-3], q[1:-2], q[2:-1], q[3:]], axis=1)
    curve = np.einsum("sk,nkd->nsd", _catmull_rom_basis(steps), windows).reshape(-1, 2)
    return np.concatenate([curve, p[-1:]])


def quads(start: ArrayLike, *pairs: tuple[ArrayLike, ArrayLike], steps: int = 7) -> np.ndarray:
    """Chain of quadratic curves: start, then (control, end) for each piece. Corners stay sharp."""
    out = [np.asarray([start], dtype=np.float64)]
    previous = start
    for control, end in pairs:
        out.append(_quadratic_basis(steps) @ np.asarray([previous, control, end], dtype=np.float64))
        previous = end
    return np.concatenate(out)


def ellipse(cx: float, cy: float, rx: float, ry: float, angle: float = 0.0, steps: int = 28) -> np.ndarray:
    """Closed ellipse with half axes rx, ry, turned by `angle` radians."""
    t = np.arange(steps) * (2 * np.pi / steps)
    x, y = rx * np.cos(t), ry * np.sin(t)
    c, s = np.cos(angle), np.sin(angle)
    return np.stack([cx + x * c - y * s, cy + x * s + y * c], axis=1)


def arc(cx: float, cy: float, rx: float, ry: float, start: float, end: float, steps: int = 24) -> np.ndarray:
    """Part of an ellipse from angle `start` to `end` in radians (0 = right, pi/2 = down)."""
    t = np.linspace(start, end, steps)
    return np.stack([cx + rx * np.cos(t), cy + ry * np.sin(t)], axis=1)


def capsule(a: ArrayLike, b: ArrayLike, ra: float, rb: float, steps: int = 8) -> np.ndarray:
    """Rounded limb from a (radius ra) to b (radius rb)."""
    (ax, ay), (bx, by) = np.asarray(a, float), np.asarray(b, float)
    phi = np.arctan2(by - ay, bx - ax)
    return np.concatenate(
        [
            arc(bx, by, rb, rb, phi - np.pi / 2, phi + np.pi / 2, steps),
            arc(ax, ay, ra, ra, phi + np.pi / 2, phi + 3 * np.pi / 2, steps),
        ]
    )


def tapered(path: np.ndarray, widths: Sequence[float]) -> np.ndarray:
    """Closed ribbon around an open path; `widths` are half widths, interpolated from any number of values."""
    path = np.asarray(path, float)
    w = np.interp(np.linspace(0, 1, len(path)), np.linspace(0, 1, len(widths)), widths)[:, None]
    d = np.gradient(path, axis=0)
    d /= np.maximum(np.hypot(d[:, 0], d[:, 1]), 1e-9)[:, None]
    normal = np.stack([-d[:, 1], d[:, 0]], axis=1)
    return np.concatenate([path + normal * w, (path - normal * w)[::-1]])


@dataclass(frozen=True)
class Axes:
    """Local coordinates to pixels: p -> origin + unit * rotate(p, angle), then mirrored about x = mirror_at / 2."""

    origin: tuple[float, float]
    unit: float
    angle: float = 0.0
    mirror_at: float | None = None

    def __call__(self, points: ArrayLike) -> np.ndarray:
        p = np.asarray(points, dtype=np.float64)
        c, s = np.cos(self.angle) * self.unit, np.sin(self.angle) * self.unit
        x = self.origin[0] + p[:, 0] * c - p[:, 1] * s
        y = self.origin[1] + p[:, 0] * s + p[:, 1] * c
        if self.mirror_at is not None:
            x = self.mirror_at - x
        return np.stack([x, y], axis=1)
