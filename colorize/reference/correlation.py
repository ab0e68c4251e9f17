"""Where a prompt finds itself in a reference: the five bands of local manipulation as a picture and as text.

The equations are in reference.manipulation. LOW correlation is what the words mean: CLIP's local tokens run the other
way than its class token, so the places that show a thing project least on its words (v1 paper 4.2, Fig 8). The paper
wants the attribute to edit at m <= t1 and what is to be kept at m > t2, and draws related places deep blue.
Suggested thresholds are this project's own: a split at the deepest valley of the histogram. Torch and Pillow only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageColor, ImageDraw, ImageFont

from ..counts import check_count
from ..pictures.ranges import model_to_levels
from . import manipulation
from .edits import TextSide, check_part, vectors
from .fitting import fitted
from .manipulation import THRESHOLDS
from .types import Reference

BAND_NAMES = ("most related", "related", "in between", "unrelated", "most unrelated")
BAND_WEIGHTS = ("-r d", "-r d to 0", "0 to d/2", "d/2 to d", "d")
BAND_COLOURS = ("#2166ac", "#92c5de", "#fee090", "#f46d43", "#b2182b")
OPACITY = 0.6  # of the bands over the picture
PALENESS = 0.7  # of the picture below them: its own colours would be taken for bands
LIGHTNESS = 0.3  # white in it: the bands keep their tone on dark places

STEP = 0.01  # of a threshold
BINS = 50  # of the histogram
SMOOTHING = 1.5  # bins; sigma of the blur before valleys are looked for
DEEP = 0.1  # a valley counts from this depth on, as a part of the highest bin
SMALLEST_PART = 0.02  # of the tokens must lie below a valley
RAMP = THRESHOLDS[1] - THRESHOLDS[0]

SIDE = 512  # pixels; longer side of the picture in the drawing
PANEL = 440  # pixels; width of the histogram and its legend
MARGIN = 16


@dataclass(frozen=True)
class Correlation:
    """What one reference has to do with a prompt."""

    m: torch.Tensor
    """(N,): correlations of the local tokens, 0..1."""
    lowest: float
    highest: float
    """The scalar products v.c that became 0 and 1."""
    whole: float
    """cls.c, that of the class token: the scale of target_scale."""


def measure(tokens: torch.Tensor, local: torch.Tensor, control: torch.Tensor) -> list[Correlation]:
    """Tokens (B, 1 + N, D), the local tokens to look at (B, N, D) and a text vector (D,) -> one answer per reference.

    The answers lie on the CPU. Raises ValueError when the tokens hold NaN, or do not form a square.
    """
    if not bool(torch.isfinite(local).all()):
        raise ValueError("The reference holds NaN or infinite values. Encode it again.")
    if math.isqrt(local.shape[1]) ** 2 != local.shape[1]:
        raise ValueError(
            f"The reference has {local.shape[1]} local tokens, which form no square, so they cannot be drawn. Connect "
            "a reference of Encode Reference."
        )
    tokens, local, control = (values.float().cpu() for values in (tokens, local, control))  # drawn there
    raw, whole = manipulation.dot(local, control), manipulation.dot(tokens[:, :1], control)
    m = manipulation.min_max(raw)
    return [
        Correlation(m[row, :, 0], raw[row].min().item(), raw[row].max().item(), whole[row].item())
        for row in range(len(local))
    ]


# -- suggested thresholds ----------------------------------------------------------------------------------------------


def suggest_thresholds(m: torch.Tensor) -> tuple[float, float, float, float]:
    """Correlations of any shape, 0..1 -> t0, t1, t2, t3 in steps of 0.01.

    t1 separates what the prompt means, the low side, from the rest: the deepest valley of the smoothed histogram, else
    Otsu's threshold. t0 lies 0.05 below it, as the paper's does, so the low side gets nearly all of -r d. t2 = t3 = 1
    leaves the rest alone as far as Eq 10 can: its weights rise from 0 at t1 to d / 2 at 1. Values that are all equal:
    the paper's.
    """
    values = m.detach().flatten().double().cpu()
    if values.numel() < 2 or values.max() == values.min():
        return THRESHOLDS
    counts = torch.histc(values, bins=BINS, min=0, max=1)
    split = _valley(counts)
    t1 = min(max(_otsu(counts) if split is None else split, STEP), 1 - STEP)
    return _rounded(max(t1 - RAMP, 0.0)), _rounded(t1), 1.0, 1.0


def _rounded(value: float) -> float:
    return round(round(value / STEP) * STEP, 2)


def _valley(counts: torch.Tensor) -> float | None:
    """Position, 0..1, of the deepest valley of a histogram; None without one that is deep enough."""
    reach = math.ceil(3 * SMOOTHING)
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, dtype=counts.dtype) / SMOOTHING) ** 2)
    padded = F.pad(counts[None, None], (reach, reach), mode="replicate")
    heights = F.conv1d(padded, (kernel / kernel.sum())[None, None])[0, 0]
    left, right = heights.cummax(0).values, heights.flip(0).cummax(0).values.flip(0)
    depth = torch.minimum(left, right) - heights
    depth[counts.cumsum(0) / counts.sum() < SMALLEST_PART] = 0
    if depth.max() < DEEP * heights.max():
        return None
    deepest = torch.nonzero(depth >= depth.max() - 1e-9).flatten()
    return (deepest.double().mean().item() + 0.5) / BINS  # the middle of a flat valley


def _otsu(counts: torch.Tensor) -> float:
    """Otsu's threshold of a histogram over 0..1: the variance between the two sides is largest."""
    centres = (torch.arange(BINS, dtype=counts.dtype) + 0.5) / BINS
    below, mass = counts.cumsum(0), (counts * centres).cumsum(0)
    total, mean = below[-1], mass[-1] / below[-1]
    between = (mean * below - mass) ** 2 / (below * (total - below)).clamp_min(1e-9)
    return (between[:-1].argmax().item() + 1) / BINS


# -- text --------------------------------------------------------------------------------------------------------------


def report(found: Correlation, prompt: str, thresholds: tuple[float, ...]) -> list[str]:
    """The values as lines of text."""
    shares = _shares(found.m, thresholds)
    edges = [f"{value:.2f}" for value in thresholds]
    places = [f"m <= {edges[0]}", *(f"{a} < m <= {b}" for a, b in zip(edges, edges[1:])), f"{edges[-1]} < m"]
    rows = zip(places, BAND_WEIGHTS, shares, BAND_NAMES, strict=True)
    return [
        f'prompt: "{prompt}"',
        f"class token: {found.whole:.2f}; local tokens: {found.lowest:.2f} (m = 0, most related) to "
        f"{found.highest:.2f} (m = 1, unrelated)",
        *(f"{place}: {weight}, {share:.0%} of the tokens, {name}" for place, weight, share, name in rows),
    ]


def _shares(m: torch.Tensor, thresholds: tuple[float, ...]) -> list[float]:
    counts = torch.bincount(manipulation.bands(m.flatten(), thresholds), minlength=manipulation.BANDS)
    return (counts / m.numel()).tolist()


# -- picture -----------------------------------------------------------------------------------------------------------


def as_encoded(picture: torch.Tensor, fit: str) -> Image.Image:
    """A picture (3, H, W) in -1..1 cut or padded to what the encoder read, its longer side SIDE pixels.

    The part keeps its own proportions: the grid of tokens covers it, whatever they are.
    """
    part = fitted(picture.float().cpu()[None], fit)[0]
    pixels = model_to_levels(part).round().clamp(0, 255).to(torch.uint8).movedim(0, -1)
    image = Image.fromarray(pixels.contiguous().numpy())
    width, height = (max(1, round(side * SIDE / max(image.size))) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def draw(
    found: Correlation,
    prompt: str,
    thresholds: tuple[float, ...],
    picture: torch.Tensor | None = None,
    fit: str = "stretch",
) -> torch.Tensor:
    """The heat map beside its histogram, (H, W, 3) in 0..1, for one reference.

    picture: (3, H, W) in -1..1, the reference itself; without it the bands stand alone on a square.
    """
    left = _heat_map(found.m, thresholds, None if picture is None else as_encoded(picture, fit))
    return side_by_side(left, lambda pen, x, height: _draw_panel(pen, found, prompt, thresholds, x, height))


def side_by_side(left: Image.Image, panel: Callable[[ImageDraw.ImageDraw, int, int], None]) -> torch.Tensor:
    """A picture beside a panel (pen, its left edge, the height), (H, W, 3) in 0..1."""
    height = max(left.height, 400) + 2 * MARGIN
    canvas = Image.new("RGB", (SIDE + PANEL + 3 * MARGIN, height), "white")
    canvas.paste(left, (MARGIN + (SIDE - left.width) // 2, (height - left.height) // 2))
    panel(ImageDraw.Draw(canvas), SIDE + 2 * MARGIN, height)
    return torch.from_numpy(np.asarray(canvas).copy()).float() / 255


def _heat_map(m: torch.Tensor, thresholds: tuple[float, ...], picture: Image.Image | None) -> Image.Image:
    grid = math.isqrt(m.numel())
    colours = torch.tensor([ImageColor.getrgb(colour) for colour in BAND_COLOURS], dtype=torch.uint8)
    cells = Image.fromarray(colours[manipulation.bands(m, thresholds)].view(grid, grid, 3).numpy())
    return over(cells, picture)


def over(cells: Image.Image, picture: Image.Image | None) -> Image.Image:
    """The colours of all places over a pale picture, or alone on a square."""
    if picture is None:
        return cells.resize((SIDE, SIDE), Image.Resampling.NEAREST)
    pale = Image.blend(picture, picture.convert("L").convert("RGB"), PALENESS)
    pale = Image.blend(pale, Image.new("RGB", pale.size, "white"), LIGHTNESS)
    return Image.blend(pale, cells.resize(pale.size, Image.Resampling.NEAREST), OPACITY)


def _draw_panel(
    pen: ImageDraw.ImageDraw, found: Correlation, prompt: str, thresholds: Any, left: int, height: int
) -> None:
    """Prompt, histogram with the thresholds, legend."""
    small, large = font(13), font(18)
    legend = manipulation.BANDS * 22
    top, bottom = MARGIN + 116, height - MARGIN - legend - 40
    write(pen, (left, MARGIN), shortened(pen, f'"{prompt}"', large, PANEL), large)
    write(pen, (left, MARGIN + 28), f"class token {found.whole:.2f}", small)
    write(pen, (left, MARGIN + 46), f"local tokens {found.lowest:.2f} to {found.highest:.2f}", small)

    counts = torch.histc(found.m.float().cpu(), bins=BINS, min=0, max=1)
    heights = counts.sqrt() / counts.max().clamp_min(1).sqrt()  # small groups stay visible
    for index, part in enumerate(heights.tolist()):
        centre = torch.tensor([(index + 0.5) / BINS])
        colour = BAND_COLOURS[int(manipulation.bands(centre, thresholds))]
        ends = [left + round(PANEL * edge / BINS) for edge in (index, index + 1)]
        if part:
            pen.rectangle((ends[0], bottom - round((bottom - top) * part), ends[1] - 2, bottom), fill=colour)
    pen.line((left, bottom, left + PANEL, bottom), fill="black")
    for index, threshold in enumerate(thresholds):
        x = left + round(PANEL * threshold)
        pen.line((x, top - 2, x, bottom + 4), fill="black", width=2)
        label = f"{threshold:.2f}"
        row = top - 18 - 14 * (index % 3)  # neighbours lie close together
        write(pen, (min(x, left + PANEL) - pen.textlength(label, font=small) / 2, row), label, small)
    for value in (0, 1):
        label = ("m = 0, most related", "unrelated, m = 1")[value]
        write(pen, (left + value * (PANEL - pen.textlength(label, font=small)), bottom + 8), label, small)

    shares, row = _shares(found.m, thresholds), bottom + 40
    for colour, weight, name, share in zip(BAND_COLOURS, BAND_WEIGHTS, BAND_NAMES, shares, strict=True):
        pen.rectangle((left, row, left + 16, row + 14), fill=colour, outline="black")
        write(pen, (left + 26, row), name, small)
        write(pen, (left + 200, row), f"w = {weight}", small)
        write(pen, (left + 330, row), f"{share:.0%}", small)
        row += 22


def font(size: int) -> Any:
    try:
        return ImageFont.load_default(size)
    except TypeError:  # Pillow before 10.1 has one size only
        return ImageFont.load_default()


def _latin(text: str) -> str:
    """Pillow's own font has Latin letters only; the node's text output has the rest."""
    return text.encode("latin-1", "replace").decode("latin-1")


def write(pen: ImageDraw.ImageDraw, place: tuple[float, float], text: str, font: Any) -> None:
    pen.text(place, _latin(text), fill="black", font=font)


def shortened(pen: ImageDraw.ImageDraw, text: str, font: Any, width: int) -> str:
    text = _latin(text.replace("\n", " "))
    if pen.textlength(text, font=font) <= width:
        return text
    while text and pen.textlength(f"{text}...", font=font) > width:
        text = text[:-1]
    return f"{text}..."


# -- all of it for a reference -----------------------------------------------------------------------------------------


def local_tokens(reference: Reference, part: str = "reference") -> torch.Tensor:
    """Local tokens (B, N, D) of a part that is looked at: "reference" or "background". Raises ValueError."""
    check_part(reference, part)
    background = reference.background_tokens if part == "background" else None
    return reference.local_tokens if background is None else background


def preview(
    reference: Reference,
    text_encoder: TextSide,
    prompt: str,
    thresholds: Sequence[float] | None = None,
    picture: torch.Tensor | None = None,
    part: str = "reference",
) -> tuple[torch.Tensor, tuple[float, float, float, float], str]:
    """(drawings (B, H, W, 3) in 0..1, thresholds, text) of a prompt in a reference.

    thresholds: None suggests some, for the whole batch. picture: (1 or B, 3, H, W) in -1..1, what was encoded.
    part: "reference" or "background", the tokens to look at. Raises ValueError.
    """
    if picture is not None:
        advice = "Connect to image what Encode Reference got."
        check_count("pictures", len(picture), reference.count, "references", advice)
    (control,) = vectors(text_encoder, reference, prompt)
    found = measure(reference.tokens, local_tokens(reference, part), control)
    if thresholds is None:
        thresholds = suggest_thresholds(torch.cat([one.m for one in found]))
    thresholds = manipulation.check_thresholds(thresholds)
    drawings, lines = [], []
    for row, one in enumerate(found):
        shown = None if picture is None else picture[row % len(picture)]
        drawings.append(draw(one, prompt.strip(), thresholds, shown, reference.fit))
        lines += [f"reference {row + 1}"] if len(found) > 1 else []
        lines += report(one, prompt.strip(), thresholds)
    lines.append(f"thresholds: {', '.join(f'{value:.2f}' for value in thresholds)}")
    return torch.stack(drawings), thresholds, "\n".join(lines)
