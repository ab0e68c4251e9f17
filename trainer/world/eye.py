"""One eye, from the white to the lashes.

The lids are functions of s = -1 (inner corner) .. 1 (outer corner), so the iris is cut exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .geometry import ellipse
from .materials import Material, Tone
from .scene import Scene

M = Material
EYE_X, EYE_Y = 0.45, 0.2  # of its middle, in head coordinates
CLOSED = 0.15  # an eye that is less open is a line
_SLANT = {"round": 0.0, "upturned": -0.07, "drooping": 0.06, "sleepy": 0.03, "wide": -0.02}
_UPPER = {"round": 1.0, "upturned": 0.94, "drooping": 0.96, "sleepy": 0.68, "wide": 1.08}
_LOWER = {"round": 0.86, "upturned": 0.72, "drooping": 0.86, "sleepy": 0.85, "wide": 0.96}


@dataclass(frozen=True)
class Eye:
    """The eye of one side of a face."""

    scene: Scene
    side: int
    """-1 or 1"""

    @property
    def height(self) -> float:
        """Half its height, in head units."""
        return self.scene.layout.eye_height

    @property
    def slant(self) -> float:
        """How much lower the outer corner lies."""
        return _SLANT[self.scene.layout.eyes]

    def upper(self, s: Any) -> Any:
        """Where the upper lid is, over the middle of the eye; s: a number or an array."""
        shape = np.maximum(1 - np.abs(s - 0.06) ** 2.3 / 1.13, 0) ** 0.62
        opened = -self.height * _UPPER[self.scene.layout.eyes] * shape + self.slant * s
        lids = self.scene.gesture.lids
        return opened if lids == 1 else lids * opened + (1 - lids) * self.lower(s)

    def lower(self, s: Any) -> Any:
        """The same of the lower lid."""
        return self.height * _LOWER[self.scene.layout.eyes] * (1 - np.abs(s) ** 2.6) ** 0.8 + self.slant * s

    def put(self, s: ArrayLike, y: ArrayLike) -> np.ndarray:
        """Points (N, 2) of the eye in head coordinates."""
        lay = self.scene.layout
        cx, cy = self.side * EYE_X, EYE_Y + lay.pitch
        across = cx + self.side * lay.eye_width * np.asarray(s, float)
        return self.scene.on_face(np.stack([across, cy + np.asarray(y, float)], axis=1))

    def clipped(self, points: ArrayLike) -> np.ndarray:
        """A shape (N, 2) cut by the lids, in head coordinates."""
        p = np.asarray(points, float)
        x = np.clip(p[:, 0], -0.99, 0.99)
        return self.put(x, np.clip(p[:, 1], self.upper(x), self.lower(x)))


def draw_eye(scene: Scene, side: int) -> None:
    """The eye of one side, or its closed lid."""
    lay, eye = scene.layout, Eye(scene, side)
    s = np.sin(np.linspace(-1, 1, 25) * np.pi / 2) * 0.995
    if scene.gesture.lids < CLOSED or (lay.wink and side == 1):
        lid = eye.put(s, 0.12 + 0.1 * (1 - s**2) * (1 if lay.mouth_size > 1 else -1))
        scene.drawing.stroke(scene.head, lid, M.LASH, 2.2, 0.25, 0.2)
        return
    _white(eye, s)
    _iris(eye)
    _lids(eye)


def _white(eye: Eye, s: np.ndarray) -> None:
    d, head = eye.scene.drawing, eye.scene.head
    back = s[::-1]
    d.fill(head, np.concatenate([eye.put(s, eye.upper(s)), eye.put(back, eye.lower(back))]), M.EYE_WHITE, 0, 0)
    shade = np.concatenate([eye.put(s, eye.upper(s) - 0.02), eye.put(back, eye.upper(back) + 0.12)])
    d.patch(head, shade, (M.EYE_WHITE,), Tone.SHADE)


def _iris(eye: Eye) -> None:
    """Iris, pupil and the lights in them."""
    lay, d, head, side = eye.scene.layout, eye.scene.drawing, eye.scene.head, eye.side
    iris, pupil = (M.IRIS_A, M.PUPIL_A) if side == 1 else (M.IRIS_B, M.PUPIL_B)
    gx = lay.gaze_x * side - 0.04
    gy = lay.gaze_y * 0.5 - 0.005
    rx, ry = 0.69, eye.height * 0.99
    d.fill(head, eye.clipped(ellipse(gx, gy, rx, ry, steps=40)), iris, 0, 0.8)
    rows = head(eye.put([0, 0], [max(gy - ry, eye.upper(0.0)), min(gy + ry, eye.lower(0.0))]))[:, 1]
    d.gradients[iris] = (float(rows[0]), float(rows[1]))
    d.fill(head, eye.clipped(ellipse(gx, gy + 0.01, rx * 0.42, ry * 0.46)), pupil, 0, 0.5, ink=True)
    d.patch(head, eye.clipped(ellipse(gx, gy + ry * 0.62, rx * 0.55, ry * 0.26)), (iris,), Tone.LIGHT)
    light = 1 if not lay.mirrored else -1
    large = ellipse(gx - side * light * rx * 0.38, gy - ry * 0.4, rx * 0.3, ry * 0.25)
    d.fill(head, eye.clipped(large), M.CATCH_LIGHT, 0, 0.45)
    small = ellipse(gx + side * light * rx * 0.36, gy + ry * 0.45, rx * 0.15, ry * 0.12)
    d.fill(head, eye.clipped(small), M.CATCH_LIGHT, 0, 0)


def _lids(eye: Eye) -> None:
    """The upper lid with its lashes, the lower lid, and the fold above."""
    lay, d, head = eye.scene.layout, eye.scene.drawing, eye.scene.head
    t = np.linspace(-0.98, 1.0, 22)
    thick = 0.03 + 0.052 * ((t + 1) / 2)
    top = np.concatenate([eye.upper(t[:-1]) - thick[:-1], [eye.slant - 0.09]])
    under = eye.upper(np.clip(t, -0.995, 0.995)) + 0.012
    flick = eye.put([1.2], [eye.slant - 0.11 + (0.05 if lay.eyes == "drooping" else 0)])
    lash = np.concatenate([eye.put(t, top), flick, eye.put(t[::-1], under[::-1])])
    d.fill(head, lash, M.LASH, 0, 0.35, ink=True)
    if lay.lashes:
        for at, size in ((0.72, 0.13), (0.9, 0.16)):
            start = eye.put([at], [eye.upper(at) - 0.03])
            end = eye.put([at + 0.32], [eye.upper(at) - size + 0.02])
            d.stroke(head, np.concatenate([start, (start + end) / 2 + (0, 0.01), end]), M.LASH, 1.3, 0, 0.9)
    u = np.linspace(-0.1, 0.93, 10)
    d.stroke(head, eye.put(u, eye.lower(u) + 0.005), M.LASH, 0.9, 0.6, 0.2)
    u = np.linspace(-0.7, 0.75, 10)
    d.stroke(head, eye.put(u, eye.upper(u) - 0.1 - 0.02 * u), M.SKIN, 0.6, 0.35, 0.35)
