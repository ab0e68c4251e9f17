"""What an edit, or another picture, changes of a prompt in a reference: dscale^AB of v1's paper (4.2, Fig 8).

dscale_i^AB = v_i^A . e - v_i^B . e, for the class token and every local token i, with e the words' vector. A is the
reference, B the one before. As A has more of a thing, its class token gains on the words, and the local tokens that
show it lose: they are drawn blue, as in the figure, and what gains is red.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from PIL import Image, ImageDraw

from ..counts import check_count
from . import manipulation
from .correlation import (
    BINS,
    MARGIN,
    PANEL,
    as_encoded,
    font,
    local_tokens,
    over,
    shortened,
    side_by_side,
    write,
)
from .edits import TextSide, vectors
from .types import Reference

LOSS, NONE, GAIN = "#2166ac", "#f7f7f7", "#b2182b"
"""Colours of the largest loss, of no change and of the largest gain."""
SMALLEST = 1e-6
"""A change of nothing has no scale of its own."""


@dataclass(frozen=True)
class Change:
    """dscale of one reference."""

    local: torch.Tensor
    """(N,): of its local tokens."""
    whole: float
    """Of its class token."""
    before: float
    """What the class token had."""

    @property
    def largest(self) -> float:
        """The change that has the full colour, blue or red."""
        return max(self.local.abs().max().item(), SMALLEST)


def measure(after: Reference, before: Reference, text: torch.Tensor, part: str = "reference") -> list[Change]:
    """dscale of every reference from the one before (one, or one each) for a text vector (D,). Raises ValueError."""
    check_count("references before", before.count, after.count, "references", "Connect one, or one for each.")
    ours, theirs = local_tokens(after, part), local_tokens(before, part)
    if ours.shape[1:] != theirs.shape[1:]:
        raise ValueError(
            f"The references have {ours.shape[1]} local tokens of width {ours.shape[2]}, those before "
            f"{theirs.shape[1]} of width {theirs.shape[2]}, so no place of the one is a place of the other. "
            "Encode both with one encoder, one fit and one size."
        )
    text = text.float().cpu()
    pairs = [(ours, theirs), (after.tokens[:, :1], before.tokens[:, :1])]
    (now, then), (whole, had) = [[manipulation.dot(x.float().cpu(), text) for x in pair] for pair in pairs]
    local, whole, had = (now - then)[..., 0], (whole - had)[:, 0, 0], had[:, 0, 0].expand(after.count)
    return [Change(*row) for row in zip(local, whole.tolist(), had.tolist(), strict=True)]


def report(change: Change, prompt: str) -> list[str]:
    """The values as lines of text."""
    less = (change.local < 0).float().mean().item()
    return [
        f'prompt: "{prompt}", change from the reference before',
        f"class token: {change.before:.2f} to {change.before + change.whole:.2f} ({change.whole:+.2f})",
        f"local tokens: {change.local.min().item():+.2f} to {change.local.max().item():+.2f}, mean "
        f"{change.local.mean().item():+.2f}",
        f"{less:.0%} of the places show more of it: their values fell",
    ]


def colours(values: torch.Tensor, largest: float) -> torch.Tensor:
    """Changes of any shape -> their colours (..., 3), uint8: blue at -largest, white at 0, red at largest."""
    low, middle, high = (torch.tensor(list(bytes.fromhex(colour[1:]))).double() for colour in (LOSS, NONE, GAIN))
    share = (values.double() / largest).clamp(-1, 1)[..., None]
    return (middle + share.abs() * (torch.where(share < 0, low, high) - middle)).round().to(torch.uint8)


def draw(change: Change, prompt: str, picture: torch.Tensor | None = None, fit: str = "stretch") -> torch.Tensor:
    """The heat map beside its histogram, (H, W, 3) in 0..1. picture: (3, H, W) in -1..1, the reference itself."""
    grid = math.isqrt(change.local.numel())
    cells = Image.fromarray(colours(change.local, change.largest).view(grid, grid, 3).numpy())
    shown = over(cells, None if picture is None else as_encoded(picture, fit))
    return side_by_side(shown, lambda pen, left, height: _draw_panel(pen, change, prompt, left, height))


def _draw_panel(pen: ImageDraw.ImageDraw, change: Change, prompt: str, left: int, height: int) -> None:
    """Prompt, numbers, histogram over its scale."""
    small, large, scale = font(13), font(18), change.largest
    top, bottom = MARGIN + 116, height - MARGIN - 62
    write(pen, (left, MARGIN), shortened(pen, f'"{prompt}"', large, PANEL), large)
    for row, line in enumerate(report(change, prompt)[1:]):
        write(pen, (left, MARGIN + 28 + 18 * row), line, small)
    counts = torch.histc(change.local.float(), bins=BINS, min=-scale, max=scale)
    centres = (torch.arange(BINS) + 0.5 - BINS / 2) * (2 * scale / BINS)
    heights, tones = counts.sqrt() / counts.max().clamp_min(1).sqrt(), colours(centres, scale)
    for index, (part, tone) in enumerate(zip(heights.tolist(), tones.tolist(), strict=True)):
        ends = [left + round(PANEL * edge / BINS) for edge in (index, index + 1)]
        pen.rectangle((ends[0], bottom + 4, ends[1], bottom + 14), fill=tuple(tone))  # the scale
        if part:
            pen.rectangle((ends[0], bottom - round((bottom - top) * part), ends[1] - 2, bottom), fill="#404040")
    pen.line((left, bottom, left + PANEL, bottom), fill="black")
    labels = (f"{-scale:+.2f}, shows more of it", "0", f"{scale:+.2f}, less")
    for place, label in zip((0.0, 0.5, 1.0), labels, strict=True):
        write(pen, (left + place * (PANEL - pen.textlength(label, font=small)), bottom + 20), label, small)


def preview(
    after: Reference,
    before: Reference,
    text_encoder: TextSide,
    prompt: str,
    picture: torch.Tensor | None = None,
    part: str = "reference",
) -> tuple[torch.Tensor, str]:
    """(drawings (B, H, W, 3) in 0..1, text) of what became of a prompt. The rest as in correlation.preview."""
    (text,) = vectors(text_encoder, after, prompt)
    found, prompt = measure(after, before, text, part), prompt.strip()
    drawings, lines = [], []
    for row, change in enumerate(found):
        shown = None if picture is None else picture[row % len(picture)]
        drawings.append(draw(change, prompt, shown, after.fit))
        lines += [f"reference {row + 1}"] if len(found) > 1 else []
        lines += report(change, prompt)
    return torch.stack(drawings), "\n".join(lines)
