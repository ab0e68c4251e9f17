"""Things of a shot that no key is sure of, followed from frame to frame, so that each has one colour in all of them.

Left to itself the model decides in every frame anew, and what nobody painted changes its colour from one drawing to the
next though the drawings match. So a thing that is not known is given a number where it is first seen, and keeps it as
long as it can be followed. Its colour is that which the model gave it over most of its area in all frames.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .carrying import SURE
from .matching import Matches, match
from .shapes import Shapes

FOLLOWED = 0.5
"""Probability from which a piece is the thing of an earlier frame."""
BACK = (1, 3)
"""Frames back that are asked, in this order."""


class Strangers:
    """One walk through all frames of a shot, in order."""

    def __init__(self, colours: int, matched: Callable[[Shapes, Shapes], Matches] = match):
        """colours: the k colours of the shot. matched: `matching.match`, or one that remembers."""
        self.colours, self._matched = colours, matched
        self._walked: list[tuple[Shapes, np.ndarray]] = []
        self._votes: list[np.ndarray] = []

    @property
    def count(self) -> int:
        """Strangers met so far."""
        return len(self._votes)

    def next(self, frame: Shapes, belief: np.ndarray, region_of: np.ndarray) -> np.ndarray:
        """(n,) int32, the thing of every piece: below k the colour it has, else k + the number of a stranger.

        belief (n, k): of the keys; what is sure has its colour. What is not is the thing it was before, which may be a
        colour too. The rest is new: one stranger for every region (n,) it lies in.
        """
        things = np.where(belief.max(axis=1) >= SURE, belief.argmax(axis=1), -1).astype(np.int32)
        for back in BACK:
            if back <= len(self._walked) and (things < 0).any():
                things = self._followed(things, frame, *self._walked[-back])
        for region in np.unique(region_of[things < 0]):
            inside = region_of == region
            known = things[inside & (things >= self.colours)]
            if len(known):
                number = int(np.bincount(known).argmax())
            else:
                number = max(self.colours + self.count, int(things.max()) + 1)
            things[inside & (things < 0)] = number
        self.remember(frame, things)
        return things

    def remember(self, frame: Shapes, things: np.ndarray) -> None:
        """Take a step whose things (n,) are known already."""
        self._walked = [*self._walked, (frame, things)][-max(BACK) :]
        self._meet(things)

    def _meet(self, things: np.ndarray) -> None:
        missing = int(things.max()) + 1 - self.colours - self.count
        self._votes += [np.zeros(self.colours) for _ in range(missing)]

    def _followed(self, things: np.ndarray, frame: Shapes, before: Shapes, were: np.ndarray) -> np.ndarray:
        used, which = np.unique(were, return_inverse=True)
        likely = self._matched(before, frame).likelihood @ np.eye(len(used), dtype=np.float32)[which.ravel()]
        found = np.where(likely.max(axis=1) >= FOLLOWED, used[likely.argmax(axis=1)], -1)
        return np.where(things < 0, found, things).astype(np.int32)

    def vote(self, things: np.ndarray, entry: np.ndarray, areas: np.ndarray) -> None:
        """Hear what the model says of a frame: the colours (n,) of its pieces of these things (n,) and areas (n,)."""
        self._meet(things)
        for piece in np.flatnonzero(things >= self.colours):
            self._votes[things[piece] - self.colours][entry[piece]] += areas[piece]

    def entries(self, things: np.ndarray) -> np.ndarray:
        """(n,) int32: the colours of things (n,), when all frames have been heard."""
        own = np.arange(self.colours, dtype=np.int32)
        chosen = np.array([votes.argmax() for votes in self._votes], np.int32)
        return np.concatenate([own, chosen])[things]
