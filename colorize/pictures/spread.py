"""Labels that spread over unlabelled pixels, the paper first and the darkest ink last. Numpy."""

from __future__ import annotations

import numpy as np

LEVELS = (40, 110, 180, 255)  # ink (0..255) that is crossed at each turn


def spread(labels: np.ndarray, ink: np.ndarray, levels: tuple[int, ...] = LEVELS) -> np.ndarray:
    """(H, W) int32 labels with -1 = none -> the same with every pixel labelled, unless no pixel has a label.

    Labels step to the four neighbours, all at the same pace, through ink (H, W) uint8 of the first level until nothing
    moves, then of the next level. So two labels meet on the darkest part of the line between them.
    """
    height, width = labels.shape
    if not (labels >= 0).any():
        return labels.copy()
    padded = np.full((height + 2, width + 2), -2, np.int32)
    padded[1:-1, 1:-1] = labels
    flat, across = padded.ravel(), width + 2
    rows, columns = np.nonzero(labels < 0)
    waiting = (rows + 1) * across + columns + 1
    depth = ink[rows, columns]
    for level in levels:
        open_now = depth <= level
        reached = _flood(flat, waiting[open_now], across)
        waiting = np.concatenate([waiting[~open_now], reached])
        depth = np.concatenate([depth[~open_now], np.zeros(len(reached), depth.dtype)])
    return np.ascontiguousarray(padded[1:-1, 1:-1])


def _flood(flat: np.ndarray, places: np.ndarray, across: int) -> np.ndarray:
    """Label `places` of the padded flat map from their neighbours, ring by ring; returns those never reached."""
    while places.size:
        found = flat[places - 1]
        for step in (1, -across, across):
            neighbour = flat[places + step]
            found = np.where(found < 0, neighbour, found)
        new = found >= 0
        if not new.any():
            break
        flat[places[new]] = found[new]
        places = places[~new]
    return places
