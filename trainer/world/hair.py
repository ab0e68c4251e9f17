"""Hairstyles in head coordinates: what hangs behind the body, the cap with the fringe, locks in front."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .fringe import Point, fringe_locks, mirrored
from .geometry import arc, ellipse, open_spline, quads, tapered
from .layout import Layout
from .materials import Material, Tone
from .scene import Scene

M = Material
_REACH = {
    "short": 0.75,
    "bob": 1.1,
    "medium": 1.9,
    "long": 3.5,
    "wavy": 3.2,
    "twin_tails": 3.0,
    "ponytail": 2.6,
    "side_tail": 2.2,
    "buns": 0.7,
    "top_bun": 0.7,
    "spiky": 1.0,
    "braids": 2.6,
    "low_tails": 2.6,
    "drills": 2.4,
}


def back_reach(layout: Layout) -> float:
    """How far down the hair hangs, in head units below the middle of the face."""
    return _REACH[layout.back_hair] * layout.hair_length


def _jag(
    scene: Scene, left: Sequence[float], right: Sequence[float], count: int, depth: float, lift: float = 0.0
) -> list:
    """Control/end pairs of a row of pointed tips from left to right."""
    rng, out = scene.rng, []
    xs = np.linspace(left[0], right[0], count + 1)
    ys = np.linspace(left[1], right[1], count + 1) - lift * np.sin(np.linspace(0, np.pi, count + 1))
    for i in range(count):
        w = xs[i + 1] - xs[i]
        mid = (xs[i] + xs[i + 1]) / 2
        out_x = np.sign(mid) * abs(w) * 0.25
        tip = (mid + out_x + rng.uniform(-0.1, 0.1) * w, (ys[i] + ys[i + 1]) / 2 + depth * rng.uniform(0.7, 1.25))
        out.append(((xs[i] + w * 0.12, ys[i] + depth * 0.6), tip))
        out.append(((xs[i + 1] - w * 0.05, ys[i + 1] + depth * 0.55), (xs[i + 1], ys[i + 1])))
    return out


def _mass(scene: Scene, top: float, bottom: float, length: float, wave: float, tips: int, depth: float) -> np.ndarray:
    """Hair falling behind the head: width `top` at the temples, `bottom` at the ends."""
    y = np.linspace(-0.55, length, 9)
    t = (y + 0.55) / (length + 0.55)
    x = top + (bottom - top) * t**1.1 + 0.1 * np.sin(t * np.pi) + wave * np.sin(t * np.pi * 3.2) * t
    right = open_spline(np.stack([x, y], 1))
    left = open_spline(np.stack([-x, y], 1))[::-1]
    ends = quads(tuple(right[-1]), *_jag(scene, right[-1], left[0], tips, depth))
    crown = arc(0, -0.55, top, 0.75, np.pi, 2 * np.pi, 12)
    return np.concatenate([right, ends, left, crown])


def _tail(
    scene: Scene,
    root: Point,
    bend: Sequence[Point],
    tip: Point,
    widths: Sequence[float],
    tips_wave: float = 0.0,
    material: Material = M.HAIR,
    strands: int = 2,
) -> None:
    """A free hanging lock or tail along a curve."""
    d, head = scene.drawing, scene.head
    path = open_spline([root, *bend, tip], 8)
    if tips_wave:
        t = np.linspace(0, 1, len(path))[:, None]
        path = path + np.concatenate([np.sin(t * 9) * tips_wave * t, 0 * t], 1)
    shape = tapered(path, widths)
    d.fill(head, shape, material, 0.9)
    for i in range(strands):
        offset = (i + 1) / (strands + 1) - 0.5
        low, high = int(len(path) * 0.06), int(len(path) * (0.6 + 0.25 * scene.rng.random()))
        half = len(path)
        line = path[low:high] + (shape[:half][low:high] - path[low:high]) * offset * 1.5
        d.stroke(head, line, material, 0.6, 0.2, 0.6)


def draw_back(scene: Scene) -> None:
    """Everything that hangs behind neck and body."""
    _back_mass(scene)
    _back_tails(scene)


def _back_mass(scene: Scene) -> None:
    """The hair on the back of the head, down to where it ends or is tied."""
    lay, d, head = scene.layout, scene.drawing, scene.head
    v, n, kind = lay.hair_volume, lay.hair_length, lay.back_hair
    rng = scene.rng
    reach = back_reach(lay)
    if kind == "short":
        d.fill(head, _mass(scene, 1.06 + v, 0.85, 0.72 * n, 0.0, 5, 0.18), M.HAIR_BACK)
    elif kind == "bob":
        d.fill(head, _mass(scene, 1.12 + v, 1.05 + v * rng.uniform(0.3, 1.4), reach, 0.0, 6, 0.12), M.HAIR_BACK)
    elif kind == "medium":
        d.fill(head, _mass(scene, 1.1 + v, 1.15 + v, reach, 0.03, 7, 0.26), M.HAIR_BACK)
    elif kind in ("long", "wavy"):
        wave = 0.13 if kind == "wavy" else 0.03
        d.fill(head, _mass(scene, 1.1 + v, 1.35 + 2 * v, reach, wave, 7, 0.4), M.HAIR_BACK)
    elif kind == "spiky":
        angles = np.linspace(np.pi * 0.86, np.pi * 2.14, 12)
        points = [(1.0, 0.7)]
        pairs = []
        for a in angles[::-1]:
            r = 1.42 + v + rng.uniform(0, 0.3)
            tip = (r * np.cos(a + 0.08), -0.25 + r * np.sin(a + 0.08))
            notch = (1.16 * np.cos(a - 0.17), -0.25 + 1.16 * np.sin(a - 0.17))
            pairs += [((tip[0] * 0.9, tip[1] * 0.9 + 0.12), tip), ((tip[0] * 0.85, tip[1] * 0.85), notch)]
        shape = quads(
            points[0], *pairs, ((-1.1, 0.3), (-0.9, 0.75)), *_jag(scene, (-0.9, 0.75), (1.0, 0.7), 5, 0.25), steps=4
        )
        d.fill(head, shape, M.HAIR, 0.6)
    else:
        d.fill(head, _mass(scene, 1.05 + v, 0.8, 0.62, 0.0, 5, 0.16), M.HAIR_BACK)


def _back_tails(scene: Scene) -> None:
    """What hangs from ties: tails, buns, drills."""
    lay, d, head, rng = scene.layout, scene.drawing, scene.head, scene.rng
    n, kind = lay.hair_length, lay.back_hair
    if kind == "twin_tails":
        for side in (-1, 1):
            out = rng.uniform(1.5, 2.05)
            root = (side * 0.92, -0.72)
            _tail(
                scene,
                root,
                [(side * out, -0.75), (side * (out + 0.22), 0.5), (side * (out + 0.05), 1.7 * n)],
                (side * (out - 0.35 + 0.3 * rng.random()), 3.0 * n),
                [0.12, 0.33, 0.42, 0.36, 0.02],
                0.06,
            )
    elif kind == "ponytail":
        side = 1 if rng.random() < 0.5 else -1
        _tail(
            scene,
            (side * 0.3, -1.2),
            [(side * 1.25, -1.5), (side * 1.75, -0.3), (side * 1.6, 1.2 * n)],
            (side * 1.2, 2.6 * n),
            [0.14, 0.36, 0.46, 0.4, 0.02],
            0.05,
        )
    elif kind == "side_tail":
        side = 1 if rng.random() < 0.5 else -1
        _tail(
            scene,
            (side * 0.95, -0.35),
            [(side * 1.55, -0.35), (side * 1.7, 0.8)],
            (side * 1.25, 2.2 * n),
            [0.12, 0.32, 0.36, 0.3, 0.02],
            0.06,
        )
    elif kind == "buns":
        for side in (-1, 1):
            _bun(scene, side * 0.9, -1.12, 0.42)
    elif kind == "top_bun":
        _bun(scene, 0.05 * np.sign(lay.turn), -1.62, 0.46)
    elif kind == "drills":
        for side in (-1, 1):
            for i in range(6, -1, -1):
                y, r = 0.0 + 0.36 * i * n, 0.42 - 0.045 * i
                d.fill(head, ellipse(side * (1.3 + 0.03 * (i % 2)), y, r, 0.3, side * -0.35), M.HAIR, 1.0)


def _bun(scene: Scene, x: float, y: float, r: float) -> None:
    d, head = scene.drawing, scene.head
    d.fill(head, ellipse(x, y, r, r * 0.95), M.HAIR, 1.2)
    d.stroke(head, arc(x, y, r * 0.6, r * 0.55, 2.4, 5.6, 10), M.HAIR, 0.7, 0.3, 0.5)
    d.stroke(head, arc(x + r * 0.1, y + r * 0.1, r * 0.35, r * 0.3, 5.6, 8.6, 8), M.HAIR, 0.6, 0.3, 0.5)


def draw_over_shoulders(scene: Scene) -> None:
    """Locks, braids or low tails that fall in front of the clothes."""
    lay, rng, kind = scene.layout, scene.rng, scene.layout.back_hair
    if kind in ("long", "wavy", "medium"):
        length = min(back_reach(lay), 2.6) * 0.85
        for side in (-1, 1):
            _tail(
                scene,
                (side * 1.02, 0.1),
                [(side * 1.12, 0.9), (side * 1.02, 1.5)],
                (side * rng.uniform(0.85, 1.05), length),
                [0.14, 0.2, 0.2, 0.02],
                0.04 if kind == "wavy" else 0.0,
                strands=1,
            )


def draw_front(scene: Scene) -> None:
    """Locks beside the face, then the cap with the fringe, its shadow, strands and highlight."""
    lay, d, head, rng = scene.layout, scene.drawing, scene.head, scene.rng
    v = lay.hair_volume
    _low_tails(scene)
    if lay.side_locks:
        for side in (-1, 1):
            length = lay.side_locks * rng.uniform(0.9, 1.05)
            x = side * np.cos(lay.turn) * 0.98 + 0.12 * np.sin(lay.turn)
            _side_lock(scene, side, x, length)
    locks = fringe_locks(scene)
    if lay.turn and rng.random() < 0.5:
        locks = mirrored(locks)
    temple = rng.uniform(0.3, 0.6)
    start = (-1.07 - v, 0.06)
    pairs = [((-1.1 - v * 0.9, temple * 0.7), (-0.98, temple)), ((-0.9, 0.1), (-0.88, -0.22))]
    previous = (-0.88, -0.22)
    notches = []
    for tip, notch, bend in locks:
        pairs.append(((previous[0] * 0.55 + tip[0] * 0.45 - bend * 0.2, previous[1] * 0.5 + tip[1] * 0.5 + 0.04), tip))
        pairs.append(((notch[0] * 0.5 + tip[0] * 0.5 + 0.05 - bend * 0.3, notch[1] * 0.45 + tip[1] * 0.55), notch))
        notches.append((notch, tip))
        previous = notch
    end_x = max(0.9, previous[0] + 0.02)
    pairs += [((end_x, 0.1), (0.98, temple)), ((1.1 + v * 0.9, temple * 0.7), (1.07 + v, 0.06))]
    fringe = scene.on_face(quads(start, *pairs, steps=7))
    shift = -0.1 * np.sin(lay.turn)
    dome = arc(shift, -0.3, 1.1 + v, 1.12 + v * 1.1, 0.28, -np.pi - 0.28, 34)
    if lay.back_hair == "spiky" or lay.fringe == "spiky":
        dome = dome + _tufts(dome, rng)
    cap = np.concatenate([fringe, dome])
    d.patch(head, cap + (0.03, 0.1), (M.SKIN, M.EYE_WHITE), Tone.SHADE)
    d.fill(head, cap, M.HAIR, 0.75)
    if lay.streak and notches:
        _streak(scene, notches)
    _highlight(scene, shift, v)
    crown = np.array([shift + 0.25 * np.sin(lay.turn), -1.2 - v])
    for notch, _tip in notches[:-1]:
        foot = scene.on_face([notch])[0]
        far = foot + (crown - foot) * rng.uniform(0.35, 0.75)
        control = (foot + far) / 2 + (np.sign(foot[0]) * 0.06, 0)
        d.stroke(head, quads(tuple(foot), (tuple(control), tuple(far))), M.HAIR, 0.75, 0.0, 0.8)
    for _ in range(int(rng.integers(2, 5))):
        a = rng.uniform(-2.7, -0.45)
        r0, r1 = rng.uniform(0.93, 0.97), rng.uniform(0.55, 0.75)
        p0 = (shift + (1.1 + v) * r0 * np.cos(a), -0.3 + (1.1 + v) * r0 * np.sin(a))
        p1 = (shift + (1.1 + v) * r1 * np.cos(a * 0.97), -0.3 + (1.1 + v) * r1 * np.sin(a))
        d.stroke(head, quads(p0, (((p0[0] + p1[0]) / 2 + 0.05, (p0[1] + p1[1]) / 2), p1)), M.HAIR, 0.6, 0.5, 0.7)
    _ahoge(scene, crown)


def _tufts(dome: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    wave = np.zeros(len(dome))
    wave[4:-4:4] = rng.uniform(0.08, 0.2, len(wave[4:-4:4]))
    direction = dome - (0, -0.3)
    return direction / np.hypot(*direction.T)[:, None] * wave[:, None]


def _side_lock(scene: Scene, side: int, x: float, length: float) -> None:
    d, rng = scene.drawing, scene.rng
    w = rng.uniform(0.16, 0.24)
    bow = rng.uniform(-0.02, 0.14)
    end = 0.1 + length
    tip = (x + side * (0.02 - bow * 0.6), end)
    inner, outer = x - side * w, x + side * (0.1 + scene.layout.hair_volume * 0.6)
    if scene.layout.fringe == "hime":
        shape = quads(
            (inner, -0.5),
            ((inner + side * 0.03, end * 0.4), (inner + side * 0.02, end - 0.12)),
            ((x, end - 0.06), (outer, end - 0.14)),
            ((outer + side * bow, end * 0.4), (outer, -0.5)),
        )
    else:
        shape = quads(
            (inner, -0.5),
            ((inner + side * bow, end * 0.45), tip),
            ((outer + side * (bow + 0.08), end * 0.5), (outer, -0.5)),
            steps=10,
        )
    d.fill(scene.head, shape, M.HAIR, 0.7)
    mid = (inner + outer) / 2
    d.stroke(
        scene.head,
        quads((mid, 0.05), ((mid + side * bow * 0.8, end * 0.4), (tip[0] + side * 0.03, end * 0.78))),
        M.HAIR,
        0.6,
        0.3,
        0.6,
    )


def _low_tails(scene: Scene) -> None:
    """Braids and low tails: over the shoulders, but under the fringe."""
    lay, d, head, n = scene.layout, scene.drawing, scene.head, scene.layout.hair_length
    if lay.back_hair == "braids":
        for side in (-1, 1):
            for i in range(int(5 * n), -1, -1):
                x, y = side * (1.0 + 0.05 * np.sin(i)), 0.62 + 0.3 * i
                for half in (-1, 1):
                    d.fill(head, ellipse(x + half * 0.1, y, 0.17 - 0.008 * i, 0.2, half * -0.5), M.HAIR, 0.7, 0.85)
            end = 0.62 + 0.3 * int(5 * n) + 0.22
            d.fill(
                head,
                quads(
                    (side - 0.1, end),
                    ((side - 0.2, end + 0.2), (side, end + 0.42)),
                    ((side + 0.2, end + 0.2), (side + 0.1, end)),
                ),
                M.HAIR,
                0.6,
            )
            d.fill(head, ellipse(side, end, 0.13, 0.07), M.ACCESSORY)
    elif lay.back_hair == "low_tails":
        for side in (-1, 1):
            _tail(
                scene,
                (side * 0.98, 0.62),
                [(side * 1.18, 1.0), (side * 1.08, 1.7)],
                (side * 0.95, 2.6 * n),
                [0.1, 0.25, 0.26, 0.02],
                0.04,
            )
            d.fill(head, ellipse(side * 1.0, 0.66, 0.14, 0.09, side * 0.4), M.ACCESSORY)


def _streak(scene: Scene, notches: Sequence[tuple[Point, Point]]) -> None:
    """A lock of another colour in the fringe."""
    d, rng = scene.drawing, scene.rng
    notch, tip = notches[int(rng.integers(0, max(1, len(notches) - 1)))]
    x = notch[0] * 0.9
    y = notch[1]
    shape = quads(
        (x, y + 0.01),
        ((x * 0.85 - 0.1, y - 0.4), (x * 0.5, -1.1)),
        ((x * 0.9 + 0.14, y - 0.45), (x, y + 0.01)),
        steps=8,
    )
    d.fill(scene.head, scene.on_face(shape), M.HAIR_STREAK, 0, 0.6)


def _highlight(scene: Scene, shift: float, v: float) -> None:
    """The bright ring of an anime head, a jagged band that only touches hair."""
    d, rng = scene.drawing, scene.rng
    count = 15
    angles = np.linspace(-np.pi * 0.86, -np.pi * 0.14, count) + rng.uniform(-0.03, 0.03, count)
    rx, ry = 0.9 + v, 0.5 + v * 0.5
    middle = np.stack([shift + rx * np.cos(angles), -0.38 + ry * np.sin(angles)], 1)
    swell = np.sin(np.linspace(0, np.pi, count)) ** 0.6
    up, down = (0.05 * swell + 0.012), (0.03 + 0.14 * (np.arange(count) % 2) * rng.uniform(0.6, 1.2, count)) * swell
    upper, lower = middle.copy(), middle.copy()
    upper[:, 1] -= up + 0.05 * (np.arange(count) % 2 == 0) * swell
    lower[:, 1] += down
    skip = int(rng.integers(4, 10))
    for part in (slice(0, skip + 1), slice(skip + 1, count)):
        if len(upper[part]) > 2:
            d.patch(scene.head, np.concatenate([upper[part], lower[part][::-1]]), (M.HAIR, M.HAIR_STREAK), Tone.LIGHT)


def _ahoge(scene: Scene, crown: np.ndarray) -> None:
    lay, d, rng = scene.layout, scene.drawing, scene.rng
    for i in range(lay.ahoge):
        side = 1 if (i == 0) == (rng.random() < 0.5) else -1
        base = (crown[0] + side * 0.03, crown[1] + 0.1)
        tip = (base[0] + side * rng.uniform(0.35, 0.6), base[1] - rng.uniform(0.15, 0.45))
        top = (base[0] + side * 0.05, base[1] - rng.uniform(0.5, 0.75))
        shape = quads(
            (base[0] - 0.05, base[1]), (top, tip), ((top[0] + side * 0.12, top[1] + 0.26), (base[0] + 0.06, base[1]))
        )
        d.fill(scene.head, shape, M.HAIR, 0.4)
