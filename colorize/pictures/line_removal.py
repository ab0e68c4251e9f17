"""Colours without the model's own lines, for the artist's lines to lie on.

The model draws the sketch's lines along, softer and wider than they were: laid under the artist's own they are a dark
halo. A morphological closing (brightest, then darkest value of a small square) takes away what is dark and narrow and
leaves everything wider as it is; it acts near the artist's lines only. Pure torch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .images import Frame
from .masks import dilate

REACH = ((512, 2), (1 << 30, 3))  # pixels of the canvas to both sides, by its shorter side: half a soft line


def without_model_lines(picture: torch.Tensor, lines: torch.Tensor, frame: Frame, amount: float = 1.0) -> torch.Tensor:
    """Result (B, 3, h, w) in 0..1 -> the same, freed of dark narrow marks near the artist's lines.

    lines: line layer (1 or B, 3, H, W) of the drawing, paper 1 (`artist_lines.line_layer`). frame: where the drawing
    lies on the canvas; the result may be a multiple of the canvas. amount: 0 (as it is) to 1.
    """
    height, width = picture.shape[-2:]
    ink = on_result(1 - lines.amin(dim=1, keepdim=True), frame, height, width)
    base = next(reach for side, reach in REACH if min(frame.height, frame.width) <= side)
    reach = max(1, round(base * width / frame.width))
    side = 2 * reach + 1
    near = dilate(ink, side)
    closed = -dilate(-dilate(picture, side), side)
    return picture + amount * near * (closed - picture)


def on_result(ink: torch.Tensor, frame: Frame, height: int, width: int) -> torch.Tensor:
    """Ink (B, 1, H, W) of a drawing -> the most ink of every pixel of the result (B, 1, height, width), 0 around it."""
    across, down = width / frame.width, height / frame.height
    box = F.adaptive_max_pool2d(ink, (max(1, round(frame.box_height * down)), max(1, round(frame.box_width * across))))
    left, top = round(frame.left * across), round(frame.top * down)
    box = box[..., max(0, -top) :, max(0, -left) :][..., : height - max(0, top), : width - max(0, left)]
    after = (width - max(0, left) - box.shape[-1], height - max(0, top) - box.shape[-2])
    return F.pad(box, (max(0, left), after[0], max(0, top), after[1]))
