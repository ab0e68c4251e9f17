"""What a part of a drawing needs to know to draw itself."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from .drawing import Drawing
from .geometry import Axes
from .gesture import STILL, Gesture
from .layout import Layout


@dataclass
class Scene:
    """Everything a part needs to know to draw itself."""

    layout: Layout
    drawing: Drawing
    head: Axes
    """origin between the eyes' height and the middle of the face, unit = half the width of the face"""
    body: Axes
    """origin at the base of the neck, same unit, not tilted with the head"""
    canvas: Axes
    """0..1 over the shorter side, origin at the upper left corner"""
    rng: np.random.Generator
    gesture: Gesture = STILL

    def on_face(self, points: ArrayLike) -> np.ndarray:
        """Turns points of the face's front (x, y) to where the head's turn brings them."""
        p = np.array(points, dtype=np.float64)
        depth = np.sqrt(np.clip(1 - p[:, 0] ** 2, 0, 1))
        p[:, 0] = p[:, 0] * np.cos(self.layout.turn) + 0.62 * np.sin(self.layout.turn) * depth
        return p

    @property
    def shift(self) -> float:
        """Sideways move of the middle of the face, in head units."""
        return 0.62 * float(np.sin(self.layout.turn))
