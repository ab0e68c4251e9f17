"""Shots of the procedural world: the frames of a cut, with the true colours of all and the thing at every pixel.

`shot_frame` is a pure function of its arguments. A thing is what keeps its identity from frame to frame: the second
lock of the hair behind, the iris of one eye. Its colour is the same in all frames, to the bit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw

from .appearance import Appearance
from .compose import compose
from .drawing import Drawing, Fill, Stroke
from .geometry import ellipse
from .linestyle import LineStyle
from .materials import Material
from .paint import colour_picture, figure_mask, material_colours, material_map, paint_index, paint_sketch, sampled
from .paint import supersampling as fineness
from .performance import Camera, Performance
from .render import checked_size, pose_layout, seeds_of

FAR = 0.5  # share of a camera's move that the background makes
LINES = ("drawn", "clean")
PASSER = "passer"


@dataclass(frozen=True)
class ShotFrame:
    """One frame of a shot, all aligned pixel by pixel."""

    picture: np.ndarray
    """(H, W, 3) uint8 sRGB, shaded, with coloured lines"""
    sketch: np.ndarray
    """(H, W) uint8, black lines on white"""
    flats: np.ndarray
    """(H, W, 3) uint8 sRGB: one colour per material, the same in all frames of the shot"""
    materials: np.ndarray
    """(H, W) uint8, see materials.Material; lines have that of what they outline"""
    things: np.ndarray
    """(H, W) uint16, index into `names`; what lies under the lines"""
    names: tuple[str, ...]
    """of the things of this frame; the same name is the same thing in every frame of the shot"""
    lines: np.ndarray
    """(H, W) bool"""
    mask: np.ndarray
    """(H, W) uint8, 255 on the figure and what passes before it, 0 on the background"""


def performance(index: int, split: str = "train", background: str = "mixed") -> Performance:
    """How character `index` of a split acts in its shot."""
    return Performance.sample(seeds_of(index, split)["layout"], pose_layout(index, 0, split, background))


def shot_frame(
    index: int,
    frame: int,
    split: str = "train",
    size: int | tuple[int, int] = 256,
    background: str = "mixed",
    lines: str = "drawn",
) -> ShotFrame:
    """Frame `frame` (0, 1, 2, ...) of the shot of character `index`; the character is that of `pose`.

    lines: "drawn" as an artist's pencil draws every frame anew, "clean" as they are after clean-up. Raises ValueError.
    """
    if frame < 0 or lines not in LINES:
        raise ValueError(f"Frame {frame} with lines {lines!r}: choose a frame from 0 and lines of {', '.join(LINES)}.")
    seeds = seeds_of(index, split)
    appearance = Appearance.sample(seeds["appearance"])
    style = LineStyle.clean() if lines == "clean" else LineStyle.sample(seeds["line_style"])
    drawing = frame_drawing(performance(index, split, background), frame, *checked_size(size))
    painted = paint_index(drawing, appearance)
    materials, on_lines = material_map(drawing, painted)
    things, names = thing_map(drawing)
    return ShotFrame(
        colour_picture(drawing, painted, appearance),
        paint_sketch(drawing, replace(style, detail_seed=style.detail_seed + frame)),
        flat_table(appearance)[materials],
        materials,
        things,
        names,
        on_lines,
        figure_mask(drawing),
    )


def frame_drawing(acted: Performance, frame: int, height: int, width: int) -> Drawing:
    """What is drawn in a frame, seen by its camera."""
    gesture = acted.gesture(frame)
    layout = acted.layout(frame)
    drawing = compose(layout, height, width, gesture)
    if gesture.sway:
        origin = layout.centre_y * min(height, width) + 0.12 * max(0, height - width)
        _swing_hair(drawing, gesture.sway, origin)
    _look_through(drawing, acted.camera(frame))
    place = acted.passer.place(frame) if acted.passer else None
    if acted.passer is not None and place is not None:
        drawing.begin(PASSER)
        ball = acted.passer.radius * min(height, width)
        points = ellipse(place[0] * width, place[1] * height, ball, ball, steps=40)
        drawing.operations.append(Fill(points, Material.ACCESSORY, 0.5))
        drawing.operations.append(Stroke(np.concatenate([points, points[:1]]), Material.ACCESSORY))
    return drawing


def flat_table(appearance: Appearance) -> np.ndarray:
    """(number of materials, 3) uint8: the flat colour of every material."""
    colours = material_colours(appearance)
    return np.array([colours[material] for material in Material], np.uint8)


def thing_map(drawing: Drawing) -> tuple[np.ndarray, tuple[str, ...]]:
    """((H, W) uint16 index of the thing on top of every pixel, lines left out; the names).

    A thing is a fill; its name is that of its part and its number in the part. "paper" is what no fill covers.
    """
    scale = fineness(drawing.height, drawing.width)
    fine = Image.new("I", (drawing.width * scale, drawing.height * scale), 0)
    draw = ImageDraw.Draw(fine)
    names, counted, begun, part = ["paper"], 0, dict(drawing.parts), ""
    for number, op in enumerate(drawing.operations):
        if number in begun:
            part, counted = begun[number], 0
        if isinstance(op, Fill):
            draw.polygon((op.points * scale).ravel().tolist(), fill=len(names))
            names.append(f"{part} {counted}")
            counted += 1
    return sampled(drawing, fine).astype(np.uint16), tuple(names)


def _swing_hair(drawing: Drawing, sway: float, height: float) -> None:
    """Move what hangs sideways, the more the lower it hangs below the eyes (height, in pixels)."""
    begun, part = dict(drawing.parts), ""
    for number, op in enumerate(drawing.operations):
        part = begun.get(number, part)
        if part.startswith("hair "):
            below = np.maximum(op.points[:, 1] - height, 0) / drawing.unit
            shift = np.stack([sway * drawing.unit * below**1.3, np.zeros(len(below))], axis=1)
            drawing.operations[number] = replace(op, points=op.points + shift)


def _look_through(drawing: Drawing, camera: Camera) -> None:
    """Move and enlarge everything as a camera does; the background moves less."""
    middle = np.array([drawing.width / 2, drawing.height / 2])
    for number, op in enumerate(drawing.operations):
        near = number >= drawing.figure_start
        zoom = camera.zoom if near else camera.zoom**FAR
        moved = np.array([camera.x, camera.y]) * drawing.width * (1 if near else FAR)
        drawing.operations[number] = replace(op, points=(op.points - middle) * zoom + middle + moved)
    rows = {}
    for material, (first, last) in drawing.gradients.items():
        ends = (np.array([first, last]) - middle[1]) * camera.zoom + middle[1] + camera.y * drawing.width
        rows[material] = (float(ends[0]), float(ends[1]))
    drawing.gradients = rows
    drawing.unit *= camera.zoom
