"""Colours of a key drawing carried through a shot, from frame to frame outwards.

What a piece of a frame may be is a belief over the key's colours and "something else". The frame before, the one three
before, which bridges a blink, and the key itself are asked; their answers are pooled as weighted logarithms, each with
as much weight as there is a match (a filter: what the key says again and again outweighs one wrong frame, which the
surest answer alone would carry on for ever). What is new has no belief, and gives none to the next frame.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from .matching import Matches, match
from .shapes import Shapes

SURE = 0.8
"""Belief from which a colour is carried; below, the model says which."""
CERTAIN = 2.0  # how much more a sure belief of a correction counts than any other
GIVEN = 4.0  # the same of what was given for the frame itself: it stands there
STEPS = (1, 3)
"""Frames back that are asked, besides the key."""
WEIGHTS = {1: 0.8, 3: 0.3, 0: 0.4}
"""Of their answers; 0 is the key's."""
DOUBTS = {1: 0.02, 3: 0.03, 0: 0.05}
"""Share of every answer that is taken for nothing."""
SHARPNESS = 1.3  # of the pooled answer
LEAST = 0.02  # weight of an answer without a match


@dataclass
class Carrier:
    """One walk through a shot, away from a frame whose colours are known."""

    key: Shapes
    belief: np.ndarray
    """(n, k) the key's colours: rows of one 1, or of zeros where none is known"""
    walked: list[tuple[Shapes, np.ndarray]] = field(default_factory=list)
    """the last frames with what is believed of them, the newest last"""
    match: Callable[[Shapes, Shapes], Matches] = match
    """`matching.match`, or one that remembers"""

    def next(self, frame: Shapes) -> np.ndarray:
        """(n, k) float32: how likely every piece of the next frame has every colour; rows sum to 1 or less."""
        asked = {back: self.walked[-back] for back in STEPS if back <= len(self.walked)}
        asked[0] = self.key, self.belief
        found = {back: self.match(shapes, frame).likelihood @ belief for back, (shapes, belief) in asked.items()}
        belief = pooled(found)
        self.remember(frame, belief)
        return belief

    def remember(self, frame: Shapes, belief: np.ndarray) -> None:
        """Take a step whose belief (n, k) is known already."""
        self.walked = [*self.walked, (frame, belief)][-max(STEPS) :]


def check_key_frame(key_frame: int, frames: int) -> None:
    """Raise ValueError unless a shot of so many frames has this one."""
    if not 0 <= key_frame < frames:
        raise ValueError(f"key_frame is {key_frame}; the shot has frames 0 to {frames - 1}.")


def outwards(key: int, frames: int) -> tuple[range, range]:
    """The two walks away from a key frame: to the end, and back to the beginning."""
    return range(key + 1, frames), range(key - 1, -1, -1)


def weighed(belief: np.ndarray, certain: bool) -> np.ndarray:
    """A belief (n, k) as it counts among those of several keys: a correction's wins wherever it is sure."""
    return np.where(belief.max(axis=1, keepdims=True) >= SURE, CERTAIN * belief, belief) if certain else belief


def together(beliefs: Sequence[np.ndarray]) -> np.ndarray:
    """(n, k) of the beliefs (n, k) of one frame from several keys, each as `weighed`."""
    return np.minimum(surest(beliefs), 1)


def known(entry: np.ndarray, colours: int) -> np.ndarray:
    """(n, k) belief of pieces whose colour (n,) is known, -1 = not."""
    belief = np.zeros((len(entry), colours), np.float32)
    belief[entry >= 0, entry[entry >= 0]] = 1
    return belief


def pooled(answers: Mapping[int, np.ndarray]) -> np.ndarray:
    """(n, k) belief of pieces from what is answered (n, k) by the frame so many back, 0 = the key.

    Rows of answers sum to 1 or less, the rest is not known; rows of the result leave "something else" out. No row is
    surer than the surest answer that agrees: what is inherited from a still drawing does not become certain by that.
    """
    count, colours = next(iter(answers.values())).shape
    places = colours + 1
    score, total = np.zeros((count, places)), np.zeros((count, 1))
    for back, answer in answers.items():
        match = answer.sum(axis=1, keepdims=True)
        known_ = np.concatenate([answer, np.zeros_like(match)], axis=1) + np.maximum(1 - match, 0) / places
        weight = WEIGHTS[back] * np.maximum(match, LEAST)
        score = score + weight * np.log((1 - DOUBTS[back]) * known_ + DOUBTS[back] / places)
        total = total + weight
    score = score / total * SHARPNESS
    likely = np.exp(score - score.max(axis=1, keepdims=True))
    likely = (likely / likely.sum(axis=1, keepdims=True))[:, :-1]
    best = np.arange(len(likely)), likely.argmax(axis=1)
    agreed = np.maximum(np.max([answer[best] for answer in answers.values()], axis=0), 1 / places)
    return (likely * np.minimum(1, agreed / likely[best])[:, None]).astype(np.float32)


def surest(beliefs: Sequence[np.ndarray]) -> np.ndarray:
    """(n, k) for every piece that row of several beliefs (n, k) that is surest; of equals the first."""
    stacked = np.stack(beliefs)
    return stacked[stacked.max(axis=2).argmax(axis=0), np.arange(stacked.shape[1])]


def carried(
    frames: Sequence[Shapes],
    keys: Mapping[int, np.ndarray],
    colours: int,
    certain: Collection[int] = (),
    on_frame: Callable[[], None] = lambda: None,
    matched: Callable[[Shapes, Shapes], Matches] = match,
) -> list[np.ndarray]:
    """(n, k) belief of every frame of a shot, from the entries (n,) of one or more key frames, -1 where not known.

    Every piece believes the key that is surest. certain: those of the keys that win wherever they are sure, as a
    person's corrections, which may know a few pieces only. on_frame is called at every step of every walk, that is, for
    each key as often as there are other frames. matched: `matching.match`, or one that remembers, for a caller who asks
    for the same pairs.
    """
    if not keys or not all(0 <= number < len(frames) for number in keys):
        raise ValueError(f"Key frames are {sorted(keys)} of {len(frames)}; give at least one, counted from 0.")
    beliefs: list[list[np.ndarray]] = [[] for _ in frames]
    for number, entry in keys.items():
        belief = known(entry, colours)
        beliefs[number].append(GIVEN * belief)
        for direction in outwards(number, len(frames)):
            carrier = Carrier(frames[number], belief, match=matched)
            for frame in direction:
                on_frame()
                beliefs[frame].append(weighed(carrier.next(frames[frame]), number in certain))
    return [together(found) for found in beliefs]
