"""Crowded pictures: a main character among others, before shapes in loud colours, as references that are hard to read.

Nothing that a crowd adds is in the main character's palette: others wear their own, shapes are painted in colours of
their own. What such a picture says about colours is therefore still exact: the main character's regions and the wall's
keep their labels; others and shapes are labelled "other" (no colour to be taken from them), and the figure mask is
that of the main character only, without what stands in front of it. The main character is the largest one, and no head
stands before its head, so that a person, and a model without masks, can tell who is meant.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from . import paint
from .appearance import Appearance, Colour, oklch
from .drawing import Drawing
from .geometry import ellipse
from .layout import Layout
from .materials import REGION_NAMES

MOST = 8
"""Most bystanders, and most shapes, of one picture."""
_OTHER = REGION_NAMES.index("other")
_BYSTANDER = 56  # upper bits of a bystander's seeds; the poses of a character end below (see render.py)


@dataclass(frozen=True)
class Bystander:
    """Another character; its layout's background is not drawn."""

    layout: Layout
    appearance: Appearance
    in_front: bool
    """before the main character (at the edge of the picture), or behind it"""


@dataclass(frozen=True)
class Shape:
    """A flat shape between wall and characters."""

    points: tuple[tuple[float, float], ...]
    """shares of the picture's width and height"""
    colour: Colour


@dataclass(frozen=True)
class Crowd:
    """What is around the main character, back to front."""

    shapes: tuple[Shape, ...]
    bystanders: tuple[Bystander, ...]

    @classmethod
    def sample(cls, main: Layout, layout_seed: int, appearance_seed: int, bystanders: int, shapes: int) -> Crowd:
        """1 to `bystanders` characters (none for 0) and 1 to `shapes` shapes for a main character of `stepped_back`.

        The seeds are those of the main character; the others' are derived from them and stay in their split.
        """
        for name, most in (("bystanders", bystanders), ("shapes", shapes)):
            if not 0 <= most <= MOST:
                raise ValueError(f"{name} is {most}; choose 0 to {MOST}.")
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([layout_seed, 0xC20D])))
        others = []
        for number in range(int(rng.integers(1, bystanders + 1)) if bystanders else 0):
            seeds = [seed + ((number + 1) << _BYSTANDER) for seed in (layout_seed, appearance_seed)]
            # Sides alternate; every third one stands in front, low at the edge, cut by it.
            side, in_front = (-1 if number % 2 else 1) * (1 if rng.random() < 0.8 else -1), number % 3 == 2
            unit = main.head_unit * rng.uniform(0.6, 0.85)
            middle, away = _place(main), main.head_unit * rng.uniform(2.1, 3.4)
            x = np.clip(middle + side * away, -0.08, 1.08)
            if abs(x - middle) < 1.9 * main.head_unit:  # no room at that side
                x = np.clip(middle - side * away, -0.08, 1.08)
            y = main.centre_y + main.head_unit * (rng.uniform(1.6, 3.0) if in_front else rng.uniform(-0.9, 0.8))
            layout = _placed(replace(Layout.sample(seeds[0]), arms="down"), unit, x, y)
            others.append(Bystander(layout, Appearance.sample(seeds[1]), in_front))
        return cls(tuple(_shape(rng) for _ in range(int(rng.integers(1, shapes + 1)) if shapes else 0)), tuple(others))


def _placed(layout: Layout, head_unit: float, x: float, y: float) -> Layout:
    """The layout with its head of this size at (x, y) of the finished picture, mirrored or not."""
    centre_x = 1 - x if layout.mirrored else x
    return replace(layout, head_unit=float(head_unit), centre_x=float(centre_x), centre_y=float(y))


def stepped_back(layout: Layout, seed: int) -> Layout:
    """The same character smaller, and somewhere in the picture: its own size and place leave no room for others."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, 0x57E9])))
    unit = layout.head_unit * rng.uniform(0.55, 0.85)
    y = np.clip(layout.centre_y + rng.uniform(-0.08, 0.08), 2.1 * unit, 0.6)
    return _placed(layout, unit, rng.uniform(0.24, 0.76), y)


def _place(layout: Layout) -> float:
    """Where the head is in the finished picture, share of the width."""
    return 1 - layout.centre_x if layout.mirrored else layout.centre_x


def _shape(rng: np.random.Generator) -> Shape:
    """A disc, a box, a triangle or a star in a saturated colour, up to a third of the picture wide."""
    x, y, size = rng.uniform(0, 1), rng.uniform(0, 1), rng.uniform(0.07, 0.17)
    corners = int(rng.choice([3, 4, 10, 28]))
    points = ellipse(0, 0, size, size * rng.uniform(0.7, 1.3), steps=corners)
    if corners == 10:
        points[1::2] *= 0.45
    turn = rng.uniform(0, 2 * np.pi)
    c, s = np.cos(turn), np.sin(turn)
    points = points @ np.array([[c, s], [-s, c]]) + (x, y)
    colour = oklch(rng.uniform(0.5, 0.8), rng.uniform(0.16, 0.28), rng.random())
    return Shape(tuple(map(tuple, points.tolist())), colour)


def render_crowd(
    drawing: Drawing, appearance: Appearance, crowd: Crowd, others: list[Drawing]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(picture (H, W, 3), regions (H, W), mask (H, W)), uint8 as in `Rendering`.

    drawing: the main character with its background. others: the drawings of crowd.bystanders, of the same size.
    """
    scale = paint.supersampling(drawing.height, drawing.width)
    start = drawing.figure_start
    wall = replace(drawing, operations=drawing.operations[:start], figure_start=start)
    index = paint.paint_index(wall, appearance)
    picture = paint.fine_colours(wall, index, appearance)
    labels, mask = paint.fine_regions(index), Image.new("L", index.size, 0)

    pen = [ImageDraw.Draw(image) for image in (picture, labels)]
    for shape in crowd.shapes:
        points = [(x * index.width, y * index.height) for x, y in shape.points]
        inks: tuple[tuple[Any, Any], ...] = ((shape.colour, appearance.line(shape.colour)), (_OTHER, _OTHER))
        for draw, (fill, line) in zip(pen, inks, strict=True):
            draw.polygon(points, fill=fill)
            draw.line([*points, points[0]], fill=line, width=max(1, round(0.7 * drawing.line_width * scale)))

    def lay(figure: Drawing, colours: Appearance, is_main: bool) -> None:
        figure = replace(figure, operations=figure.operations[figure.figure_start :], figure_start=0)
        own, silhouette = paint.paint_index(figure, colours), paint.fine_silhouette(figure)
        picture.paste(paint.fine_colours(figure, own, colours), (0, 0), silhouette)
        labels.paste(paint.fine_regions(own) if is_main else _OTHER, (0, 0, *index.size), silhouette)
        mask.paste(255 if is_main else 0, (0, 0, *index.size), silhouette)

    pairs = list(zip(crowd.bystanders, others, strict=True))
    for one, figure in pairs:
        if not one.in_front:
            lay(figure, one.appearance, is_main=False)
    lay(drawing, appearance, is_main=True)
    for one, figure in pairs:
        if one.in_front:
            lay(figure, one.appearance, is_main=False)
    return paint.averaged(drawing, picture), paint.sampled(drawing, labels), paint.sampled(drawing, mask)
