"""Head, ears, brows, nose and mouth, in head coordinates: x -1..1 over the face's width, chin at y = 1.1."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from .eye import EYE_Y, draw_eye
from .geometry import arc, closed_spline, ellipse, quads
from .materials import Material, Tone
from .scene import Scene

M = Material


def outline(scene: Scene) -> np.ndarray:
    """Closed outline of the face."""
    lay = scene.layout
    j, c, s = lay.jaw, 1.1 * lay.chin, np.sin(lay.turn)
    right = [
        (0.86, -0.9),
        (1.0, -0.35),
        (0.985, 0.12),
        (0.9 * (0.5 + 0.5 * j), 0.46),
        (0.6 * j, 0.82),
        (0.24 * j, c - 0.055),
    ]
    points = np.array([(0, -1.25), *right, (0, c), *[(-x, y) for x, y in reversed(right)]])
    lower = np.clip((points[:, 1] + 0.2) / (c + 0.2), 0, 1)
    points[:, 0] += s * (0.03 + 0.36 * lower**1.3)
    far = points[:, 0] * s > 0
    points[far, 0] *= 1 - 0.13 * abs(s)
    return closed_spline(points, 6)


def draw_ears(scene: Scene) -> None:
    """Human or elf ears; they end up behind the head."""
    lay, d = scene.layout, scene.drawing
    if lay.ears not in ("human", "elf", "horns"):
        return
    for side in (-1, 1):
        x = side * 1.0 * np.cos(lay.turn) - 0.1 * np.sin(lay.turn)
        if lay.ears == "elf":
            tip = (x + side * 0.72, -0.22)
            d.fill(
                scene.head,
                quads(
                    (x - side * 0.12, 0.05),
                    ((x + side * 0.3, -0.1), tip),
                    ((x + side * 0.4, 0.35), (x - side * 0.1, 0.46)),
                ),
                M.SKIN,
                0.5,
            )
            d.stroke(
                scene.head,
                quads((x + side * 0.05, 0.12), ((x + side * 0.25, 0.02), (x + side * 0.42, -0.08))),
                M.SKIN,
                0.6,
                end=0.5,
            )
        else:
            d.fill(scene.head, ellipse(x + side * 0.03, 0.27, 0.16, 0.25, side * 0.2), M.SKIN, 0.4)
            d.stroke(
                scene.head,
                arc(x + side * 0.05, 0.25, 0.09, 0.15, -2.4 if side > 0 else -0.7, 0.7 if side > 0 else -3.8, 10),
                M.SKIN,
                0.6,
                end=0.6,
            )
        if lay.earrings:
            d.fill(scene.head, ellipse(x + side * 0.06, 0.6, 0.07, 0.1), M.ACCESSORY, 0.4, 0.8)


def draw_head(scene: Scene) -> None:
    """The face's skin and the shadow it throws on the neck."""
    d = scene.drawing
    shape = outline(scene)
    d.patch(scene.head, shape + (0.0, 0.2), (M.SKIN,), Tone.SHADE)
    d.fill(scene.head, shape, M.SKIN, 0.75)
    for side in (-1, 1):
        for size, tone in ((1.0, Tone.BLUSH), (0.68, Tone.BLUSH_DEEP)):
            cheek = ellipse(side * 0.58, 0.56, 0.2 * size, 0.1 * size)
            d.patch(scene.head, scene.on_face(cheek), (M.SKIN,), tone)


def draw_features(scene: Scene) -> None:
    """Nose, mouth, brows, eyes."""
    _nose(scene)
    scene.drawing.begin("mouth")
    _mouth(scene)
    for side in (-1, 1):
        scene.drawing.begin("eye" if side == 1 else "other eye")
        draw_eye(scene, side)
        _brow(scene, side)


def _nose(scene: Scene) -> None:
    y = 0.58 + scene.layout.pitch
    lean = 0.05 * np.sign(scene.layout.turn)
    line = quads((0.02 + lean, y - 0.05), ((0.05 + lean, y + 0.02), (-0.02 + lean, y + 0.04)), steps=4)
    scene.drawing.stroke(scene.head, scene.on_face(line), M.SKIN, 0.75, 0.5, 0.3)


def _mouth(scene: Scene) -> None:
    lay, d = scene.layout, scene.drawing
    y, w = 0.8 + lay.pitch * 0.9, 0.17 * lay.mouth_size

    def put(points: ArrayLike) -> np.ndarray:
        return scene.on_face(np.asarray(points, float) + (0, y))

    kind = lay.mouth
    if kind in ("open", "grin"):
        depth = 0.2 * lay.mouth_size if kind == "open" else 0.13
        shape = quads((-w, 0), ((0, -0.045), (w, 0)), ((w * 0.8, depth), (0, depth)), ((-w * 0.8, depth), (-w, 0)))
        d.fill(scene.head, put(shape), M.MOUTH, 0, 0.85)
        teeth = quads(
            (-w * 0.8, 0.005),
            ((0, -0.04), (w * 0.8, 0.005)),
            ((0, depth * (1.0 if kind == "grin" else 0.45)), (-w * 0.8, 0.005)),
            steps=5,
        )
        if kind == "grin" or scene.layout.detail_seed % 2:
            d.fill(scene.head, put(teeth), M.TEETH, 0, 0.0)
        else:
            d.patch(scene.head, put(ellipse(0, depth, w * 0.5, depth * 0.45)), (M.MOUTH,), Tone.LIGHT)
        d.stroke(scene.head, put(quads((-w * 1.12, -0.01), ((0, -0.05), (w * 1.12, -0.01)))), M.MOUTH, 1.0, 0.3, 0.3)
        return
    if kind == "small_o":
        d.fill(scene.head, put(ellipse(0, 0.02, w * 0.4, 0.07 * lay.mouth_size)), M.MOUTH, 0, 0.85)
        return
    paths = {
        "smile": quads((-w, -0.02), ((0, 0.1), (w, -0.02))),
        "cat": quads((-w, -0.02), ((-w * 0.5, 0.1), (0, 0.0)), ((w * 0.5, 0.1), (w, -0.02))),
        "flat": quads((-w * 0.8, 0), ((0, 0.015), (w * 0.8, 0))),
        "pout": quads((-w * 0.6, 0.02), ((0, -0.07), (w * 0.6, 0.02))),
        "frown": quads((-w * 0.8, 0.03), ((0, -0.05), (w * 0.8, 0.03))),
    }
    d.stroke(scene.head, put(paths[kind]), M.MOUTH, 1.0, 0.25, 0.25)
    if kind in ("smile", "pout", "flat"):
        d.stroke(scene.head, put(quads((-0.05, 0.12), ((0, 0.135), (0.05, 0.12)), steps=3)), M.SKIN, 0.5, 0.4, 0.4)


def _brow(scene: Scene, side: int) -> None:
    lay = scene.layout
    y = EYE_Y + lay.pitch - lay.eye_height - 0.2 - lay.brow_raise
    t = lay.brow_tilt
    line = quads((side * 0.22, y + t * 0.6 + 0.02), ((side * 0.5, y - 0.09), (side * 0.74, y - t * 0.4 + 0.03)))
    scene.drawing.stroke(scene.head, scene.on_face(line), M.LASH, 1.5, 0.3, 0.8)
