"""The artist's own lines as a layer that lies over colours: taken from a drawing, laid on, and as RGBA. Pure torch."""

from __future__ import annotations

import torch

from ..counts import check_count
from .images import detect_polarity, luminance, on_white, rgb_and_alpha


def line_layer(image: torch.Tensor, mask: torch.Tensor | None = None, polarity: str = "auto") -> torch.Tensor:
    """Comfy picture of a drawing -> (B, 3, H, W) in 0..1 to multiply with: paper exactly 1, lines as dark as drawn.

    Coloured lines keep their colour. The paper's own tone (its median) is divided out, so grey scans do not dim
    the result.
    """
    colours, alpha = rgb_and_alpha(image, mask, "lines")
    kinds = detect_polarity(colours, alpha) if polarity == "auto" else [polarity] * colours.shape[0]
    rows = []
    for index, kind in enumerate(kinds):
        opacity = None if alpha is None else alpha[index : index + 1]
        ink = colours[index : index + 1]
        if kind == "dark_on_light":
            layer = on_white(ink, opacity)
        elif kind == "light_on_dark":
            layer = 1 - (ink if opacity is None else ink * opacity)
        elif opacity is None:
            layer = torch.ones_like(ink)  # nothing is transparent: there are no lines to lay on
        else:
            dark_ink = (luminance(ink) * opacity).sum() <= 0.5 * opacity.sum()
            layer = on_white(ink if dark_ink else torch.zeros_like(ink), opacity)
        seen = layer[:, :1] if layer.stride(1) == 0 else layer
        paper = seen.flatten(2).median(dim=2).values[..., None, None]
        rows.append((seen / paper.clamp_min(0.5)).clamp(0, 1).expand_as(layer))
    return torch.cat(rows)


def ink_layer(lines: torch.Tensor) -> torch.Tensor:
    """Lines (B, 3, H, W) in 0..1 to multiply with -> (B, 4, H, W) straight RGBA, opaque where they are dark.

    The opacity has 8 bits and the colour fits it, so that a saved layer, laid on with "multiply", darkens as
    `overlay_lines` does.
    """
    opacity = ((1 - lines.amin(dim=1, keepdim=True)) * 255).round() / 255
    colour = ((lines - (1 - opacity)) / opacity.clamp_min(1 / 255)).clamp(0, 1)
    return torch.cat([torch.where(opacity > 0, colour, torch.zeros_like(colour)), opacity], dim=1)


def overlay_lines(picture: torch.Tensor, lines: torch.Tensor, opacity: float = 1.0) -> torch.Tensor:
    """Multiply (B, 3, H, W) in 0..1 with a line layer (b, 3, H, W), b divides B; opacity 0 changes nothing."""
    check_line_layer(picture, lines)
    if 1 < len(lines) < len(picture):
        lines = lines.repeat(len(picture) // len(lines), 1, 1, 1)
    return picture * (1 - opacity * (1 - lines))


def check_line_layer(picture: torch.Tensor, lines: torch.Tensor) -> None:
    """Raise ValueError unless a line layer (b, 3, H, W), b divides B, has the size of pictures (B, 3, H, W)."""
    if picture.shape[-2:] != lines.shape[-2:]:
        raise ValueError(
            f"The lines are {lines.shape[-1]}x{lines.shape[-2]} pixels, the picture "
            f"{picture.shape[-1]}x{picture.shape[-2]}. "
            "Connect the same drawing to lines that was given to Prepare Sketch."
        )
    advice = "Connect one, or one per picture."
    check_count("line drawings", lines.shape[0], picture.shape[0], advice=advice, repeats=True)
