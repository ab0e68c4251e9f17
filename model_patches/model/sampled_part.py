"""Which part of the picture, and which pictures of the batch, a call of the U-Net samples.

Area conditioning crops the latent and everything that ComfyUI knows to have its shape. A control is told nothing of it,
so this rides among the conds of every condition and the sketch is cropped alike (sketch_control.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import comfy.conds

PART = "colorize_part"  # its name among ComfyUI's conds


@dataclass(frozen=True)
class Part:
    """What one condition samples, in cells of the latent."""

    whole: tuple[int, int]
    """(h, w) of the run's latent."""
    area: tuple[int, ...] | None = None
    """(h, w, y, x) of the part; None: all of it."""
    pictures: tuple[int, ...] | None = None
    """Numbers of the pictures in ComfyUI's context window; None: all of the batch."""

    @property
    def size(self) -> tuple[int, ...]:
        """(h, w) of what is sampled."""
        return self.whole if self.area is None else self.area[:2]


def check_area(area: Sequence[int] | None) -> None:
    """Raise ValueError when the area (h, w, y, x) of a conditioning has no cell of the latent."""
    if area is not None and min(area[:2]) < 1:
        raise ValueError(
            "The area of a conditioning (Conditioning Set Area) has no part inside the picture. Give it a width and a "
            "height above 0, and an x and y before the picture's end."
        )


class PartCond(comfy.conds.CONDConstant):
    """A part as a cond: cut by areas, one entry for each condition of a batch."""

    def __init__(self, cond: tuple[Part, ...]) -> None:
        super().__init__(cond)

    def process_cond(self, batch_size: int, area: Sequence[int] | None = None, **kwargs: Any) -> PartCond:
        check_area(area)
        return PartCond(tuple(replace(part, area=None if area is None else tuple(area)) for part in self.cond))

    def of_pictures(self, numbers: tuple[int, ...]) -> PartCond:
        """In a context window with these pictures."""
        return PartCond(tuple(replace(part, pictures=numbers) for part in self.cond))

    def can_concat(self, other: Any) -> bool:
        return True

    def concat(self, others: Sequence[Any]) -> tuple[Part, ...]:
        return (*self.cond, *(part for other in others for part in other.cond))


def of(conds: Mapping[str, Any], conditions: int) -> tuple[Part, ...]:
    """The part of each condition of a call; empty where the run does not say it."""
    parts = conds.get(PART) or ()
    return parts if len(parts) == conditions else ()
