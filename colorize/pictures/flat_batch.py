"""Flats of a batch of results: what Flatten Colours hands to Lock to Palette and to Save Layers."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from ..counts import check_count, check_counts
from .flatten import ONE_COLOUR, Flats, flatten
from .hints import Hints
from .palette import Palette
from .regions import Regions
from .shade import Shade, shade

SHADING = {"none": None, "smooth": 0, "1 tone": 1, "2 tones": 2}


@dataclass(frozen=True, eq=False)
class FlatBatch:
    """COLORIZE_FLATS: flats of a batch, with the soft results they came from."""

    flats: tuple[Flats, ...]
    pictures: tuple[np.ndarray, ...]
    """the soft results, (h, w, 3) sRGB 0..1, or (N, h, w, 3) where N of a drawing vote"""
    hints: tuple[Hints | None, ...]
    shading: str
    """key of SHADING"""

    def shades(self) -> list[Shade | None]:
        """Shading of every picture, None without."""
        levels = SHADING[self.shading]
        if levels is None:
            return [None] * len(self.flats)
        return [shade(flats, picture, levels) for flats, picture in zip(self.flats, self.pictures)]

    def locked(self, palette: Palette) -> FlatBatch:
        """The same with only the colours of a palette."""
        flats = tuple(
            flatten(old.regions, picture, palette, hints=hints)
            for old, picture, hints in zip(self.flats, self.pictures, self.hints)
        )
        return replace(self, flats=flats)


def flat_batch(
    regions: Regions,
    images: torch.Tensor,
    palette: Palette | None = None,
    colours: int | None = None,
    hints: tuple[Hints | None, ...] = (None,),
    shading: str = "smooth",
    tolerance: float = ONE_COLOUR,
    together: bool = False,
) -> FlatBatch:
    """Flats of comfy pictures (B, h, w, C) in 0..1 over the regions of one drawing, or of as many; hints likewise.

    together: all results of a drawing vote, and it has one set of flats; the results of several drawings come in turn,
    as ComfyUI repeats a batch.
    """
    if shading not in SHADING:
        raise ValueError(f"Shading {shading!r} is unknown; choose one of {', '.join(SHADING)}.")
    drawings, advice = len(regions.maps), "Use one of each, or as many as results."
    voting = together and len(images) > drawings
    if voting and len(images) % drawings:
        raise ValueError(
            f"There are {len(images)} results of {drawings} drawings with regions. Make as many of every drawing "
            "(Repeat Latent Batch), or switch together off."
        )
    count = drawings if voting else max(len(images), drawings)
    if not voting:
        check_counts({"results": len(images), "drawings with regions": drawings}, advice)
    check_count("hint pictures", len(hints), count, "results", advice)
    pictures = [picture[..., :3].float().cpu().nan_to_num(0.0).clamp(0, 1).numpy() for picture in images]
    pictures = [np.repeat(picture, 3, axis=2) if picture.shape[2] == 1 else picture for picture in pictures]
    rows = range(count)
    soft = tuple(np.stack(pictures[i::count]) if voting else pictures[i % len(pictures)] for i in rows)
    hints = tuple(hints[i % len(hints)] for i in rows)
    flats = tuple(
        flatten(regions.maps[i % len(regions.maps)], soft[i], palette, colours, hints[i], tolerance) for i in rows
    )
    return FlatBatch(flats, soft, hints, shading)


def flat_picture(flats: Flats, shading: Shade | None = None) -> np.ndarray:
    """(H, W, 3) float32 sRGB 0..1 of flats, with their shading."""
    picture = flats.picture.astype(np.float32) / 255
    if shading is None:
        return picture
    return 1 - (1 - picture * shading.multiply[..., None]) * (1 - shading.screen[..., None])
