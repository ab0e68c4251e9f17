"""Which part of a reference an encoder reads: what becomes its square. Pure torch; pictures in -1..1."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ..pictures.images import resize

FIT_MODES = ("stretch", "pad", "crop", "trim")

WHITE = 1.0
NEAR = 0.12  # of a range of 2: what differs less from the margin's colour is margin; JPEG's noise does
EVEN = 0.8  # share of the picture's edge that is of one colour, where there is a margin
SPECKS = 0.004  # share of a row or column that may differ and be dust
AROUND = 0.03  # of the longer side of what is shown: left of the margin


def fitted(image: torch.Tensor, fit: str) -> torch.Tensor:
    """Picture (B, 3, H, W) in [-1, 1] -> the part of it (B, 3, h, w) that an encoder squashes to its square.

    fit: "stretch" keeps it as it is; "pad" adds white margins to a square; "crop" takes the central square; "trim"
    (ours) takes the square around what is shown within margins of one colour, so that a small figure on blank paper
    fills it, and keeps as it is what has none. Parts of a batch come in the size of the largest.
    """
    if fit not in FIT_MODES:
        raise ValueError(f"Reference fit {fit!r} is unknown; choose one of {FIT_MODES}.")
    height, width = image.shape[-2:]
    if fit == "pad":
        side = max(height, width)
        left, top = (side - width) // 2, (side - height) // 2
        return F.pad(image, (left, side - width - left, top, side - height - top), value=WHITE)
    if fit == "crop":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        return image[..., top : top + side, left : left + side]
    if fit == "trim":
        parts = [trimmed(picture) for picture in image]
        size = max((part.shape[-2:] for part in parts), key=lambda sides: sides[0] * sides[1])
        return torch.cat([resize(part[None], *size) for part in parts])
    return image


def trimmed(picture: torch.Tensor) -> torch.Tensor:
    """The square (3, s, s) around what a picture (3, H, W) shows within margins of one colour, with a little of them;
    the picture as it is where it has none, or shows nothing."""
    found = shown_part(picture)
    if found is None:
        return picture
    top, bottom, left, right = found
    side = round((1 + 2 * AROUND) * max(bottom - top, right - left))
    top, left = (top + bottom - side) // 2, (left + right - side) // 2
    part = _margin_colour(picture).view(3, 1, 1).repeat(1, side, side)
    height, width = picture.shape[-2:]
    above, before = max(0, -top), max(0, -left)
    seen = picture[:, max(0, top) : min(height, top + side), max(0, left) : min(width, left + side)]
    part[:, above : above + seen.shape[1], before : before + seen.shape[2]] = seen
    return part


def shown_part(picture: torch.Tensor) -> tuple[int, int, int, int] | None:
    """(top, bottom, left, right) of what a picture (3, H, W) shows within margins of one colour; None without margins,
    and for a picture of nothing else."""
    colour = _margin_colour(picture)
    if ((_edge(picture) - colour[:, None]).abs().amax(dim=0) < NEAR).float().mean() < EVEN:
        return None
    differs = ((picture - colour.view(3, 1, 1)).abs().amax(dim=0) >= NEAR).float()
    rows, columns = ((differs.mean(dim=dim) > SPECKS).nonzero()[:, 0] for dim in (1, 0))
    if not len(rows) or not len(columns):
        return None
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def _edge(picture: torch.Tensor) -> torch.Tensor:
    """(3, N): the outermost pixels."""
    return torch.cat([picture[:, 0], picture[:, -1], picture[:, :, 0], picture[:, :, -1]], dim=1)


def _margin_colour(picture: torch.Tensor) -> torch.Tensor:
    return _edge(picture).median(dim=1).values
