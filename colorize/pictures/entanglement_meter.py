"""The entanglement meter on ComfyUI's pictures: sizes, polarity, counts, the heat map and the report.

The measures are in colorize.pictures.entanglement.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ..counts import check_count
from . import entanglement, images
from .figure_masks import SAME_PROPORTIONS
from .ranges import model_to_unit

LONGEST = 512  # pixels; larger pictures are reduced before they are measured
NOISE = 0.03  # leakage that unrelated references reach now and then (procedural pictures: 1 % standard deviation)
LEAK_COLOUR = (1.0, 0.12, 0.05)
PALENESS = 0.55  # white in the picture below the leaked edges


@dataclass(frozen=True)
class MeterReading:
    """What the meter shows of one picture; all 0..1 but the leakage, which chance can make a little negative."""

    leakage: float
    found_again: float
    """share of the reference's own edges in the result, chance included"""
    structure: float | None
    """structure distance to the run without reference, where one is given"""
    without: float | None
    """leakage of the run without reference: what the meter shows where nothing can leak"""


def read(
    sketch: torch.Tensor,
    result: torch.Tensor,
    reference: torch.Tensor,
    without_reference: torch.Tensor | None = None,
    polarity: str = "auto",
) -> tuple[list[MeterReading], torch.Tensor]:
    """Comfy pictures (B or 1, H, W, C) -> a reading per result, and heat maps (B, h, w, 3) in 0..1.

    Sketch and run without reference show the same area as the result; the reference is squashed to it, as its tokens
    are. Raises ValueError for other counts and proportions.
    """
    pictures = images.comfy_image_to_model(result, name="result")
    pictures = images.reduced(pictures, LONGEST).clamp(-1, 1)
    count, (height, width) = len(pictures), pictures.shape[-2:]

    def fitted(values: torch.Tensor, name: str, same_area: bool) -> torch.Tensor:
        check_count(f"pictures in {name}", len(values), count, "results")
        rows, columns = values.shape[-2:]
        if same_area and not math.isclose(columns * height, rows * width, rel_tol=SAME_PROPORTIONS):
            raise ValueError(
                f"{name} is {columns}x{rows}, the result has the proportions {width}x{height}. Compare pictures of the "
                "same area: the drawing with the output of Restore Size, or the preview of Prepare Sketch with the "
                "output of VAE Decode."
            )
        return images.resize(values, height, width).clamp(-1, 1).expand(count, -1, -1, -1)

    lines = fitted(images.comfy_image_to_sketch(sketch, polarity=polarity)[:, :1], "sketch", True)
    ink = model_to_unit(lines)
    shown = fitted(images.comfy_image_to_model(reference, name="reference"), "reference", False)
    found = {"leakage": entanglement.leakage(pictures, shown, ink)}
    found["found_again"] = entanglement.found_again(pictures, shown, ink)
    if without_reference is not None:
        base = images.comfy_image_to_model(without_reference, name="without_reference")
        base = fitted(base, "without_reference", True)
        found["structure"] = entanglement.structure_distance(pictures, base)
        found["without"] = entanglement.leakage(base, shown, ink)
    names = MeterReading.__dataclass_fields__
    rows = zip(*(found[name].tolist() if name in found else [None] * count for name in names))
    return [MeterReading(*row) for row in rows], heat_map(pictures, entanglement.leaked_edges(pictures, shown, ink))


def heat_map(pictures: torch.Tensor, leaked: torch.Tensor) -> torch.Tensor:
    """Pictures (B, 3, H, W) in -1..1, pale and grey, with leaked edges (B, 1, H, W) in 0..1 in red: (B, H, W, 3)."""
    grey = images.luminance(model_to_unit(pictures))
    pale = (grey + (1 - grey) * PALENESS).expand(-1, 3, -1, -1)
    colour = torch.tensor(LEAK_COLOUR, device=pale.device).view(1, 3, 1, 1)
    return (pale + (colour - pale) * leaked.clamp(0, 1)).movedim(1, -1)


def report(readings: list[MeterReading]) -> str:
    """What the readings say, a paragraph per picture."""
    lines = []
    for number, reading in enumerate(readings, 1):
        title = f"Picture {number}: " if len(readings) > 1 else ""
        verdict = "no more than chance" if reading.leakage <= NOISE else "shapes of the reference are in the result"
        lines.append(
            f"{title}leakage {reading.leakage:.1%}, {verdict}. {reading.found_again:.1%} of the reference's own edges "
            "stand at their place in the result, accidents included."
        )
        if reading.structure is not None:
            lines.append(
                f"Without reference: leakage {reading.without:.1%}; structure distance {reading.structure:.3f} "
                "(0 the same shapes and edges, 1 nothing in common)."
            )
    return "\n".join(lines)
