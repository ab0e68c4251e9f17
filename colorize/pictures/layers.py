"""What an animator takes home as layers: lines, light, shade, flats, background, reference, and what they look like.

A layer holds straight sRGB with its own opacity, (H, W, 4) uint8. `composite` is the arithmetic of Photoshop, Clip
Studio and Krita for the three blend modes used here, on unlinear sRGB values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image

from . import artist_lines
from .flatten import Flats
from .shade import Shade

SPLITS = ("one layer", "palette colours", "regions")
MOST_LAYERS = 400  # of regions; more make a document that no program likes


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer of a document."""

    name: str
    pixels: np.ndarray
    """(H, W, 4) uint8: straight sRGB and opacity"""
    blend: Literal["normal", "multiply", "screen"] = "normal"
    group: str = ""
    """name of the group it lies in; layers of a group follow each other"""
    visible: bool = True


def stack(
    flats: Flats,
    lines: np.ndarray,
    shading: Shade | None = None,
    split: str = "one layer",
    figure: np.ndarray | None = None,
    reference: np.ndarray | None = None,
) -> tuple[Layer, ...]:
    """The layers of a document, the lowest first.

    lines: (H, W, 3) in 0..1 to multiply with, as `artist_lines.line_layer` gives it. split: "one layer", or one for
    every palette colour or region in use. figure: mask (H, W) in 0..1; the background gets a layer of its own.
    reference: (h, w, 3) in 0..1, of any size; a hidden layer at the bottom, fitted into the canvas.
    """
    height, width = flats.regions.pieces.shape
    if lines.shape != (height, width, 3):
        raise ValueError(
            f"The lines are {lines.shape[1]}x{lines.shape[0]} pixels, the flats {width}x{height}; connect the drawing "
            "that the regions were found in."
        )
    if split not in SPLITS:
        raise ValueError(f"Flats cannot be split by {split!r}; choose one of {', '.join(SPLITS)}.")
    found = []
    if reference is not None:
        found.append(Layer("reference", _fitted(reference, height, width), visible=False))
    found += _flat_layers(flats, split, _outside(flats, figure))
    if shading is not None:
        grey = np.rint(shading.multiply * 255).astype(np.uint8)
        light = np.rint(shading.screen * 255).astype(np.uint8)
        found.append(Layer("shade", _opaque(grey), "multiply"))
        found.append(Layer("light", _opaque(light), "screen"))
    found.append(Layer("lines", ink_layer(lines), "multiply"))
    return tuple(found)


def ink_layer(lines: np.ndarray) -> np.ndarray:
    """(H, W, 4) uint8 of lines (H, W, 3) in 0..1 to multiply with, see `artist_lines.ink_layer`."""
    layer = artist_lines.ink_layer(torch.from_numpy(np.ascontiguousarray(lines)).movedim(-1, 0)[None])
    return (layer[0].movedim(0, -1) * 255).round().to(torch.uint8).numpy()


def composite(layers: tuple[Layer, ...]) -> np.ndarray:
    """(H, W, 4) uint8: what the visible layers show together, on transparent ground."""
    height, width = layers[0].pixels.shape[:2]
    colour: np.ndarray = np.zeros((height, width, 3), np.float32)
    alpha: np.ndarray = np.zeros((height, width, 1), np.float32)
    for layer in layers:
        if not layer.visible:
            continue
        above = layer.pixels[..., :3].astype(np.float32) / 255
        cover = layer.pixels[..., 3:].astype(np.float32) / 255
        if layer.blend == "multiply":
            mixed = colour * above
        elif layer.blend == "screen":
            mixed = colour + above - colour * above
        else:
            mixed = above
        mixed = (1 - alpha) * above + alpha * mixed  # nothing to blend with where the ground is transparent
        total = cover + alpha * (1 - cover)
        colour = (cover * mixed + (1 - cover) * alpha * colour) / np.maximum(total, 1e-6)
        alpha = total
    return np.rint(np.clip(np.dstack([colour, alpha]), 0, 1) * 255).astype(np.uint8)


def _outside(flats: Flats, figure: np.ndarray | None) -> np.ndarray | None:
    """(H, W) bool: the pieces that lie mostly outside the figure, None without a mask."""
    if figure is None:
        return None
    pieces = flats.regions.pieces
    if figure.shape != pieces.shape:
        raise ValueError(
            f"The figure mask is {figure.shape[1]}x{figure.shape[0]} pixels, the drawing {pieces.shape[1]}x"
            f"{pieces.shape[0]}; use a mask of the drawing's size."
        )
    inside = np.bincount(pieces.ravel(), (figure > 0.5).ravel(), len(flats.entry))
    return (inside < 0.5 * flats.regions.areas)[pieces]


def _flat_layers(flats: Flats, split: str, outside: np.ndarray | None) -> list[Layer]:
    picture = flats.picture
    if outside is None:
        return _parts(flats, picture, split, np.ones(picture.shape[:2], bool), "flats")
    found = [Layer("background", _cut(picture, outside))] if outside.any() else []
    return found + (_parts(flats, picture, split, ~outside, "flats") if not outside.all() else [])


def _parts(flats: Flats, picture: np.ndarray, split: str, where: np.ndarray, group: str) -> list[Layer]:
    """The flats within `where` as one layer, or as a group of one layer per colour or region."""
    if split == "one layer":
        return [Layer(group, _cut(picture, where))]
    labels = flats.entries if split == "palette colours" else flats.regions.labels
    numbers, sizes = np.unique(labels[where], return_counts=True)
    if len(numbers) > MOST_LAYERS:
        raise ValueError(
            f"The flats have {len(numbers)} {split}; a document can take {MOST_LAYERS} layers of them. Choose one "
            "layer, or palette colours."
        )
    names = [entry.name for entry in flats.palette.entries]
    found = []
    for place, number in enumerate(numbers[np.argsort(-sizes, kind="stable")].tolist(), 1):
        name = names[number] if split == "palette colours" else f"region {place}"
        found.append(Layer(name, _cut(picture, where & (labels == number)), group=group))
    return found


def _cut(picture: np.ndarray, where: np.ndarray) -> np.ndarray:
    return np.dstack([np.where(where[..., None], picture, 0), where.astype(np.uint8) * 255]).astype(np.uint8)


def _opaque(grey: np.ndarray) -> np.ndarray:
    return np.dstack([grey, grey, grey, np.full(grey.shape, 255, np.uint8)])


def _fitted(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """A picture as large as the canvas allows, in its upper left corner."""
    image = Image.fromarray(np.rint(np.clip(picture[..., :3], 0, 1) * 255).astype(np.uint8))
    scale = min(width / image.width, height / image.height)
    image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    canvas = np.zeros((height, width, 4), np.uint8)
    canvas[: image.height, : image.width] = np.dstack([np.asarray(image), np.full(image.size[::-1], 255, np.uint8)])
    return canvas
