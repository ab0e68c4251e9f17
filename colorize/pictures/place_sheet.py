"""The views of `unet.place_views` as one picture: maps of a query point, with and without the reference."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageColor, ImageDraw, ImageFont

from ..unet.place_views import PARTS, View
from .ranges import model_to_levels

NAMES = ("with reference", "without")
"""The two conditions of every view, in their order."""
Maps = Sequence[tuple[str, torch.Tensor]]
"""Titles and maps (h, w)."""

SCALE = ("#08306b", "#2171b5", "#6baed6", "#fee090", "#f46d43", "#b2182b")
"""Colours from the lowest value to the highest."""
MARK = "#ff0000"  # of the query point, as in the paper
SIDE = 320  # pixels of a map's longer side
TITLE = 24  # pixels of the line above a map
GAP = 8


def heat(values: torch.Tensor, low: float, high: float, size: tuple[int, int]) -> Image.Image:
    """Values (h, w) in colours from low to high, as a picture of `size` (width, height); every place is a cell."""
    stops = torch.tensor([ImageColor.getrgb(colour) for colour in SCALE], dtype=torch.float32)
    along = ((values.float() - low) / max(high - low, 1e-12)).clamp(0, 1) * (len(SCALE) - 1)
    below = along.floor().long().clamp(max=len(SCALE) - 2)
    share = (along - below)[..., None]
    pixels = (stops[below] * (1 - share) + stops[below + 1] * share).round().to(torch.uint8)
    return Image.fromarray(pixels.numpy()).resize(size, Image.Resampling.NEAREST)


def mark(image: Image.Image, point: tuple[float, float]) -> Image.Image:
    """A copy with a red frame around a point, shares 0..1 of width and height."""
    marked = image.copy()
    x, y, reach = point[0] * image.width, point[1] * image.height, max(image.size) / 40
    ImageDraw.Draw(marked).rectangle((x - reach, y - reach, x + reach, y + reach), outline=MARK, width=3)
    return marked


def rows_of(found: Sequence[tuple[str, Sequence[View]]], number: int) -> list[Maps]:
    """The rows of a sheet for one picture of a batch: Gram matrix, attention; the parts beside each other.

    found: names of the conditions ("with reference", "without") and their views.
    """
    shown = [(f"{view.part}, {name}", view) for name, views in found for view in views]
    shown.sort(key=lambda pair: PARTS.index(pair[1].part))
    kinds = ("gram", "attention")
    return [[(f"{kind}, {title}", getattr(view, kind)[number]) for title, view in shown] for kind in kinds]


def sheet(
    picture: torch.Tensor | None,  # (3, H, W) in -1..1
    rows: Sequence[Maps],  # those of a row share one scale
    point: tuple[float, float],
    title: str = "query point",
) -> torch.Tensor:
    """(H', W', 3) in 0..1: the picture with the point, then the maps, a row below the other. title: the picture's."""
    height, width = rows[0][0][1].shape
    size = round(SIDE * width / max(height, width)), round(SIDE * height / max(height, width))
    columns = max(map(len, rows)) + (picture is not None)
    canvas = Image.new("RGB", (GAP + columns * (size[0] + GAP), GAP + len(rows) * (size[1] + TITLE + GAP)), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default()

    def put(row: int, column: int, text: str, image: Image.Image) -> None:
        left, top = GAP + column * (size[0] + GAP), GAP + row * (size[1] + TITLE + GAP)
        pen.text((left, top + 6), text, fill="black", font=font)
        canvas.paste(mark(image, point), (left, top + TITLE))

    if picture is not None:
        pixels = model_to_levels(picture.float().cpu()).round().clamp(0, 255).to(torch.uint8).movedim(0, -1)
        shown = Image.fromarray(pixels.contiguous().numpy()).resize(size, Image.Resampling.LANCZOS)
        put(0, 0, title, shown)
    for number, maps in enumerate(rows):
        low = min(values.min().item() for _, values in maps)
        high = max(values.max().item() for _, values in maps)
        for column, (name, values) in enumerate(maps):
            put(number, column + (picture is not None), name, heat(values.cpu(), low, high, size))
    return torch.from_numpy(np.asarray(canvas).copy()).float() / 255
