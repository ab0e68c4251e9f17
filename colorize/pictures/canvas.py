"""The canvas that a drawing is sampled on: the one home of the rule. Numbers only."""

from __future__ import annotations

import math

STEP = 64  # pixels: the deepest feature map is 1/64 of the picture
FLATTEST = 4.0  # long side over short side; flatter drawings get margins
SIZES = ("width x height", "follow the drawing")
"""What Prepare Sketch's `size` says: the canvas as given, or the drawing's proportions at its area."""


def nearest_side(pixels: float) -> int:
    """The nearest side that can be sampled."""
    return max(STEP, round(pixels / STEP) * STEP)


def following(height: int, width: int, area: float) -> tuple[int, int]:
    """(width, height) of the canvas for a drawing: its proportions at about `area` square pixels, in steps of 64.

    The area stays that of the square the model was trained on, so a flat drawing costs what a square one does, and a
    place of the picture sees as much of it as in training.
    """
    ratio = min(max(width / height, 1 / FLATTEST), FLATTEST)
    return nearest_side(math.sqrt(area * ratio)), nearest_side(math.sqrt(area / ratio))
