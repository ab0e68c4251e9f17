"""Garments, in body coordinates (see body.py)."""

from __future__ import annotations

import numpy as np

from .body import BOTTOM, bare_arms, bow, folds, shoulder, sleeves, torso
from .geometry import closed_spline, ellipse, open_spline, quads
from .materials import Material, Tone
from .scene import Scene

M = Material


def draw(scene: Scene) -> None:
    """The garment of the scene's layout."""
    _GARMENTS[scene.layout.clothes](scene)


def draw_behind(scene: Scene) -> None:
    """What lies behind the neck: hoods, high collars, capes."""
    d, body = scene.drawing, scene.body
    kind = scene.layout.clothes
    if kind == "hoodie":
        d.fill(
            body,
            closed_spline(
                [(-1.05, 0.35), (-0.95, -0.35), (-0.4, -0.62), (0.4, -0.62), (0.95, -0.35), (1.05, 0.35), (0, 0.7)]
            ),
            M.CLOTHES_INSIDE,
        )
    elif kind in ("cape", "armour") and scene.layout.clothes_variant % 2:
        d.fill(
            body,
            quads((-0.7, 0.3), ((-0.8, -0.3), (-1.05, -0.55)), ((0, 0.1), (1.05, -0.55)), ((0.8, -0.3), (0.7, 0.3))),
            M.CLOTHES_SECOND,
        )
    elif kind == "jacket":
        d.fill(
            body,
            quads((-0.6, 0.4), ((-0.62, -0.1), (-0.45, -0.3)), ((0, -0.1), (0.45, -0.3)), ((0.62, -0.1), (0.6, 0.4))),
            M.CLOTHES_INSIDE,
        )


def _sailor(scene: Scene) -> None:
    d, body, w = scene.drawing, scene.body, shoulder(scene)
    sleeves(scene, M.CLOTHES_MAIN)
    d.fill(body, torso(scene), M.CLOTHES_MAIN, 0.9)
    folds(scene, M.CLOTHES_MAIN)
    v = 1.15
    d.fill(body, np.array([(-0.4, 0), (0.4, 0), (0, v)]), M.SKIN, 0, 0)
    if scene.layout.clothes_variant < 2:
        d.fill(body, np.array([(-0.26, 0.5), (0.26, 0.5), (0, v)]), M.CLOTHES_SECOND, 0, 0.8)
    for side in (-1, 1):
        shape = quads(
            (0.34, -0.14),
            ((0.72, 0.0), (w * 0.84, 0.26)),
            ((w * 0.86, 0.6), (w * 0.7, 0.98)),
            ((0.45, 1.0), (0, v + 0.16)),
            ((0.34, 0.6), (0.34, -0.14)),
        )
        d.fill(body, shape * (side, 1), M.CLOTHES_SECOND, 0.6)
        inner = quads((w * 0.74, 0.32), ((w * 0.76, 0.58), (w * 0.62, 0.86)), ((0.45, 0.86), (0.1, v - 0.0)))
        band = np.concatenate([inner, (inner * (0.93, 0.95))[::-1]])
        d.fill(body, band * (side, 1), M.CLOTHES_TRIM, 0, 0.5)
    bow(scene, v + 0.12, 0.9, M.CLOTHES_TRIM)


def _hoodie(scene: Scene) -> None:
    d, body = scene.drawing, scene.body
    sleeves(scene, M.CLOTHES_MAIN, 0.1)
    d.fill(body, torso(scene, 0.1, 0.5, 0.05), M.CLOTHES_MAIN, 0.9)
    folds(scene, M.CLOTHES_MAIN)
    if scene.layout.clothes_variant % 2:
        d.fill(body, np.array([(-0.06, 0.4), (0.06, 0.4), (0.06, BOTTOM), (-0.06, BOTTOM)]), M.CLOTHES_TRIM, 0, 0.8)
    else:
        d.fill(
            body, closed_spline([(-0.4, 1.05), (0.4, 1.05), (0.42, 1.6), (0, 1.75), (-0.42, 1.6)]), M.CLOTHES_TRIM, 0.4
        )
    d.fill(body, closed_spline([(-0.72, 1.9), (0.72, 1.9), (0.98, 2.9), (-0.98, 2.9)]), M.CLOTHES_SECOND, 0.5)
    for side in (-1, 1):
        shape = quads(
            (0.46, -0.42),
            ((1.15, -0.2), (1.06, 0.35)),
            ((0.8, 0.82), (0.02, 0.84)),
            ((0.38, 0.5), (0.38, -0.1)),
            ((0.36, -0.3), (0.46, -0.42)),
        )
        d.fill(body, shape * (side, 1), M.CLOTHES_SECOND if scene.layout.clothes_variant > 1 else M.CLOTHES_MAIN, 0.7)
        d.stroke(body, quads((0.45, 0.15), ((0.42, 0.5), (0.15, 0.72))) * (side, 1), M.CLOTHES_MAIN, 0.6, 0.3, 0.5)
        cord = quads((0.2, 0.78), ((0.26, 1.0), (0.2, 1.35)), steps=5)
        d.fill(body, np.concatenate([cord, cord[::-1] + (0.06, 0)]) * (side, 1), M.CLOTHES_SECOND, 0, 0.7)


def _tshirt(scene: Scene) -> None:
    d, body, variant = scene.drawing, scene.body, scene.layout.clothes_variant
    bare_arms(scene)
    sleeves(scene, M.CLOTHES_SECOND if variant % 2 else M.CLOTHES_MAIN, 0.05, 1.9)
    d.fill(body, torso(scene, 0, 0.5, 0.03), M.CLOTHES_MAIN, 0.9)
    folds(scene, M.CLOTHES_MAIN)
    band = quads((-0.52, 0.0), ((0, 0.5), (0.52, 0.0)), steps=10)
    d.fill(body, np.concatenate([band, (band * (1.16, 1.0) + (0, 0.11))[::-1]]), M.CLOTHES_SECOND, 0.3)
    if variant == 0:
        t = np.arange(10) * np.pi / 5 - np.pi / 2
        r = np.where(np.arange(10) % 2 == 0, 0.46, 0.2)
        d.fill(body, np.stack([r * np.cos(t), 1.15 + r * np.sin(t)], 1), M.CLOTHES_TRIM, 0.3)
    elif variant == 1:
        heart = quads(
            (0, 1.55),
            ((-0.75, 1.05), (-0.3, 0.8)),
            ((-0.05, 0.78), (0, 0.98)),
            ((0.05, 0.78), (0.3, 0.8)),
            ((0.75, 1.05), (0, 1.55)),
        )
        d.fill(body, heart, M.CLOTHES_TRIM, 0.3)
    else:
        for y in (0.85, 1.25, 1.65, 2.05, 2.45) if variant == 2 else (1.0,):
            w = shoulder(scene) - 0.33
            h = 0.16 if variant == 2 else 0.42
            top = quads((-w, y), ((0, y + 0.14), (w, y)))
            material = M.CLOTHES_SECOND if variant == 2 and y in (1.25, 2.05) else M.CLOTHES_TRIM
            d.fill(body, np.concatenate([top, (top + (0, h))[::-1]]), material, 0, 0.8)


def _kimono(scene: Scene) -> None:
    d, body, w = scene.drawing, scene.body, shoulder(scene)
    for side in (-1, 1):
        shape = quads(
            (0.6, 0.15),
            ((w + 0.1, 0.2), (w + 0.45, 1.4)),
            ((w + 0.8, 2.6), (w + 0.7, BOTTOM)),
            ((w, 5), (w - 0.4, 1.2)),
        )
        d.fill(body, shape * (side, 1), M.CLOTHES_MAIN, 0.9)
    d.fill(body, torso(scene, -0.05), M.CLOTHES_MAIN, 0.8)
    folds(scene, M.CLOTHES_MAIN)
    if scene.layout.clothes_variant % 2:
        for _ in range(5):
            x, y = scene.rng.uniform(-1.2, 1.2), scene.rng.uniform(0.6, 1.9)
            for k in range(5):
                a = k * 2 * np.pi / 5
                d.fill(
                    body,
                    ellipse(x + 0.1 * np.cos(a), y + 0.1 * np.sin(a), 0.085, 0.085, steps=12),
                    M.CLOTHES_TRIM,
                    0,
                    0.6,
                )
    d.fill(body, np.array([(-0.38, -0.05), (0.38, -0.05), (0.04, 0.95)]), M.SKIN, 0, 0)
    for side in (-1, 1):
        tip = (-0.3, 1.75) if side == 1 else (0.04, 1.15)
        inner = quads((0.34, -0.2), ((0.3, 0.3), tip))
        outer = quads((0.62, 0.02), ((0.5, 0.6), (tip[0] + 0.12, tip[1] + 0.35)))
        d.fill(body, np.concatenate([inner, outer[::-1]]) * (side, 1), M.CLOTHES_SECOND, 0.4)
        middle = inner * 0.72 + outer * 0.28
        d.fill(body, np.concatenate([inner, middle[::-1]]) * (side, 1), M.CLOTHES_TRIM, 0, 0.6)
    obi = w * 0.88
    d.fill(
        body,
        quads((-obi, 2.0), ((0, 2.2), (obi, 2.0)), ((obi * 0.97, 2.4), (obi, 2.9)), ((0, 3.1), (-obi, 2.9))),
        M.CLOTHES_SECOND,
        0.5,
    )
    d.fill(
        body,
        quads((-obi, 2.36), ((0, 2.56), (obi, 2.36)), ((obi, 2.4), (obi, 2.5)), ((0, 2.7), (-obi, 2.5))),
        M.CLOTHES_TRIM,
        0,
        0.7,
    )


def _dress(scene: Scene) -> None:
    d, body, w, variant = scene.drawing, scene.body, shoulder(scene), scene.layout.clothes_variant
    bare_arms(scene)
    if variant < 2:
        for side in (-1, 1):
            d.fill(
                body,
                ellipse(side * (w - 0.1), 0.62, 0.48, 0.46, side * 0.5),
                M.CLOTHES_SECOND if variant else M.CLOTHES_MAIN,
                0.8,
            )
            d.fill(body, ellipse(side * (w + 0.04), 1.0, 0.36, 0.12, side * 0.2), M.CLOTHES_TRIM, 0.3)
    bodice = open_spline(
        [(0.5, 0.5), (w - 0.35, 0.62), (w - 0.34, 1.4), (w * 0.68, 2.3), (w * 1.0, 3.6), (w * 1.5, BOTTOM)]
    )
    neck = quads((-0.5, 0.5), ((-0.22, 0.78), (0, 0.62)), ((0.22, 0.78), (0.5, 0.5)))
    d.fill(body, np.concatenate([neck, bodice, (bodice * (-1, 1))[::-1]]), M.CLOTHES_MAIN, 0.9)
    for side in (-1, 1):
        strap = np.array([(0.42, 0.02), (0.62, 0.1), (0.66, 0.66), (0.44, 0.62)])
        d.fill(body, strap * (side, 1), M.CLOTHES_MAIN, 0.3)
    folds(scene, M.CLOTHES_MAIN)
    xs = np.linspace(-w + 0.38, w - 0.38, 8)
    frill = quads((xs[0], 0.62), *[(((a + b) / 2, 1.05), (b, 0.74)) for a, b in zip(xs[:-1], xs[1:])], steps=5)
    d.fill(body, np.concatenate([frill, quads((xs[-1], 0.62), ((0, 0.62), (xs[0], 0.62)))]), M.CLOTHES_SECOND, 0.3)
    d.fill(
        body,
        quads(
            (-w * 0.74, 2.1),
            ((0, 2.3), (w * 0.74, 2.1)),
            ((w * 0.7, 2.3), (w * 0.74, 2.5)),
            ((0, 2.7), (-w * 0.74, 2.5)),
        ),
        M.CLOTHES_TRIM,
        0.3,
    )
    if variant in (0, 3):
        bow(scene, 0.86, 0.55, M.CLOTHES_TRIM)
    if variant == 2:
        choker = quads((-0.33, -0.3), ((0, -0.12), (0.33, -0.3)))
        d.fill(body, np.concatenate([choker, (choker + (0, 0.14))[::-1]]), M.CLOTHES_TRIM)


def _jacket(scene: Scene) -> None:
    d, body, w, variant = scene.drawing, scene.body, shoulder(scene), scene.layout.clothes_variant
    d.fill(body, torso(scene, -0.1), M.CLOTHES_SECOND, 0.3)
    for side in (-1, 1):
        d.fill(
            body, np.array([(0.02, 0.42), (0.36, -0.22), (0.62, 0.2), (0.4, 0.72)]) * (side, 1), M.CLOTHES_SECOND, 0.4
        )
    if variant < 3:
        d.fill(
            body,
            np.array([(-0.13, 0.42), (0.13, 0.42), (0.1, 0.66), (0.24, 1.9), (0, 2.25), (-0.24, 1.9), (-0.1, 0.66)]),
            M.CLOTHES_TRIM,
            0.5,
        )
        d.stroke(body, [(-0.1, 0.66), (0.1, 0.66)], M.CLOTHES_TRIM, 0.8)
    sleeves(scene, M.CLOTHES_MAIN, 0.05)
    for side in (-1, 1):
        front = np.concatenate(
            [
                open_spline(
                    [
                        (0.42, -0.1),
                        (0.7, 0.1),
                        (w - 0.14, 0.3),
                        (w + 0.02, 0.7),
                        (w * 0.95, 1.6),
                        (w * 0.88, 2.6),
                        (w * 1.05, BOTTOM),
                    ]
                ),
                [(0.1, BOTTOM), (0.14, 2.4)],
            ]
        )
        d.fill(body, front * (side, 1), M.CLOTHES_MAIN, 0.7)
        lapel = np.array([(0.4, -0.12), (0.66, 0.12), (0.86, 0.75), (0.66, 0.82), (0.76, 1.02), (0.14, 2.35)])
        if variant != 2:
            d.fill(body, lapel * (side, 1), M.CLOTHES_MAIN if variant else M.CLOTHES_TRIM, 0.4)
        d.patch(
            body, np.array([(w - 0.3, 1.0), (w - 0.6, 1.5), (w - 0.3, 2.2)]) * (side, 1), (M.CLOTHES_MAIN,), Tone.SHADE
        )
    for y in (2.5, 3.1):
        d.fill(body, ellipse(0.02, y, 0.08, 0.08, steps=12), M.CLOTHES_TRIM, 0, 0.7)


def _armour(scene: Scene) -> None:
    d, body, w = scene.drawing, scene.body, shoulder(scene)
    sleeves(scene, M.CLOTHES_SECOND, -0.05)
    d.fill(body, torso(scene, -0.1, 0.36, -0.2), M.CLOTHES_SECOND, 0.6)
    plate = np.array([(0.3, 0.4), (0.75, 0.45), (w - 0.3, 0.85), (w - 0.32, 1.7), (w * 0.62, 2.3), (0, 2.6)])
    right = open_spline(plate)
    d.fill(body, np.concatenate([right, (right * (-1, 1))[::-1]]), M.CLOTHES_MAIN, 1.2)
    d.stroke(body, [(0, 0.5), (0, 2.6)], M.CLOTHES_MAIN, 0.8)
    for side in (-1, 1):
        d.stroke(
            body, quads((side * 0.12, 1.75), ((side * 0.6, 1.95), (side * (w - 0.4), 1.5))), M.CLOTHES_MAIN, 0.8, 0, 0.4
        )
        for i in (1, 0):
            shape = closed_spline(
                [
                    (w - 0.55, 0.25 + i * 0.45),
                    (w - 0.1, 0.08 + i * 0.45),
                    (w + 0.36, 0.5 + i * 0.42),
                    (w + 0.38, 0.95 + i * 0.4),
                    (w - 0.1, 0.85 + i * 0.45),
                ]
            )
            d.fill(body, shape * (side, 1), M.CLOTHES_MAIN, 1.0)
            rim = quads((w + 0.4, 0.85 + i * 0.4), ((w + 0.1, 1.0 + i * 0.45), (w - 0.3, 0.75 + i * 0.45)))
            d.fill(body, np.concatenate([rim, (rim + (-0.02, -0.12))[::-1]]) * (side, 1), M.CLOTHES_TRIM, 0, 0.7)
    collar = quads((-0.5, 0.3), ((0, 0.62), (0.5, 0.3)))
    d.fill(body, np.concatenate([collar, quads((0.42, -0.1), ((0, 0.2), (-0.42, -0.1)))]), M.CLOTHES_TRIM, 0.5)
    d.fill(body, ellipse(0, 0.85, 0.17, 0.22), M.ACCESSORY, 0.5)


def _sweater(scene: Scene) -> None:
    d, body, w, variant = scene.drawing, scene.body, shoulder(scene), scene.layout.clothes_variant
    sleeves(scene, M.CLOTHES_MAIN, 0.08)
    d.fill(body, torso(scene, 0.06), M.CLOTHES_MAIN, 0.9)
    folds(scene, M.CLOTHES_MAIN)
    for y, h, material in ((1.05, 0.34, M.CLOTHES_SECOND), (1.55, 0.12, M.CLOTHES_TRIM)):
        x = w - 0.28
        top = quads((-x, y), ((0, y + 0.12), (x, y)), steps=10)
        if variant == 1 and material == M.CLOTHES_SECOND:
            zig = np.stack([np.linspace(-x, x, 15), y + 0.05 + 0.13 * (np.arange(15) % 2)], 1)
            d.fill(body, np.concatenate([zig, (zig + (0, 0.26))[::-1]]), material, 0, 0.8)
        else:
            d.fill(body, np.concatenate([top, (top + (0, h))[::-1]]), material, 0, 0.8)
    if variant % 2 == 0:
        collar = quads(
            (-0.42, -0.42),
            ((0, -0.22), (0.42, -0.42)),
            ((0.5, -0.1), (0.56, 0.16)),
            ((0, 0.5), (-0.56, 0.16)),
            ((-0.5, -0.1), (-0.42, -0.42)),
        )
        d.fill(body, collar, M.CLOTHES_SECOND, 0.6)
        for x in (-0.28, -0.1, 0.1, 0.28):
            d.stroke(body, [(x * 0.9, -0.2 - abs(x) * 0.2), (x * 1.15, 0.16)], M.CLOTHES_SECOND, 0.5, 0.4, 0.4)
    else:
        for side in (-1, 1):
            d.fill(
                body,
                quads(
                    (0.02, 0.34),
                    ((0.25, 0.1), (0.36, -0.2)),
                    ((0.6, 0.0), (0.72, 0.3)),
                    ((0.5, 0.6), (0.3, 0.7)),
                    ((0.15, 0.5), (0.02, 0.34)),
                )
                * (side, 1),
                M.CLOTHES_SECOND,
                0.5,
            )


def _cape(scene: Scene) -> None:
    d, body, w = scene.drawing, scene.body, shoulder(scene)
    d.fill(body, torso(scene, -0.1), M.CLOTHES_SECOND, 0.5)
    for y in (0.9, 1.4, 1.9):
        d.fill(body, ellipse(0, y, 0.08, 0.08, steps=12), M.CLOTHES_TRIM, 0, 0.7)
    for side in (-1, 1):
        edge = quads((0.1, 0.36), ((0.5, 1.4), (0.75, BOTTOM)))
        outer = open_spline([(0.4, -0.05), (0.8, 0.12), (w + 0.1, 0.5), (w + 0.42, 1.6), (w + 0.75, BOTTOM)])
        d.fill(body, np.concatenate([outer, edge[::-1]]) * (side, 1), M.CLOTHES_MAIN, 1.0)
        band = np.concatenate([edge, (edge + (0.2, -0.05))[::-1]])
        d.fill(body, band * (side, 1), M.CLOTHES_TRIM, 0.2, 0.8)
        for x in (0.5, 0.8):
            d.stroke(
                body,
                quads((x * w, 0.7), ((x * w + 0.1, 1.5), (x * w + 0.3, 3.0))) * (side, 1),
                M.CLOTHES_MAIN,
                0.6,
                0.5,
                0.4,
            )
        d.fill(
            body,
            quads((0.04, 0.4), ((0.3, 0.1), (0.34, -0.22)), ((0.7, 0.0), (0.9, 0.4)), ((0.6, 0.75), (0.04, 0.5)))
            * (side, 1),
            M.CLOTHES_SECOND,
            0.5,
        )
    d.fill(body, ellipse(0, 0.45, 0.14, 0.14), M.ACCESSORY, 0.5)


_GARMENTS = {
    "sailor": _sailor,
    "hoodie": _hoodie,
    "tshirt": _tshirt,
    "kimono": _kimono,
    "dress": _dress,
    "jacket": _jacket,
    "armour": _armour,
    "sweater": _sweater,
    "cape": _cape,
}
