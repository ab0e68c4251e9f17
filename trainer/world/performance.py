"""How a character acts in a shot: a pose path, blinks, words, a waving hand, a camera, and something that passes by.

Everything is a pure function of a seed and the number of a frame. Frame 0 shows the character at rest: it is the frame
that a painter would colour as the key.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .gesture import Gesture
from .layout import Layout

BLINK = (0.55, 0.0, 0.0, 0.5)
"""How far the eyes are open in the frames of a blink."""
WORDS = ("open", "small_o", "smile", "open")
PERIODS = (20.0, 44.0)
"""Frames of one swing; a cut of 24 frames shows half a swing to a whole one."""
REACH = {
    "turn": 0.3,
    "tilt": 0.16,
    "lean": 0.07,
    "pitch": 0.06,
    "gaze_x": 0.2,
    "gaze_y": 0.08,
    "centre_x": 0.07,
    "centre_y": 0.03,
    "sway": 0.12,
    "hand": 1.0,
    "pan_x": 0.08,
    "pan_y": 0.04,
    "zoom": 0.14,
}
"""Largest amplitude of every movement, in the unit of the field of Layout or Gesture; pans in shares of the width."""


@dataclass(frozen=True)
class Swing:
    """A value that goes to one side and back, and rests at frame 0."""

    amplitude: float
    period: float
    """frames"""

    def at(self, frame: int) -> float:
        """The value in a frame; 0 in frame 0."""
        return self.amplitude * float(np.sin(2 * np.pi * frame / self.period))

    def lifted(self, frame: int) -> float:
        """The same between 0 and the amplitude: up and down again."""
        return self.amplitude * 0.5 * (1 - float(np.cos(2 * np.pi * frame / self.period)))


@dataclass(frozen=True)
class Camera:
    """What of the drawing is seen: enlarged by `zoom` about the middle, then moved by (x, y), shares of the width."""

    zoom: float = 1.0
    x: float = 0.0
    y: float = 0.0


@dataclass(frozen=True)
class Passer:
    """A ball that rolls through the picture in front of everybody."""

    first: int
    """frame in which it enters"""
    speed: float
    """of the picture's width per frame; below 0 it comes from the right"""
    y: float
    """height of its middle, share of the height"""
    radius: float
    """share of the shorter side"""

    def place(self, frame: int) -> tuple[float, float] | None:
        """Its middle in shares of width and height, None when it is not there."""
        travelled = (frame - self.first) * abs(self.speed)
        if not 0 <= travelled <= 1 + 2 * self.radius:
            return None
        x = travelled - self.radius
        return (x if self.speed > 0 else 1 - x), self.y


@dataclass(frozen=True)
class Performance:
    """A character's movements through a shot."""

    rest: Layout
    swings: dict[str, Swing]
    """by the names of REACH; "hand" is there where a hand is waved before the face"""
    blink: int
    """frame of the first blink"""
    blink_every: int
    words: tuple[int, int] | None
    """(first frame, frames per mouth), None for a silent character"""
    passer: Passer | None

    @classmethod
    def sample(cls, seed: int, rest: Layout) -> Performance:
        """The performance of this seed for a character that rests in a layout."""
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, 0x5407])))
        swings = {}
        for name, reach in REACH.items():
            side = 1 if name in ("hand", "zoom") or rng.random() < 0.5 else -1
            swings[name] = Swing(side * reach * float(rng.uniform(0.35, 1)), float(rng.uniform(*PERIODS)))
        swings["hand"] = Swing(1.0, swings["hand"].period)
        waves = rng.random() < 0.4
        if waves:
            rest = replace(rest, arms="wave")
        else:
            del swings["hand"]
        blink, every = int(rng.integers(3, 14)), int(rng.integers(14, 30))
        words = (int(rng.integers(2, 8)), int(rng.integers(2, 4))) if rng.random() < 0.5 else None
        passer = Passer(
            int(rng.integers(2, 10)),
            float(rng.uniform(0.06, 0.12) * rng.choice([-1, 1])),
            float(rng.uniform(0.4, 0.8)),
            float(rng.uniform(0.07, 0.14)),
        )
        return cls(replace(rest, wink=False), swings, blink, every, words, passer if rng.random() < 0.5 else None)

    def layout(self, frame: int) -> Layout:
        """The pose of a frame."""
        moved = {name: getattr(self.rest, name) + self.swings[name].at(frame) for name in list(REACH)[:8]}
        moved["turn"] = float(np.clip(moved["turn"], -0.5, 0.5))
        mouth = self.rest.mouth
        if self.words is not None and frame >= self.words[0]:
            mouth = (*WORDS, self.rest.mouth)[(frame - self.words[0]) // self.words[1] % (len(WORDS) + 1)]
        return replace(self.rest, **moved, mouth=mouth)

    def gesture(self, frame: int) -> Gesture:
        """Lids, hand and hair in a frame."""
        since = frame - self.blink
        step = since % self.blink_every if since >= 0 else len(BLINK)
        hand = self.swings["hand"].lifted(frame) if "hand" in self.swings else 0.0
        return Gesture(BLINK[step] if step < len(BLINK) else 1.0, hand, self.swings["sway"].at(frame))

    def camera(self, frame: int) -> Camera:
        """What is seen of a frame."""
        zoom = 1 + self.swings["zoom"].lifted(frame)
        return Camera(zoom, self.swings["pan_x"].at(frame), self.swings["pan_y"].at(frame))
