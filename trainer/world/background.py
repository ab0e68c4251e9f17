"""Backgrounds in canvas coordinates: 0..1 over the shorter side of the picture, drawn well beyond its edges."""

from __future__ import annotations

import numpy as np

from .geometry import ellipse, open_spline
from .materials import Material
from .scene import Scene

M = Material
LINE = 0.7
FAR = 6.0


def draw(scene: Scene) -> None:
    """The background of the scene's layout."""
    _KINDS[scene.layout.background](scene)


def _box(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])


def _extent(scene: Scene) -> tuple[float, float]:
    short = min(scene.drawing.height, scene.drawing.width)
    return scene.drawing.width / short, scene.drawing.height / short


def _plain(scene: Scene) -> None:
    width, height = _extent(scene)
    y = height * (0.8 + 0.1 * scene.layout.background_x)
    scene.drawing.fill(scene.canvas, _box(-1, y, FAR, FAR), M.BACKGROUND_SECOND, 0, 0)


def _gradient(scene: Scene) -> None:
    height = scene.drawing.height
    scene.drawing.gradients[M.BACKGROUND] = (height * 0.15, height * 1.1)


def _horizon(scene: Scene) -> None:
    y = scene.layout.background_y * _extent(scene)[1]
    scene.drawing.fill(scene.canvas, _box(-1, y, FAR, FAR), M.BACKGROUND_SECOND, 0, LINE)
    if scene.layout.detail_seed % 2:
        scene.drawing.fill(scene.canvas, _box(-1, y, FAR, y + 0.06), M.BACKGROUND_THIRD, 0, LINE)


def _window(scene: Scene) -> None:
    d, c, rng = scene.drawing, scene.canvas, scene.rng
    width, height = _extent(scene)
    x = width * (0.06 + 0.5 * (scene.layout.background_x - 0.15) / 0.7)
    y0, y1 = 0.08 * height, scene.layout.background_y * height
    w = 0.42 * width
    d.fill(c, _box(x - 0.025, y0 - 0.025, x + w + 0.025, y1 + 0.025), M.BACKGROUND_SECOND, 0, LINE)
    d.fill(c, _box(x, y0, x + w, y1), M.BACKGROUND_THIRD, 0, LINE)
    d.fill(c, _box(x + w / 2 - 0.01, y0, x + w / 2 + 0.01, y1), M.BACKGROUND_SECOND, 0, LINE)
    d.fill(c, _box(x, (y0 + y1) / 2 - 0.01, x + w, (y0 + y1) / 2 + 0.01), M.BACKGROUND_SECOND, 0, LINE)
    if rng.random() < 0.6:
        d.fill(c, _box(-1, 0.9 * height, FAR, FAR), M.BACKGROUND_SECOND, 0, LINE)
    if rng.random() < 0.5:
        other = x + w + 0.1 if x < width * 0.3 else x - 0.3
        d.fill(c, _box(other, 0.2 * height, other + 0.2, 0.42 * height), M.BACKGROUND_THIRD, 0, LINE)


def _hills(scene: Scene) -> None:
    d, c, rng = scene.drawing, scene.canvas, scene.rng
    width, height = _extent(scene)
    d.fill(c, ellipse(scene.layout.background_x * width, 0.2 * height, 0.1, 0.1), M.BACKGROUND_THIRD, 0, LINE)
    for _ in range(int(rng.integers(1, 4))):
        _cloud(scene, rng.uniform(0, width), rng.uniform(0.06, 0.4) * height, rng.uniform(0.05, 0.09))
    for material, lift in ((M.BACKGROUND_THIRD, 0.0), (M.BACKGROUND_SECOND, 0.12)):
        y = scene.layout.background_y * height + lift
        xs = np.linspace(-0.2, width + 0.2, 6)
        ridge = open_spline(np.stack([xs, y + rng.uniform(-0.07, 0.07, 6)], 1))
        d.fill(c, np.concatenate([ridge, [(width + 0.2, FAR), (-0.2, FAR)]]), material, 0, LINE)


def _cloud(scene: Scene, x: float, y: float, r: float) -> None:
    xs = np.linspace(-2.1, 1.8, 40)
    tops = [np.sqrt(np.maximum(s * s - (xs - dx) ** 2, 0)) for dx, s in ((-1.4, 0.7), (-0.3, 1.2), (1.0, 0.8))]
    outline = np.stack([x + r * xs, y - r * np.max(tops, axis=0)], 1)
    scene.drawing.fill(scene.canvas, outline, M.TEETH, 0, LINE)


def _stripes(scene: Scene) -> None:
    width, height = _extent(scene)
    slope = scene.layout.background_x * 1.2 - 0.6
    step = 0.12 + 0.12 * scene.rng.random()
    for i in range(-12, int(width / step) + 13):
        x = i * step
        shape = [
            (x, -0.05),
            (x + step * 0.5, -0.05),
            (x + step * 0.5 + slope * (height + 0.1), height + 0.05),
            (x + slope * (height + 0.1), height + 0.05),
        ]
        scene.drawing.fill(scene.canvas, shape, M.BACKGROUND_SECOND, 0, LINE)


def _circles(scene: Scene) -> None:
    rng = scene.rng
    width, height = _extent(scene)
    for i in range(int(rng.integers(7, 14))):
        r = rng.uniform(0.03, 0.13)
        material = M.BACKGROUND_THIRD if i % 3 == 0 else M.BACKGROUND_SECOND
        scene.drawing.fill(
            scene.canvas, ellipse(rng.uniform(0, width), rng.uniform(0, height), r, r), material, 0, LINE
        )


def _street(scene: Scene) -> None:
    d, c, rng = scene.drawing, scene.canvas, scene.rng
    width, height = _extent(scene)
    x, i = -0.05, 0
    while x < width:
        w = rng.uniform(0.16, 0.3)
        y = height * rng.uniform(0.1, 0.45)
        material, window = ((M.BACKGROUND_SECOND, M.BACKGROUND_THIRD), (M.BACKGROUND_THIRD, M.BACKGROUND_SECOND))[i % 2]
        d.fill(c, _box(x, y, x + w, FAR), material, 0, LINE)
        for row in range(4):
            for column in range(2):
                wx, wy = x + w * (0.18 + 0.38 * column), y + 0.05 + row * 0.12
                d.fill(c, _box(wx, wy, wx + w * 0.24, wy + 0.065), window, 0, LINE * 0.8)
        x += w + (rng.uniform(0.0, 0.12) if rng.random() < 0.5 else 0)
        i += 1


def _burst(scene: Scene) -> None:
    cx, cy = scene.layout.centre_x * _extent(scene)[0], scene.layout.centre_y
    count = 14
    for i in range(count):
        a0, a1 = 2 * np.pi * (i + 0.0) / count, 2 * np.pi * (i + 0.5) / count
        points = [(cx, cy), (cx + 3 * np.cos(a0), cy + 3 * np.sin(a0)), (cx + 3 * np.cos(a1), cy + 3 * np.sin(a1))]
        scene.drawing.fill(scene.canvas, points, M.BACKGROUND_SECOND, 0, LINE)


def _checks(scene: Scene) -> None:
    width, height = _extent(scene)
    step = 0.14 + 0.08 * scene.layout.background_x
    for i in range(int(width / step) + 1):
        for j in range(int(height / step) + 1):
            if (i + j) % 2:
                scene.drawing.fill(
                    scene.canvas,
                    _box(i * step, j * step, (i + 1) * step, (j + 1) * step),
                    M.BACKGROUND_SECOND,
                    0,
                    LINE * 0.8,
                )


def _frame(scene: Scene) -> None:
    width, height = _extent(scene)
    r = 0.4 + 0.1 * scene.rng.random()
    cx = width / 2 + (scene.layout.background_x - 0.5) * 0.2
    scene.drawing.fill(scene.canvas, ellipse(cx, height * 0.45, r, r, steps=48), M.BACKGROUND_SECOND, 0, LINE)
    if scene.layout.detail_seed % 2:
        scene.drawing.fill(
            scene.canvas, ellipse(cx, height * 0.45, r * 0.84, r * 0.84, steps=48), M.BACKGROUND_THIRD, 0, LINE
        )


_KINDS = {
    "plain": _plain,
    "gradient": _gradient,
    "horizon": _horizon,
    "window": _window,
    "hills": _hills,
    "stripes": _stripes,
    "circles": _circles,
    "street": _street,
    "burst": _burst,
    "checks": _checks,
    "frame": _frame,
}
