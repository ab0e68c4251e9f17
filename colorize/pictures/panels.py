"""The panels of a comic page, by the gutters between their frames, so that each can be looked at as a picture.

A gutter is a strip without lines from one side to the other, with a frame along both of its sides; the page is cut
there, then every part again, across and along. Gutters that are slanted, and panels without frames, are not found.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

DARK = 96  # ink from which on a pixel is line, of 255
EMPTY = 0.1  # share of a row of a gutter that may be line: speech balloons and hair cross it
FRAME = 0.6  # share of a row that is frame; what bursts out of a panel interrupts it
FRAME_EDGE = 0.3  # the soft rows beside it
NEAR = 0.012  # of the page's longer side: how far a frame's row lies from the gutter
WIDEST = 0.08  # of the longer side: a wider strip is sky, not a gutter or a margin
SMALLEST = 0.08  # of the longer side: what is narrower is no panel


class Panel(NamedTuple):
    """A part of a page, in pixels; the ends are outside."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def place(self) -> tuple[slice, slice]:
        """Rows and columns, to cut it out of an array."""
        return slice(self.top, self.bottom), slice(self.left, self.right)


def find_panels(ink: np.ndarray) -> list[Panel]:
    """The panels of a page, from its ink (H, W) uint8 as `ink.ink_of` gives it: from top to bottom and left to right,
    without their frames. A drawing that is no page of several is one panel, whole."""
    page = Panel(0, ink.shape[0], 0, ink.shape[1])
    lines = ink > DARK
    found = [_inside(lines, part) for part in _cut(lines, page, across=True, tried=0)]
    smallest = SMALLEST * max(ink.shape)
    found = [panel for panel in found if min(panel.bottom - panel.top, panel.right - panel.left) >= smallest]
    return found if len(found) > 1 else [page]


def _cut(lines: np.ndarray, part: Panel, across: bool, tried: int) -> list[Panel]:
    """A part cut at its gutters, as often as it can be. tried: directions in a row that had none."""
    if tried == 2:
        return [part]
    shares = _shares(lines, part, across)
    edges, longer = [0], max(lines.shape)
    for start, end in _gutters(shares, max(2, round(NEAR * longer)), WIDEST * longer):
        edges += [start, end]
    edges.append(len(shares))
    pieces = list(zip(edges[::2], edges[1::2], strict=True))
    if len(pieces) == 1:
        return _cut(lines, part, not across, tried + 1)
    found = []
    for start, end in pieces:
        found += _cut(lines, _piece(part, start, end, across), not across, 0)
    return found


def _piece(part: Panel, start: int, end: int, across: bool) -> Panel:
    if across:
        return part._replace(top=part.top + start, bottom=part.top + end)
    return part._replace(left=part.left + start, right=part.left + end)


def _shares(lines: np.ndarray, part: Panel, across: bool) -> np.ndarray:
    """Share of line in every row of a part (across), or in every column."""
    return lines[part.place].mean(axis=1 if across else 0)


def _gutters(shares: np.ndarray, near: int, widest: float) -> list[tuple[int, int]]:
    """Start and end of the strips that are gutters, with the frames along them."""
    empty = np.flatnonzero(np.diff(np.concatenate([[False], shares <= EMPTY, [False]]).astype(np.int8)))
    found = []
    for start, end in empty.reshape(-1, 2):
        before, behind = (_frame_end(part, near, near) for part in (shares[:start][::-1], shares[end:]))
        if before and behind and end - start <= widest:
            found.append((int(start) - before, int(end) + behind))
    return found


def _inside(lines: np.ndarray, part: Panel) -> Panel:
    """A part without its frame and what lies outside of that, on each side that has one."""
    longer = max(lines.shape)
    near, margin = max(2, round(NEAR * longer)), WIDEST * longer
    rows, columns = _shares(lines, part, True), _shares(lines, part, False)
    return Panel(
        part.top + _frame_end(rows, near, margin),
        part.bottom - _frame_end(rows[::-1], near, margin),
        part.left + _frame_end(columns, near, margin),
        part.right - _frame_end(columns[::-1], near, margin),
    )


def _frame_end(shares: np.ndarray, near: int, margin: float) -> int:
    """Rows from the beginning to the end of the frame; 0 where none lies there or behind an empty margin."""
    written = np.flatnonzero(shares > EMPTY)
    if not len(written) or written[0] > margin:
        return 0
    begin = int(written[0])
    frame = np.flatnonzero(shares[begin : begin + near] >= FRAME)
    if not len(frame):
        return 0
    end = begin + int(frame[0])
    furthest = min(len(shares), begin + 2 * near)  # behind it the drawing may be as dark
    while end < furthest and shares[end] >= FRAME_EDGE:
        end += 1
    return end
