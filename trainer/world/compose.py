"""Puts a character together, back to front."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from . import background, clothes, extras, face, hair
from .body import draw_arms, draw_body
from .drawing import Drawing
from .geometry import Axes
from .gesture import STILL, Gesture
from .layout import Layout
from .materials import Material
from .scene import Scene


def _draw_locks(scene: Scene) -> None:
    if scene.layout.locks_over_shoulder:
        hair.draw_over_shoulders(scene)


FIRST_OF_FIGURE = "extras behind"
_PARTS: dict[str, Callable[[Scene], None]] = {
    "background": background.draw,
    FIRST_OF_FIGURE: extras.behind,
    "hair behind": hair.draw_back,
    "clothes behind": clothes.draw_behind,
    "body": draw_body,
    "clothes": clothes.draw,
    "ears": face.draw_ears,
    "head": face.draw_head,
    "hair over shoulders": _draw_locks,
    "face": face.draw_features,
    "hair": hair.draw_front,
    "extras": extras.in_front,
    "arms": draw_arms,
}
"""What a character consists of, in painting order."""


def compose(layout: Layout, height: int, width: int, gesture: Gesture = STILL) -> Drawing:
    """The drawing of a layout, in the middle of a gesture, for a picture of this size in pixels."""
    short = min(height, width)
    unit = layout.head_unit * short
    drawing = Drawing(height, width, unit, 0.0065 * short * (layout.head_unit / 0.24) ** 0.35)
    origin = (layout.centre_x * width, layout.centre_y * short + 0.12 * (height - short))
    mirror = float(width) if layout.mirrored else None
    head = Axes(origin, unit, layout.tilt, mirror)
    reach = 1.02 * layout.neck_length
    neck = (
        origin[0] - unit * reach * np.sin(layout.tilt) * 0.75,
        origin[1] + unit * (reach * np.cos(layout.tilt) + 0.38),
    )
    body = Axes(neck, unit, layout.lean, mirror)
    canvas = Axes((0.0, 0.0), short, 0.0, mirror)
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([layout.detail_seed, 0x5CE0])))
    scene = Scene(layout, drawing, head, body, canvas, rng, gesture)

    for name, draw in _PARTS.items():
        drawing.begin(name)
        if name == FIRST_OF_FIGURE:
            drawing.figure_start = len(drawing.operations)
        draw(scene)

    top, bottom = origin[1] - 1.2 * unit, origin[1] + 2.2 * unit
    drawing.gradients[Material.HAIR] = (origin[1] - 0.3 * unit, origin[1] + 1.5 * unit)
    drawing.gradients[Material.HAIR_BACK] = (origin[1] + 0.3 * unit, origin[1] + hair.back_reach(layout) * unit)
    for material in (Material.CLOTHES_MAIN, Material.CLOTHES_SECOND):
        drawing.gradients[material] = (neck[1], float(height))
    drawing.gradients.setdefault(Material.SKIN, (top, bottom))
    return drawing
