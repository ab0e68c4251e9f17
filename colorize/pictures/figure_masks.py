"""Masks that tell figure from background, as people connect them: any size, one for all pictures or one each.

ComfyUI's MASK is (B, H, W) in 0..1; here 1 = figure. A mask of another size than its picture is stretched over the
whole picture. Pure torch.
"""

from __future__ import annotations

import logging
import math

import torch
import torch.nn.functional as F

from ..counts import check_count
from . import images, masks

MASK_ADVICE = "Connect one mask for all, or one for each (Batch Masks joins several)."
SAME_PROPORTIONS = 0.02  # relative; a rounding of one pixel in fifty counts as the same


def check_mask(mask: torch.Tensor, name: str = "mask") -> torch.Tensor:
    """Comfy mask -> (B, H, W) float32 in 0..1. Also takes (H, W) and (B, 1, H, W). Raises ValueError."""
    shape = tuple(getattr(mask, "shape", ()))
    if len(shape) == 2:
        mask = mask[None]
    elif len(shape) == 4 and shape[1] == 1:
        mask = mask[:, 0]
    elif len(shape) != 3:
        raise ValueError(
            f"{name} has the shape {shape}; expected masks (count, height, width). Connect a MASK output, for example "
            "of Load Image (as Mask)."
        )
    if 0 in shape:
        raise ValueError(f"{name} is empty (shape {shape}). Connect a mask of at least one pixel.")
    mask = mask.float()
    broken = int((~torch.isfinite(mask)).sum())
    if broken:
        raise ValueError(
            f"{name} has {broken} of {mask.numel()} values that are NaN or infinite. Look at what makes the mask, or "
            "draw it again: every value must be between 0 (background) and 1 (figure)."
        )
    return mask.clamp(0, 1)


def warn_of_other_proportions(mask: torch.Tensor, height: int, width: int, name: str) -> None:
    """A mask of other proportions is stretched, which is seldom meant; an all-zero one has no shape to lose."""
    if bool(mask.any()) and not math.isclose(mask.shape[-1] * height, mask.shape[-2] * width, rel_tol=SAME_PROPORTIONS):
        logging.warning(
            "%s is %dx%d, its picture %dx%d: the proportions differ, the mask is stretched over the whole picture.",
            name, mask.shape[-1], mask.shape[-2], width, height,
        )  # fmt: skip


def stretched(mask: torch.Tensor, picture: torch.Tensor) -> torch.Tensor:
    """Masks (B or 1, h, w) of references (B, 3, H, W) -> (B or 1, 1, H, W) on their device. Raises ValueError."""
    check_count("figure masks", mask.shape[0], picture.shape[0], "references", MASK_ADVICE)
    height, width = picture.shape[-2:]
    warn_of_other_proportions(mask, height, width, "figure_mask")
    rows = mask[:, None].to(picture.device)
    if rows.shape[-2:] != (height, width):
        rows = F.interpolate(rows, (height, width), mode="bilinear", align_corners=False, antialias=True)
    return rows


def without_background(picture: torch.Tensor, mask: torch.Tensor, threshold: float) -> torch.Tensor:
    """References (B, 3, H, W) in -1..1 -> the same with every pixel white whose mask is below `threshold`.

    mask: as for `without_figure`. Raises ValueError when nothing of a reference would be left.
    """
    rows = stretched(mask, picture)
    if bool((rows < threshold).flatten(1).all(1).any()):
        raise ValueError(
            f"figure_mask marks nothing in a reference at mask_threshold {threshold:g}, so its cut-out figure would be "
            "empty. Set figure to whole picture, lower mask_threshold, or connect the mask of the figure (Segment "
            "Character; 1 = figure)."
        )
    return masks.without_background(picture, rows, threshold)


def without_figure(picture: torch.Tensor, mask: torch.Tensor, threshold: float) -> torch.Tensor:
    """References (B, 3, H, W) in -1..1 -> the same with every pixel white whose mask is not below `threshold`.

    mask: (B or 1, h, w) in 0..1, 1 = figure, stretched over the picture (bilinear, antialiased). The rule is that of
    the released code: background is kept where mask < threshold. White everywhere, or no figure at all, is allowed.
    """
    rows = stretched(mask, picture)
    kept = rows < threshold
    if bool((~kept).flatten(1).all(1).any()):
        logging.warning(
            "figure_mask covers a whole reference at mask_threshold %g: nothing is left for the background but white. "
            "1 must be the figure; Invert Mask turns a mask round.",
            threshold,
        )
    elif bool(kept.flatten(1).all(1).any()):
        logging.warning(
            "figure_mask marks nothing in a reference at mask_threshold %g: the whole picture becomes its background. "
            "Load Image gives such a mask for pictures without transparency.",
            threshold,
        )
    return masks.without_figure(picture, rows, threshold)


def on_canvas(mask: torch.Tensor, frame: images.Frame | None, name: str = "figure_mask") -> torch.Tensor:
    """Masks (B, h, w) of the drawing -> masks (B, height, width) of the canvas that is sampled, 0 around the drawing.

    frame: where Prepare Sketch put the drawing. Without it the mask already is one of the canvas and stays as it is.
    """
    if frame is None:
        return mask
    source = (frame.source_height, frame.source_width)
    warn_of_other_proportions(mask, *source, name)
    placed, _ = images.place(mask[:, None], frame.height, frame.width, frame.fit, blank=0.0, source=source)
    return placed[:, 0].clamp(0, 1)
