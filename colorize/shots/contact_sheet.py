"""A shot at a glance: all frames on one sheet, with what was not sure outlined and numbered, and flicker in red."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from .review import Unsure

WIDEST = 4096  # pixels of the sheet
LONGEST, SHORTEST = 256, 64  # pixels of a frame's longer side
CAPTION = 14  # pixels of the line below a frame
GROUND, INK = (24, 24, 24), (230, 230, 230)
OUTLINE, FLICKER = (255, 0, 200), (255, 40, 0)
SHOWN = 0.02  # flicker from which a pixel is painted


class ContactSheet:
    """A sheet that is filled frame by frame; only the sheet is in memory."""

    def __init__(self, frames: int, height: int, width: int):
        """For a number of frames of height x width pixels."""
        columns = max(1, math.ceil(math.sqrt(frames * 1.5 * height / width)))
        longest = min(LONGEST, max(SHORTEST, WIDEST // columns), max(height, width))
        self._scale = longest / max(height, width)
        self._cell = max(1, round(width * self._scale)), max(1, round(height * self._scale))
        self._columns = columns
        size = columns * self._cell[0], math.ceil(frames / columns) * (self._cell[1] + CAPTION)
        self._sheet = Image.new("RGB", size, GROUND)

    def add(
        self,
        number: int,
        title: str,
        picture: np.ndarray,
        unsure: np.ndarray,
        flicker: np.ndarray,
        marks: Sequence[Unsure] = (),
    ) -> None:
        """Put frame `number`, from 0, in its place.

        picture: (H, W, 3) uint8; unsure: (H, W), 1 = not carried; flicker: (H, W) in 0..1; marks: what is numbered.
        """
        cell = Image.fromarray(picture).resize(self._cell, Image.Resampling.BOX)
        pixels = np.array(cell)
        pixels[self._smaller(flicker) >= SHOWN] = FLICKER
        open_ = self._smaller(unsure) >= 0.5
        pixels[open_ & ~ndimage.binary_erosion(open_)] = OUTLINE
        cell = Image.fromarray(pixels)
        pen, font = ImageDraw.Draw(cell), ImageFont.load_default()
        for mark in marks:
            if mark.thing:
                place = mark.x * self._scale, mark.y * self._scale
                pen.text(place, str(mark.thing), INK, font, "mm", stroke_width=1, stroke_fill=(0, 0, 0))
        row, column = divmod(number, self._columns)
        left, top = column * self._cell[0], row * (self._cell[1] + CAPTION)
        self._sheet.paste(cell, (left, top))
        letters = max(1, self._cell[0] // 6)
        ImageDraw.Draw(self._sheet).text((left + 2, top + self._cell[1] + 1), title[:letters], INK, font)

    def _smaller(self, values: np.ndarray) -> np.ndarray:
        """A map (H, W) at the size of a cell; a thin part keeps its value."""
        rows, columns = (
            np.linspace(0, side, count + 1).astype(int) for side, count in zip(values.shape, self._cell[::-1])
        )
        tall = np.maximum.reduceat(values, rows[:-1], axis=0)
        return np.maximum.reduceat(tall, columns[:-1], axis=1)

    @property
    def picture(self) -> np.ndarray:
        """(H, W, 3) uint8: the sheet so far."""
        return np.asarray(self._sheet)
