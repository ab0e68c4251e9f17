"""What moves in a face and a body while the pose stays: lids, a hand, hair."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Gesture:
    """One moment of a movement. The defaults are a drawing at rest, as all single pictures are."""

    lids: float = 1.0
    """how far the eyes are open, 0..1"""
    hand: float = 0.0
    """how far a waving hand is raised before the face, 0..1"""
    sway: float = 0.0
    """how far the tips of the hair swing sideways, in head units at one head's depth"""


STILL = Gesture()
