"""Head, ears, eyes, brows, nose and mouth, in head coordinates: x -1..1 over the face's width, chin at y = 1.1."""

from __future__ import annotations

import numpy as np

from .geometry import arc, closed_spline, ellipse, quads
from .materials import Material, Tone

M = Material
EYE_X, EYE_Y = 0.45, 0.2


def outline(scene) -> np.ndarray:
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


def draw_ears(scene) -> None:
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


def draw_head(scene) -> None:
    """The face's skin and the shadow it throws on the neck."""
    d = scene.drawing
    shape = outline(scene)
    d.patch(scene.head, shape + (0.0, 0.2), (M.SKIN,), Tone.SHADE)
    d.fill(scene.head, shape, M.SKIN, 0.75)
    for side in (-1, 1):
        for size, tone in ((1.0, Tone.BLUSH), (0.68, Tone.BLUSH_DEEP)):
            cheek = ellipse(side * 0.58, 0.56, 0.2 * size, 0.1 * size)
            d.patch(scene.head, scene.on_face(cheek), (M.SKIN,), tone)


def draw_features(scene) -> None:
    """Nose, mouth, brows, eyes."""
    _nose(scene)
    _mouth(scene)
    for side in (-1, 1):
        _eye(scene, side)
        _brow(scene, side)


def _nose(scene) -> None:
    y = 0.58 + scene.layout.pitch
    lean = 0.05 * np.sign(scene.layout.turn)
    line = quads((0.02 + lean, y - 0.05), ((0.05 + lean, y + 0.02), (-0.02 + lean, y + 0.04)), steps=4)
    scene.drawing.stroke(scene.head, scene.on_face(line), M.SKIN, 0.75, 0.5, 0.3)


def _mouth(scene) -> None:
    lay, d = scene.layout, scene.drawing
    y, w = 0.8 + lay.pitch * 0.9, 0.17 * lay.mouth_size

    def put(points):
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


def _brow(scene, side: int) -> None:
    lay = scene.layout
    y = EYE_Y + lay.pitch - lay.eye_height - 0.2 - lay.brow_raise
    t = lay.brow_tilt
    line = quads((side * 0.22, y + t * 0.6 + 0.02), ((side * 0.5, y - 0.09), (side * 0.74, y - t * 0.4 + 0.03)))
    scene.drawing.stroke(scene.head, scene.on_face(line), M.LASH, 1.5, 0.3, 0.8)


_SLANT = {"round": 0.0, "upturned": -0.07, "drooping": 0.06, "sleepy": 0.03, "wide": -0.02}
_UPPER = {"round": 1.0, "upturned": 0.94, "drooping": 0.96, "sleepy": 0.68, "wide": 1.08}
_LOWER = {"round": 0.86, "upturned": 0.72, "drooping": 0.86, "sleepy": 0.85, "wide": 0.96}


def _eye(scene, side: int) -> None:
    """One eye. The lids are functions of s = -1 (inner corner) .. 1 (outer corner), so the iris is cut exactly."""
    lay, d, head = scene.layout, scene.drawing, scene.head
    w, h = lay.eye_width, lay.eye_height
    slant = _SLANT[lay.eyes]
    cx, cy = side * EYE_X, EYE_Y + lay.pitch

    def upper(s):
        return -h * _UPPER[lay.eyes] * np.maximum(1 - np.abs(s - 0.06) ** 2.3 / 1.13, 0) ** 0.62 + slant * s

    def lower(s):
        return h * _LOWER[lay.eyes] * (1 - np.abs(s) ** 2.6) ** 0.8 + slant * s

    def put(s, y):
        return scene.on_face(np.stack([cx + side * w * np.asarray(s, float), cy + np.asarray(y, float)], axis=1))

    s = np.sin(np.linspace(-1, 1, 25) * np.pi / 2) * 0.995
    if lay.wink and side == 1:
        lid = put(s, 0.12 + 0.1 * (1 - s**2) * (1 if lay.mouth_size > 1 else -1))
        d.stroke(head, lid, M.LASH, 2.2, 0.25, 0.2)
        return
    white = np.concatenate([put(s, upper(s)), put(s[::-1], lower(s[::-1]))])
    d.fill(head, white, M.EYE_WHITE, 0, 0)
    d.patch(
        head, np.concatenate([put(s, upper(s) - 0.02), put(s[::-1], upper(s[::-1]) + 0.12)]), (M.EYE_WHITE,), Tone.SHADE
    )

    iris, pupil = (M.IRIS_A, M.PUPIL_A) if side == 1 else (M.IRIS_B, M.PUPIL_B)
    gx = lay.gaze_x * side - 0.04
    gy = lay.gaze_y * 0.5 - 0.005
    rx, ry = 0.69, h * 0.99

    def clipped(points):
        p = np.asarray(points, float)
        x = np.clip(p[:, 0], -0.99, 0.99)
        return put(x, np.clip(p[:, 1], upper(x), lower(x)))

    rim = ellipse(gx, gy, rx, ry, steps=40)
    d.fill(head, clipped(rim), iris, 0, 0.8)
    rows = head(put([0, 0], [max(gy - ry, upper(0.0)), min(gy + ry, lower(0.0))]))[:, 1]
    d.gradients[iris] = (float(rows[0]), float(rows[1]))
    d.fill(head, clipped(ellipse(gx, gy + 0.01, rx * 0.42, ry * 0.46)), pupil, 0, 0.5, ink=True)
    d.patch(head, clipped(ellipse(gx, gy + ry * 0.62, rx * 0.55, ry * 0.26)), (iris,), Tone.LIGHT)
    light = 1 if not lay.mirrored else -1
    d.fill(
        head,
        clipped(ellipse(gx - side * light * rx * 0.38, gy - ry * 0.4, rx * 0.3, ry * 0.25)),
        M.CATCH_LIGHT,
        0,
        0.45,
    )
    d.fill(
        head, clipped(ellipse(gx + side * light * rx * 0.36, gy + ry * 0.45, rx * 0.15, ry * 0.12)), M.CATCH_LIGHT, 0, 0
    )

    t = np.linspace(-0.98, 1.0, 22)
    thick = 0.03 + 0.052 * ((t + 1) / 2)
    top = np.concatenate([upper(t[:-1]) - thick[:-1], [slant - 0.09]])
    under = upper(np.clip(t, -0.995, 0.995)) + 0.012
    flick = put([1.2], [slant - 0.11 + (0.05 if lay.eyes == "drooping" else 0)])
    lash = np.concatenate([put(t, top), flick, put(t[::-1], under[::-1])])
    d.fill(head, lash, M.LASH, 0, 0.35, ink=True)
    if lay.lashes:
        for at, size in ((0.72, 0.13), (0.9, 0.16)):
            start = put([at], [upper(at) - 0.03])
            end = put([at + 0.32], [upper(at) - size + 0.02])
            d.stroke(head, np.concatenate([start, (start + end) / 2 + (0, 0.01), end]), M.LASH, 1.3, 0, 0.9)
    u = np.linspace(-0.1, 0.93, 10)
    d.stroke(head, put(u, lower(u) + 0.005), M.LASH, 0.9, 0.6, 0.2)
    u = np.linspace(-0.7, 0.75, 10)
    d.stroke(head, put(u, upper(u) - 0.1 - 0.02 * u), M.SKIN, 0.6, 0.35, 0.35)
