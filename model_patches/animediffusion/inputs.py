"""From pictures of ComfyUI to the conditioning of AnimeDiffusion: line drawings and references of one size."""

from __future__ import annotations

import torch

from ...colorize.counts import check_count
from ...colorize.pictures import images
from ...colorize.pictures.sides import sides_of
from ...colorize.sketch.extractors.xdog import XDoG, xdog
from .model import LINES, REFERENCE

LINE_KINDS = ("xdog", "as_drawn", "xdog_of_picture")
WHITE = 1.0  # an empty place of the drawing, black on white


def place_lines(
    image: torch.Tensor,
    mask: torch.Tensor | None,
    height: int,
    width: int,
    fit: str,
    kind: str,
    sigma: float,
    polarity: str,
) -> tuple[torch.Tensor, images.Frame]:
    """Comfy picture -> line drawings (B, 1, height, width) in -1..1, black on white, and where they lie.

    kind: "xdog" reads a drawing of the given polarity and draws its lines again as the model saw lines in training
    (the paper does so with every drawing), "as_drawn" keeps its grey tones, "xdog_of_picture" takes the lines out of a
    coloured picture. sigma: width of the XDoG lines in pixels of the canvas.
    """
    if kind not in LINE_KINDS:
        raise ValueError(f"Lines {kind!r} are unknown; choose one of {', '.join(LINE_KINDS)}.")
    if kind == "xdog_of_picture":
        picture = images.comfy_image_to_model(image, mask, "sketch")
    else:
        picture = images.invert(images.comfy_image_to_sketch(image, mask, polarity))
    source = sides_of(picture)
    frame = images.frame_for(source[0], source[1], height, width, fit)
    if fit == "pad":  # the margin comes after the lines, or its edge would become one
        sized = images.resize(picture, frame.box_height, frame.box_width)
    else:
        sized, _ = images.place(picture, height, width, fit, WHITE)
    sized = sized.clamp(-1, 1)
    lines = images.luminance(sized) if kind == "as_drawn" else images.invert(xdog(sized, XDoG(sigma=sigma)))
    if fit == "pad":
        lines, frame = images.place(lines, height, width, fit, WHITE, source)
    return lines, frame


def place_reference(image: torch.Tensor, height: int, width: int, fit: str) -> torch.Tensor:
    """Comfy picture -> references (B, 3, height, width) in -1..1. The paper's fit is crop: the middle."""
    placed, _ = images.place(images.comfy_image_to_model(image, name="reference"), height, width, fit, WHITE)
    return placed.clamp(-1, 1)


def conditioning(lines: torch.Tensor, reference: torch.Tensor) -> list:
    """ComfyUI's conditioning of drawings (B, 1, H, W) and references (B or 1, 3, H, W). It holds no text tokens."""
    if lines.shape[0] != 1:  # one sketch may have several references
        check_count("references", reference.shape[0], lines.shape[0], "sketches")
    return [[torch.zeros(1, 1, 1), {LINES: lines, REFERENCE: reference}]]
