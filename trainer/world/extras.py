"""Animal ears, horns, headwear, ribbons and glasses, in head coordinates."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from .geometry import arc, capsule, closed_spline, ellipse, quads
from .materials import Material, Tone
from .scene import Scene

M = Material


def behind(scene: Scene) -> None:
    """What is partly hidden by the hair: rabbit ears, the brim of a hat, loops of a bow."""
    lay, d, head = scene.layout, scene.drawing, scene.head
    if lay.ears == "rabbit":
        for side in (-1, 1):
            d.fill(head, ellipse(side * 0.52, -1.95, 0.24, 0.85, side * 0.2), M.HAIR, 0.6)
            d.fill(head, ellipse(side * 0.52, -1.95, 0.12, 0.62, side * 0.2), M.INNER_EAR, 0, 0.7)
    if lay.headwear == "witch":
        d.fill(head, ellipse(0, -0.95, 2.0, 0.5), M.ACCESSORY_SECOND, 0.3)


def in_front(scene: Scene) -> None:
    """What sits on top of the hair."""
    lay = scene.layout
    if lay.ears in ("cat", "fox") and lay.headwear not in ("witch", "cap", "beret"):
        _animal_ears(scene)
    elif lay.ears == "horns":
        _horns(scene)
    if lay.headwear != "none":
        _HEADWEAR[lay.headwear](scene)
    if lay.back_hair == "twin_tails" and lay.headwear != "witch":
        for side in (-1, 1):
            _knot(scene, side * 0.98, -0.72, 0.62, side * 0.5)
    if lay.glasses:
        _glasses(scene)


def _animal_ears(scene: Scene) -> None:
    d, head, v = scene.drawing, scene.head, scene.layout.hair_volume
    tall = 0.75 if scene.layout.ears == "cat" else 1.0
    for side in (-1, 1):
        a, b, tip = (0.32, -1.22 - v), (1.0 + v * 0.5, -0.72), (0.95, -1.35 - tall * 0.62)
        outer = quads(a, ((0.52, -1.6 - v), tip), ((1.12, -1.3), b), ((0.7, -0.85), a))
        d.fill(head, outer * (side, 1), M.HAIR, 0.6)
        ia, ib, it = (0.5, -1.2 - v), (0.9, -0.95), (0.9, -1.2 - tall * 0.55)
        d.fill(
            head,
            quads(ia, ((0.6, -1.5 - v), it), ((1.0, -1.25), ib), ((0.75, -1.12), ia)) * (side, 1),
            M.INNER_EAR,
            0,
            0.7,
        )


def _horns(scene: Scene) -> None:
    for side in (-1, 1):
        shape = quads(
            (0.45, -1.2), ((0.62, -1.75), (1.15, -1.95)), ((0.95, -1.5), (0.85, -1.0)), ((0.62, -1.0), (0.45, -1.2))
        )
        scene.drawing.fill(scene.head, shape * (side, 1), M.ACCESSORY, 0.8)
        for t in (0.35, 0.6):
            scene.drawing.stroke(
                scene.head,
                np.array([(0.48 + 0.25 * t, -1.25 - 0.6 * t), (0.86 + 0.12 * t, -1.1 - 0.55 * t)]) * (side, 1),
                M.ACCESSORY,
                0.6,
            )


def _knot(scene: Scene, x: float, y: float, size: float, angle: float) -> None:
    """A bow at (x, y), turned by angle."""
    d, head = scene.drawing, scene.head
    c, s = np.cos(angle), np.sin(angle)

    def put(points: ArrayLike) -> np.ndarray:
        p = np.asarray(points, float) * size
        return np.stack([x + p[:, 0] * c - p[:, 1] * s, y + p[:, 0] * s + p[:, 1] * c], 1)

    for side in (-1, 1):
        d.fill(
            head,
            put(np.array([(0.05, 0.08), (0.5, 0.75), (0.3, 0.78), (0.2, 0.95), (-0.02, 0.15)]) * (side, 1)),
            M.ACCESSORY,
            0.4,
        )
        loop = quads((0, 0), ((0.25, -0.55), (0.72, -0.42)), ((0.86, 0.0), (0.7, 0.38)), ((0.25, 0.38), (0, 0.05)))
        d.fill(head, put(loop * (side, 1)), M.ACCESSORY, 0.6)
        d.stroke(head, put(np.array([(0.16, -0.02), (0.46, -0.08)]) * (side, 1)), M.ACCESSORY, 0.6, 0, 0.7)
    d.fill(head, put(ellipse(0, 0.02, 0.16, 0.17)), M.ACCESSORY_SECOND, 0.4)


def _ribbon(scene: Scene) -> None:
    side = 1 if scene.layout.detail_seed % 2 else -1
    _knot(scene, side * 0.78, -1.02, 0.62, side * 0.6)


def _bow_top(scene: Scene) -> None:
    _knot(scene, 0, -1.42 - scene.layout.hair_volume, 1.0, 0.0)


def _beret(scene: Scene) -> None:
    d, head, v = scene.drawing, scene.head, scene.layout.hair_volume
    side = 1 if scene.layout.detail_seed % 2 else -1
    shape = closed_spline(
        [
            (-1.05 - v, -0.82),
            (-1.3 - v, -1.25),
            (-0.7, -1.72 - v),
            (0.5, -1.7 - v),
            (1.1, -1.25),
            (0.98, -0.92),
            (0, -1.08),
        ]
    )
    d.fill(head, shape * (side, 1), M.ACCESSORY, 1.0)
    d.fill(head, capsule((-0.25 * side, -1.72 - v), (-0.2 * side, -1.9 - v), 0.05, 0.05), M.ACCESSORY)
    d.stroke(head, quads((-0.9, -1.1), ((-0.5, -1.35), (0.2, -1.4))) * (side, 1), M.ACCESSORY, 0.6, 0.3, 0.6)


def _witch(scene: Scene) -> None:
    d, head, v = scene.drawing, scene.head, scene.layout.hair_volume
    cone = quads(
        (-1.12 - v, -0.85),
        ((-0.8, -1.5), (-0.35, -2.4)),
        ((0.1, -2.75), (0.75, -2.5)),
        ((0.35, -2.3), (0.45, -2.0)),
        ((0.9, -1.4), (1.12 + v, -0.85)),
        ((0, -0.5), (-1.12 - v, -0.85)),
        steps=8,
    )
    d.fill(head, cone, M.ACCESSORY, 1.0)
    band = quads(
        (-1.1 - v, -0.95),
        ((0, -0.62), (1.1 + v, -0.95)),
        ((1.05 + v, -1.1), (0.98 + v, -1.22)),
        ((0, -0.92), (-0.98 - v, -1.22)),
    )
    d.fill(head, band, M.ACCESSORY_SECOND, 0.4)
    brim = np.concatenate(
        [
            arc(0, -0.95, 2.0, 0.5, np.pi * 0.97, np.pi * 0.03, 30),
            quads((1.15 + v, -0.88), ((0, -0.52), (-1.15 - v, -0.88))),
        ]
    )
    d.patch(head, brim + (0, 0.16), (M.HAIR, M.SKIN), Tone.SHADE)
    d.fill(head, brim, M.ACCESSORY, 0.3)


def _cap(scene: Scene) -> None:
    d, head, v = scene.drawing, scene.head, scene.layout.hair_volume
    dome = np.concatenate(
        [
            arc(0, -0.72, 1.14 + v, 0.88 + v, np.pi, 2 * np.pi, 20),
            quads((1.14 + v, -0.72), ((0, -1.0), (-1.14 - v, -0.72))),
        ]
    )
    d.fill(head, dome, M.ACCESSORY, 1.0)
    d.stroke(head, [(0, -0.86), (0, -1.58 - v)], M.ACCESSORY, 0.6)
    for side in (-1, 1):
        d.stroke(head, quads((side * 0.6, -0.8), ((side * 0.5, -1.3), (0, -1.58 - v))), M.ACCESSORY, 0.6)
    x = scene.shift * 0.6
    brim = quads(
        (-0.92 + x, -0.8),
        ((x, -1.12), (0.92 + x, -0.8)),
        ((0.8 + x, -0.48), (x, -0.46)),
        ((-0.8 + x, -0.48), (-0.92 + x, -0.8)),
    )
    d.patch(head, brim + (0, 0.12), (M.HAIR, M.SKIN), Tone.SHADE)
    d.fill(head, brim, M.ACCESSORY_SECOND, 0.4)


def _headband(scene: Scene) -> None:
    d, head, v = scene.drawing, scene.head, scene.layout.hair_volume
    outer = arc(0, -0.32, 1.13 + v, 1.08 + v, np.pi * 1.08, np.pi * 1.92, 24)
    inner = arc(0, -0.2, 1.1 + v, 0.94 + v, np.pi * 1.92, np.pi * 1.08, 24)
    d.fill(head, np.concatenate([outer, inner]), M.ACCESSORY, 0.3)
    if scene.layout.detail_seed % 3 == 0:
        top = arc(0, -0.32, 1.13 + v, 1.08 + v, np.pi * 1.15, np.pi * 1.85, 9)
        frill = np.concatenate(
            [
                quads(
                    tuple(top[0]),
                    *[(tuple((a + b) / 2 * (1.2, 1.3)), tuple(b)) for a, b in zip(top[:-1], top[1:])],
                    steps=4,
                ),
                top[::-1],
            ]
        )
        d.fill(head, frill, M.ACCESSORY_SECOND, 0)


def _crown(scene: Scene) -> None:
    d, head, v = scene.drawing, scene.head, scene.layout.hair_volume
    y = -1.3 - v
    xs = np.linspace(-0.5, 0.5, 7)
    top = [(x * (1.15 if i % 2 == 0 else 1), y - (0.48 if i % 2 == 0 else 0.18)) for i, x in enumerate(xs)]
    d.fill(head, np.concatenate([top, quads((0.46, y + 0.05), ((0, y + 0.2), (-0.46, y + 0.05)))]), M.ACCESSORY, 0.5)
    for x in (-0.28, 0, 0.28):
        d.fill(head, ellipse(x, y - 0.02 + 0.05 * (x == 0), 0.07, 0.08, steps=12), M.ACCESSORY_SECOND, 0, 0.6)


def _headphones(scene: Scene) -> None:
    d, head, v = scene.drawing, scene.head, scene.layout.hair_volume
    outer = arc(0, -0.25, 1.2 + v, 1.22 + v, np.pi * 1.0, np.pi * 2.0, 24)
    inner = arc(0, -0.25, 1.1 + v, 1.1 + v, np.pi * 2.0, np.pi * 1.0, 24)
    d.fill(head, np.concatenate([outer, inner]), M.ACCESSORY_SECOND, 0.2)
    for side in (-1, 1):
        d.fill(head, ellipse(side * (1.1 + v * 0.7), 0.05, 0.26, 0.42), M.ACCESSORY, 0.7)
        d.fill(head, ellipse(side * (1.16 + v * 0.7), 0.05, 0.12, 0.22), M.ACCESSORY_SECOND, 0, 0.7)


def _flower(scene: Scene) -> None:
    d, head = scene.drawing, scene.head
    side = 1 if scene.layout.detail_seed % 2 else -1
    x, y = side * 0.82, -0.78
    for k in range(5):
        a = k * 2 * np.pi / 5 + 0.3
        d.fill(head, ellipse(x + 0.19 * np.cos(a), y + 0.19 * np.sin(a), 0.17, 0.13, a, 14), M.ACCESSORY, 0.3, 0.8)
    d.fill(head, ellipse(x, y, 0.1, 0.1, steps=12), M.ACCESSORY_SECOND, 0, 0.7)


def _clips(scene: Scene) -> None:
    side = 1 if scene.layout.detail_seed % 2 else -1
    for i in range(2):
        y = -0.55 - 0.2 * i
        shape = capsule((side * 0.62, y - 0.03), (side * 0.92, y + 0.1), 0.06, 0.06)
        scene.drawing.fill(scene.head, shape, M.ACCESSORY, 0, 0.8)


def _glasses(scene: Scene) -> None:
    d, lay = scene.drawing, scene.layout
    y = 0.24 + lay.pitch
    weight = 1.3 + 0.8 * (lay.detail_seed % 3 == 0)
    for side in (-1, 1):
        rim = ellipse(side * 0.46, y, 0.36, 0.34 if lay.detail_seed % 2 else 0.27, steps=30)
        rim = scene.on_face(np.concatenate([rim, rim[:1]]))
        d.stroke(scene.head, rim, M.ACCESSORY, weight)
        d.stroke(scene.head, scene.on_face([(side * 0.82, y), (side * 0.99, y - 0.06)]), M.ACCESSORY, weight * 0.8)
    d.stroke(scene.head, scene.on_face(arc(0, y, 0.1, 0.06, np.pi, 2 * np.pi, 6)), M.ACCESSORY, weight)


_HEADWEAR = {
    "ribbon": _ribbon,
    "bow_top": _bow_top,
    "beret": _beret,
    "witch": _witch,
    "cap": _cap,
    "headband": _headband,
    "crown": _crown,
    "headphones": _headphones,
    "flower": _flower,
    "clips": _clips,
}
