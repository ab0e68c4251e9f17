"""A drawing: what to paint, back to front, in pixels of the finished picture; independent of colours and line style."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from .geometry import Axes
from .materials import Material, Tone


@dataclass
class Fill:
    """A surface. It hides whatever lies under it, lines included."""

    points: np.ndarray
    material: Material
    cel: float = 0.0
    """breadth of the cel edge relative to the appearance's shade_width; 0 = none"""
    ink: bool = False
    """drawn black in sketches that fill blacks"""


@dataclass
class Patch:
    """A change of tone, only where the given materials lie now; not part of the sketch."""

    points: np.ndarray
    materials: tuple[Material, ...]
    tone: Tone


@dataclass
class Stroke:
    """A line. `weight` is relative to the standard line; the tapers are shares of its length that thin out."""

    points: np.ndarray
    material: Material
    weight: float = 1.0
    taper_start: float = 0.0
    taper_end: float = 0.0


@dataclass
class Drawing:
    """Operations in painting order for a picture of `height` x `width` pixels."""

    height: int
    width: int
    unit: float
    """pixels of one head unit"""
    line_width: float
    """pixels of the standard line"""
    operations: list = field(default_factory=list)
    figure_start: int = 0
    """operations before this one are the background's, all later ones the figure's"""
    gradients: dict = field(default_factory=dict)
    """material -> (first row, last row) of its vertical colour gradient, in pixels"""
    parts: list[tuple[int, str]] = field(default_factory=list)
    """(operation, name): from this operation on, until the next entry, everything belongs to the part of this name"""

    def begin(self, part: str) -> None:
        """What is painted from now on belongs to this part, which has the same name in every pose."""
        self.parts.append((len(self.operations), part))

    def fill(
        self,
        frame: Axes,
        points: ArrayLike,
        material: Material,
        cel: float = 0.0,
        outline: float = 1.0,
        ink: bool = False,
    ) -> None:
        """Paint a closed shape; `outline` is the weight of the line around it (0 = none)."""
        pixels = frame(points)
        self.operations.append(Fill(pixels, material, cel, ink))
        if outline:
            self.operations.append(Stroke(np.concatenate([pixels, pixels[:1]]), material, outline))

    def stroke(
        self,
        frame: Axes,
        points: ArrayLike,
        material: Material,
        weight: float = 1.0,
        start: float = 0.0,
        end: float = 0.0,
    ) -> None:
        """Draw an open line; `start` and `end` are the shares of its length that thin out."""
        self.operations.append(Stroke(frame(points), material, weight, start, end))

    def patch(self, frame: Axes, points: ArrayLike, materials: Iterable[Material], tone: Tone) -> None:
        """Light or shade a part of the given materials."""
        self.operations.append(Patch(frame(points), tuple(materials), tone))
