"""Figure masks: thresholds, growing, and what goes into and comes out of a segmentation network. Pure torch.

A mask is (B, 1, H, W) or (B, H, W) in 0..1, 1 = figure. Pictures are (B, 3, H, W) in -1..1. Released values, from the
golden case `mask_preprocess`. Masks for the latent: `split_attention.to_latent_size`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from .sides import sides_of

Network = Callable[[torch.Tensor], torch.Tensor]
"""Pictures (B, 3, S, S) -> figure (B, 1, S, S) in 0..1."""

GRID = (60, 40)  # height and width in pixels of a cell of `grow_to_grid`
DILATION = 11  # pixels; side of the square by which masks of references are dilated
WORKING_SIZE = 1024  # pixels; side of the square a segmentation network reads
PADDING = -1.0  # around a picture that is not square; black
VARIANTS = ("paper", "released")


# -- masks -------------------------------------------------------------------------------------------------------------


def binary(mask: torch.Tensor, threshold: float) -> torch.Tensor:
    """1 where the mask is greater than the threshold (0..1), else 0; the background includes ties."""
    return (mask > threshold).to(mask.dtype)


def looks_inverted(figure: torch.Tensor) -> bool:
    """Whether a binary mask (1, H, W) marks the border of its picture and leaves the middle out; a rule of thumb."""
    border = torch.cat([figure[:, 0], figure[:, -1], figure[:, :, 0], figure[:, :, -1]], dim=1).mean()
    height, width = figure.shape[-2:]
    rows, columns = (slice(side // 3, max(side // 3 + 1, side - side // 3)) for side in (height, width))
    return bool(border > 0.8 and figure[:, rows, columns].mean() < 0.3)


def without_figure(picture: torch.Tensor, mask: torch.Tensor, threshold: torch.Tensor | float) -> torch.Tensor:
    """Pictures (B, 3, H, W), white (1) where their mask (B, 1, H, W) is not below the threshold: one number, or (B,).

    The released rule for the background of a reference: kept where mask < threshold, so ties belong to the figure.
    """
    return torch.where(_below(mask, threshold), picture, torch.ones_like(picture))


def without_background(picture: torch.Tensor, mask: torch.Tensor, threshold: torch.Tensor | float) -> torch.Tensor:
    """Pictures (B, 3, H, W), white (1) where their mask (B, 1, H, W) is below the threshold: what the other rule keeps.

    Not in the papers, whose figure queries read the whole reference; docs/LOG.md has what it does.
    """
    return torch.where(_below(mask, threshold), torch.ones_like(picture), picture)


def _below(mask: torch.Tensor, threshold: torch.Tensor | float) -> torch.Tensor:
    return mask < torch.as_tensor(threshold, device=mask.device, dtype=mask.dtype).reshape(-1, 1, 1, 1)


def dilate(mask: torch.Tensor, side: int = DILATION) -> torch.Tensor:
    """Every pixel gets the largest value in the square around it; `side` is odd, 1 changes nothing."""
    return _largest_along(_largest_along(mask, side, -1), side, -2)  # a square is a row, then a column


def _largest_along(values: torch.Tensor, side: int, dim: int) -> torch.Tensor:
    """The largest of the `side` values around every one along a dimension.

    Windows are doubled until two of them cover the side: a maximum of 17 values is 5 steps instead of 16.
    """
    half, length = side // 2, values.shape[dim]
    largest, reach = F.pad(values, (half, half, 0, 0) if dim == -1 else (0, 0, half, half), value=-torch.inf), 1
    while 2 * reach <= side:
        count = largest.shape[dim] - reach
        largest, reach = torch.maximum(largest.narrow(dim, 0, count), largest.narrow(dim, reach, count)), 2 * reach
    return torch.maximum(largest.narrow(dim, 0, length), largest.narrow(dim, side - reach, length))


def grow_to_grid(mask: torch.Tensor, cell: tuple[int, int] = GRID, variant: str = "paper") -> torch.Tensor:
    """Every cell (height, width in pixels) of a grid from the top left gets its largest value; same shape.

    Used in training on the masks of references, so that the outline of the figure cannot be read off its background.
    The released code leaves the incomplete cells at the bottom and at the right 0, which shows the figure there;
    variant "paper" fills them like all others.
    """
    if variant not in VARIANTS:
        raise ValueError(f"Grid variant {variant!r} is unknown; choose one of {', '.join(VARIANTS)}.")
    height, width = mask.shape[-2:]
    cells = F.max_pool2d(mask, cell, ceil_mode=True)
    grown = cells.repeat_interleave(cell[0], dim=-2).repeat_interleave(cell[1], dim=-1)[..., :height, :width]
    if variant == "released":
        grown = grown.clone()
        grown[..., height - height % cell[0] :, :] = 0
        grown[..., width - width % cell[1] :] = 0
    return grown


# -- around a segmentation network -------------------------------------------------------------------------------------


def figure_mask(network: Network, picture: torch.Tensor, size: int = WORKING_SIZE, dilation: int = 1) -> torch.Tensor:
    """Figure of a colour picture, (B, 1, H, W) in 0..1; `dilation` as in `dilate` (released: DILATION).

    Released route: the longer side is brought to `size` pixels (bicubic), the picture centred on a black square, and
    the network reads it inverted, in 0..1. The answer is cut out again and resized (bicubic, clamped).
    """
    height, width = picture.shape[-2:]
    small = _scaled(picture, size / max(height, width))
    rows, columns = small.shape[-2:]
    top, left = (size - rows) // 2, (size - columns) // 2
    square = picture.new_full((*picture.shape[:2], size, size), PADDING)
    square[..., top : top + rows, left : left + columns] = small
    answer = network((1 - square) / 2)[..., top : top + rows, left : left + columns]
    return dilate(squash(answer, height, width).clamp(0, 1), dilation)


def sketch_figure_mask(
    network: Network,
    drawing: torch.Tensor,  # dark lines on white: the inverse of a model sketch
    height: int,
    width: int,
    size: int = WORKING_SIZE,
) -> torch.Tensor:
    """Figure of a drawing, (B, 1, height, width) in 0..1.

    Released route: the drawing is squashed to a square of `size` pixels (bicubic), the network reads it in -1..1 as it
    is, and the answer is resized to height x width (bicubic, clamped).
    """
    return squash(network(squash(drawing, size, size)), height, width).clamp(0, 1)


def _scaled(picture: torch.Tensor, scale: float) -> torch.Tensor:
    """Bicubic by a factor, sides rounded down. The factor itself, not the ratio of the sides, places the samples."""
    sides = [int(side * scale) for side in picture.shape[-2:]]
    if 0 in sides:  # a strip narrower than one pixel of the result
        return squash(picture, *(max(1, side) for side in sides))
    return F.interpolate(picture, scale_factor=scale, mode="bicubic", align_corners=False)


# -- pictures brought to the size of another ---------------------------------------------------------------------------


def squash(picture: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Bicubic without antialiasing, proportions ignored."""
    return F.interpolate(picture, (height, width), mode="bicubic", align_corners=False)


def shown_part(source: tuple[int, int], target: tuple[int, int]) -> tuple[float, float]:
    """Parts (of the height, of the width) of a source (height, width) that fill a target; one of them is 1."""
    down, across = target[0] / source[0], target[1] / source[1]
    return down / max(down, across), across / max(down, across)


def cut_and_resize(picture: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The top left part with the proportions height x width (sides rounded down), resized bilinearly, antialiased."""
    source = sides_of(picture)
    rows, columns = (max(1, int(side * part)) for side, part in zip(source, shown_part(source, (height, width))))
    cut = picture[..., :rows, :columns]
    return F.interpolate(cut, (height, width), mode="bilinear", align_corners=False, antialias=True)
