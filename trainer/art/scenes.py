"""Training samples of avatars: a drawing, its true colours, a reference in the same colours, masks, line styles.

The drawing and the reference are different characters (or the same style's in another build) in the colours of one
palette, so the truth is exact. What a sample holds is a function of (seed, number).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from .avatars import INK, MARKS, ROLES, STYLES, Avatar, draw, rgb
from .palettes import RoleColors, draw_palette

CANVASES = ((256, 256), (256, 320), (320, 256), (256, 384), (384, 256), (256, 448), (448, 256))
"""height, width in pixels; squares are drawn more often"""
SQUARES = 0.55  # share of squares
REFERENCE_SIDE = 256
OTHER_STYLE = 0.3  # share of references drawn in another style than the sketch
SHADOWS = 0.35  # share of samples with a cast of shade
CANDIDATES = 6  # characters drawn per reference, of which the first that shows every colour is taken

Parts = dict[str, np.ndarray]


def characters(packages: Path, numbers: Sequence[int], seed: int, split: str) -> dict[int, list[Avatar]]:
    """The characters every sample may need: its own, then candidates for its reference. One call of Node for all."""
    wanted = []
    for number in numbers:
        random = np.random.default_rng((seed, number, ("train", "heldout").index(split)))
        styles = list(STYLES)
        own = styles[random.integers(len(styles))]
        wanted.append((own, f"{split}-{seed}-{number}"))
        for k in range(CANDIDATES):
            other = styles[random.integers(len(styles))] if random.random() < OTHER_STYLE else own
            wanted.append((other, f"{split}-{seed}-{number}-{k}"))
    drawn, per_sample = draw(packages, wanted), 1 + CANDIDATES
    return {number: drawn[k * per_sample : (k + 1) * per_sample] for k, number in enumerate(numbers)}


def matching(target: Avatar, candidates: list[Avatar]) -> Avatar:
    """The first candidate that shows every colour of the target, else the one that shows most of them."""
    return max(candidates, key=lambda a: (len(target.roles() & a.roles()), -candidates.index(a)))


def sample(avatars: list[Avatar], random: np.random.Generator) -> Parts:
    """color, sketch, mask (H, W), reference, reference_mask (S, S), uint8; of the characters of one sample."""
    target, reference = avatars[0], matching(avatars[0], avatars[1:])
    palette, shade = draw_palette(random), random.random() < SHADOWS
    light = random.normal(0, 1, 2)
    if random.random() < SQUARES:
        canvas = CANVASES[0]
    else:
        canvas = CANVASES[1 + random.integers(len(CANVASES) - 1)]
    color, mask, sketch = _scene(target, palette, canvas, random, light if shade else None)
    shown, shown_mask, _ = _scene(reference, palette, (REFERENCE_SIDE,) * 2, random, light if shade else None, False)
    return {"color": color, "sketch": sketch, "mask": mask, "reference": shown, "reference_mask": shown_mask}


def colors_of(avatar: Avatar, palette: RoleColors) -> dict[str, str]:
    """Slot -> colour: the palette's for the open slots, its line for the style's own dark colours."""
    dark = [slot for slot in avatar.slots() if np.dot(rgb(slot), (0.299, 0.587, 0.114)) < INK]
    return {MARKS[role]: palette.colors[role] for role in ROLES} | dict.fromkeys(dark, palette.line)


def _scene(
    avatar: Avatar,
    palette: RoleColors,
    canvas: tuple[int, int],
    random: np.random.Generator,
    light: np.ndarray | None,
    drawn: bool = True,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Picture (H, W, 3), figure mask (H, W), sketch (H, W); the figure stands at a random place and may be cut off."""
    height, width = canvas
    side = int(min(canvas) * random.uniform(0.85, 1.25)) // 2 * 2
    top = int(random.uniform(0, height - side)) if side < height else int(random.uniform(height - side, 0))
    left = int(random.uniform(0, width - side)) if side < width else int(random.uniform(width - side, 0))
    if side < height:
        top = height - side  # busts stand on the lower edge
    figure = avatar.render(colors_of(avatar, palette), side)
    lines = avatar.sketch(side, random.uniform(0.7, 1.8)) if drawn else np.full((side, side), 255, np.uint8)
    if random.random() < 0.5:
        figure, lines = figure[:, ::-1], lines[:, ::-1]
    color = _background(palette, canvas)
    alpha = _placed(figure[..., 3:] / 255.0, canvas, top, left, 0.0)
    painted = _placed(figure[..., :3].astype(float), canvas, top, left, 255.0)
    if light is not None:
        painted = painted * _shade(alpha[..., 0] > 0.5, light)[..., None]
    color = color * (1 - alpha) + painted * alpha
    mask = np.where(alpha[..., 0] > 0.5, 255, 0).astype(np.uint8)
    sketch = _placed(lines[..., None], canvas, top, left, 255)[..., 0]
    return np.round(np.clip(color, 0, 255)).astype(np.uint8), mask, sketch.astype(np.uint8)


def _background(palette: RoleColors, canvas: tuple[int, int]) -> np.ndarray:
    down = np.linspace(0, 1, canvas[0])[:, None, None]
    rows = palette.background[0] * (1 - down) + palette.background[1] * down
    return np.broadcast_to(rows, (*canvas, 3)).copy()


def _placed(values: np.ndarray, canvas: tuple[int, int], top: int, left: int, fill: float) -> np.ndarray:
    """values (h, w, C) on a canvas (H, W, C) of `fill`, cut where they leave it."""
    out = np.full((*canvas, values.shape[-1]), fill, values.dtype)
    y0, x0 = max(top, 0), max(left, 0)
    y1, x1 = min(top + values.shape[0], canvas[0]), min(left + values.shape[1], canvas[1])
    out[y0:y1, x0:x1] = values[y0 - top : y1 - top, x0 - left : x1 - left]
    return out


def _shade(mask: np.ndarray, light: np.ndarray) -> np.ndarray:
    """Factors (H, W) of brightness: a soft shadow on the side of the figure that is turned from the light."""
    reach = 0.12 * min(mask.shape) * light / max(1e-6, np.hypot(*light))
    moved = _placed(mask[..., None], (mask.shape[0], mask.shape[1]), int(reach[0]), int(reach[1]), False)[..., 0]
    height, width = mask.shape
    reduced = Image.fromarray(np.where(moved, 255, 0).astype(np.uint8)).resize((width // 8, height // 8))
    lit = np.asarray(reduced.resize((width, height), Image.Resampling.BICUBIC)) / 255.0
    return 0.68 + 0.32 * lit
