"""Neck, torso, arms and what several garments share.

Body coordinates: origin at the base of the neck, y down, shoulders at y ~ 0.4, unit = half the width of the face.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from .geometry import arc, capsule, closed_spline, ellipse, open_spline, quads
from .materials import Material, Tone
from .scene import Scene

M = Material
BOTTOM = 7.0
"""Garments end here, far below any picture."""

BEFORE_FACE = np.array([(1.3, 2.1), (0.5, -0.45)])
"""Elbow and wrist of a hand raised before the face."""


def shoulder(scene: Scene) -> float:
    """Half the width of the shoulders."""
    return 1.28 * scene.layout.shoulder_width


def torso(scene: Scene, pad: float = 0.0, neck: float = 0.42, top: float = -0.02) -> np.ndarray:
    """Closed outline of a garment's body from the neckline to below the picture."""
    w = shoulder(scene) + pad
    right = open_spline(
        [
            (neck, top),
            (neck + 0.3, 0.12 - pad * 0.4),
            (w - 0.18, 0.3 - pad * 0.3),
            (w, 0.62),
            (w * 0.93, 1.5),
            (w * 0.84, 2.6),
            (w * 0.98, 4.2),
            (w * 1.15, BOTTOM),
        ]
    )
    neckline = quads((-neck, top), ((0, top + 0.38), (neck, top)), steps=8)
    return np.concatenate([neckline, right, np.stack([-right[::-1, 0], right[::-1, 1]], 1)])


def sleeves(scene: Scene, material: Material, pad: float = 0.0, length: float = BOTTOM) -> None:
    """Arms hanging down at both sides."""
    w = shoulder(scene) + pad
    d, body = scene.drawing, scene.body
    for side in (-1, 1):
        outer = open_spline([(w - 0.42, 0.22), (w - 0.05, 0.4), (w + 0.16, 1.0), (w + 0.26, 2.2), (w + 0.3, BOTTOM)])
        inner = open_spline([(w - 0.22, BOTTOM), (w - 0.26, 2.2), (w - 0.32, 1.2)])
        if length < BOTTOM:
            outer, inner = outer[outer[:, 1] < length] + (0.05, 0), inner[inner[:, 1] < length - 0.08]
            ends = [(np.interp(length, outer[:, 1], outer[:, 0]), length), (inner[0, 0] - 0.02, length - 0.06)]
            outer = np.concatenate([outer, ends])
        shape = np.concatenate([outer, inner])
        d.fill(body, shape * (side, 1), material, 0.8)
        d.stroke(body, np.array([(w - 0.1, 1.1), (w - 0.02, 1.35)]) * (side, 1), material, 0.6, 0.5, 0.5)


def bare_arms(scene: Scene) -> None:
    """Arms without sleeves, a little thinner."""
    sleeves(scene, M.SKIN, -0.12)


def draw_body(scene: Scene) -> None:
    """Neck and chest."""
    d, body = scene.drawing, scene.body
    chest = closed_spline(
        [
            (-0.3, -1.0),
            (0.3, -1.0),
            (0.3, -0.15),
            (0.5, 0.08),
            (1.0, 0.3),
            (0.9, 1.2),
            (0, 1.7),
            (-0.9, 1.2),
            (-1.0, 0.3),
            (-0.5, 0.08),
            (-0.3, -0.15),
        ]
    )
    d.fill(body, chest, M.SKIN, 0.4, 0.9)
    for side in (-1, 1):
        d.stroke(body, quads((side * 0.12, 0.28), ((side * 0.35, 0.22), (side * 0.62, 0.24))), M.SKIN, 0.6, 0.3, 0.5)


def draw_arms(scene: Scene) -> None:
    """A raised or folded arm in front of everything."""
    lay, d, body = scene.layout, scene.drawing, scene.body
    if lay.arms == "down":
        return
    side = 1 if lay.detail_seed % 2 else -1
    sleeve = {"tshirt": M.SKIN, "dress": M.SKIN, "armour": M.CLOTHES_SECOND}.get(lay.clothes, M.CLOTHES_MAIN)
    w = shoulder(scene)
    if lay.arms == "wave":
        raised = scene.gesture.hand
        elbow, wrist = np.array([w + 0.35, 2.6]), np.array([w + 0.5, 0.75])
        elbow, wrist = elbow + raised * (BEFORE_FACE[0] - elbow), wrist + raised * (BEFORE_FACE[1] - wrist)
        angle = -0.1 - 0.25 * raised
    else:
        elbow, wrist = np.array([w + 0.25, 2.9]), np.array([0.5, 1.95])
        angle = -1.0
    flip = np.array([side, 1])
    d.fill(body, capsule(elbow, wrist, 0.42, 0.27) * flip, sleeve, 1.0)
    c, s = np.cos(angle), np.sin(angle)
    turn = np.array([[c, s], [-s, c]])

    def hand(points: ArrayLike) -> np.ndarray:
        return (np.asarray(points, float) @ turn + wrist) * flip

    fingers = [(-0.2, -0.78, -0.3), (-0.07, -0.92, -0.1), (0.07, -0.9, 0.1), (0.2, -0.76, 0.32)]
    for x, y, tip in fingers:
        d.fill(body, hand(capsule((x, -0.4), (x + tip * 0.35, y), 0.085, 0.07)), M.SKIN, 0.4, 0.8)
    d.fill(body, hand(capsule((-0.16, -0.2), (-0.46, -0.46), 0.1, 0.08)), M.SKIN, 0.4, 0.8)
    palm = closed_spline(
        [(-0.2, 0.02), (0.2, 0.02), (0.28, -0.25), (0.24, -0.48), (0, -0.52), (-0.25, -0.48), (-0.28, -0.2)]
    )
    d.fill(body, hand(palm), M.SKIN, 0.4, 0)
    d.stroke(body, hand(quads((0.27, -0.42), ((0.3, -0.2), (0.2, 0.02)))), M.SKIN, 0.8)
    d.stroke(body, hand(quads((-0.2, -0.16), ((-0.24, -0.05), (-0.2, 0.02)))), M.SKIN, 0.8)
    d.stroke(body, hand(arc(0.0, -0.3, 0.14, 0.1, 0.2, 2.6, 8)), M.SKIN, 0.5, 0.4, 0.4)
    cuff = capsule((-0.2, 0.06), (0.2, 0.06), 0.12, 0.12)
    if sleeve != M.SKIN:
        d.fill(body, hand(cuff), M.CLOTHES_SECOND, 0.3)


def folds(scene: Scene, material: Material) -> None:
    """Creases under the arms and at the waist."""
    d, body, w = scene.drawing, scene.body, shoulder(scene)
    for side in (-1, 1):
        d.stroke(
            body,
            quads((side * (w - 0.3), 0.95), ((side * (w - 0.5), 1.2), (side * (w - 0.75), 1.3))),
            material,
            0.65,
            0.1,
            0.6,
        )
        d.stroke(
            body,
            quads((side * (w - 0.36), 1.9), ((side * (w - 0.6), 2.2), (side * (w - 0.55), 2.5))),
            material,
            0.6,
            0.3,
            0.6,
        )
        shade = quads(
            (side * (w - 0.3), 0.9),
            ((side * (w - 0.5), 1.3), (side * (w - 0.85), 1.38)),
            ((side * (w - 0.5), 1.5), (side * (w - 0.34), 2.0)),
        )
        d.patch(body, shade, (material,), Tone.SHADE)


def bow(scene: Scene, y: float, size: float, material: Material) -> None:
    """A bow on the chest, its knot at height y."""
    d, body = scene.drawing, scene.body
    for side in (-1, 1):
        d.fill(
            body,
            np.array([(0.02, y + 0.05), (0.3 * size, y + 0.95 * size), (0.05 * size, y + 0.85 * size)]) * (side, 1),
            material,
            0.4,
        )
    for side in (-1, 1):
        loop = quads(
            (0, y),
            ((0.2 * size, y - 0.36 * size), (0.56 * size, y - 0.26 * size)),
            ((0.66 * size, y + 0.05), (0.52 * size, y + 0.26 * size)),
            ((0.2 * size, y + 0.26 * size), (0, y + 0.04)),
        )
        d.fill(body, loop * (side, 1), material, 0.6)
        d.stroke(body, np.array([(0.12 * size, y), (0.36 * size, y - 0.04)]) * (side, 1), material, 0.6, 0, 0.7)
    d.fill(body, ellipse(0, y + 0.02, 0.12 * size, 0.13 * size), material, 0.5)
