"""From a drawing of any polarity to ink: how much line is on every pixel, and which pixels are line.

Ink is (H, W) uint8, 0 = paper, 255 = a full line. Everything here works on one drawing; numpy and scipy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage

from . import artist_lines, images, line_measures

FULL = 255
FAINT, CLEAR = 0.16, 0.36  # of a full line: ink above CLEAR is line, and so is ink above FAINT that touches it
PAPER_SIDE = 64  # pixels of the picture in which the paper's own tone is measured
WEAKEST_PEAK = 0.08  # drawings with less contrast are blank
LINE_PIXELS = 2.2  # width of a line on the working copy, in pixels
LARGEST_SIDE, SMALLEST_SIDE = 2048, 1024  # pixels of the longer side of the working copy
EIGHT = np.ones((3, 3), bool)


@dataclass(frozen=True)
class WorkingCopy:
    """The drawing at the size at which its regions are found."""

    lines: np.ndarray
    """(h, w) bool: line pixels, closed against leaks along diagonals"""
    ink: np.ndarray
    """(h, w) uint8, the most ink of every cell"""
    factor: int
    """side of a cell in pixels of the drawing"""
    line_width: float
    """mean width of the lines in pixels of this copy; at least 1"""


def ink_of(image: torch.Tensor, mask: torch.Tensor | None = None, polarity: str = "auto") -> list[np.ndarray]:
    """Ink of every drawing of a comfy batch (B, H, W, C) in 0..1; mask and polarity as for `artist_lines.line_layer`.

    The darkest channel decides, so that coloured trace lines count in full. The paper's tone is divided out where it
    varies slowly (scans, pencil smudges). Raises ValueError for what is no picture.
    """
    images.check_image(image, "lines")
    return [_normalised(_strength(image, mask, polarity, index)) for index in range(image.shape[0])]


def _strength(image: torch.Tensor, mask: torch.Tensor | None, polarity: str, index: int) -> np.ndarray:
    """(H, W) float32: brightness of the drawing `index` as dark lines on white, 0..1."""
    row = None if mask is None else mask[min(index, mask.shape[0] - 1)][None] if mask.ndim == 3 else mask
    drawing = image[index : index + 1]
    if drawing.shape[-1] == 3 and bool((drawing[..., :1] == drawing[..., 1:]).all()):
        drawing = drawing[..., :1]  # grey, as most drawings are: a third of the work
    layer = artist_lines.line_layer(drawing, row, polarity)
    return (layer[0, 0] if layer.stride(1) == 0 else layer[0].amin(dim=0)).numpy()


def _normalised(light: np.ndarray) -> np.ndarray:
    """Brightness (H, W) in 0..1 -> ink (H, W) uint8, the local paper at 0 and the full line at 255."""
    light = light / np.maximum(_paper(light), 0.2)
    ink = np.clip(1 - light, 0, 1, out=light)
    strong = ink[ink > WEAKEST_PEAK]
    if strong.size < 8:
        return np.zeros(ink.shape, np.uint8)
    peak = float(np.quantile(strong[:: max(1, strong.size // 200_000)], 0.9))
    return np.rint(np.clip(ink * (FULL / peak), 0, FULL, out=ink)).astype(np.uint8)


def _paper(light: np.ndarray) -> np.ndarray | np.floating:
    """(H, W) the paper's tone around every pixel: a high quantile per cell, smoothed. One tone of a small picture."""
    cell = max(1, math.ceil(max(light.shape) / PAPER_SIDE))
    if min(light.shape) < 4 * cell:
        return np.float32(np.quantile(light, 0.7))
    rows, columns = (math.ceil(side / cell) for side in light.shape)
    padded = np.pad(light, ((0, rows * cell - light.shape[0]), (0, columns * cell - light.shape[1])), mode="edge")
    cells = padded.reshape(rows, cell, columns, cell).swapaxes(1, 2).reshape(rows, columns, -1)
    step = max(1, cell * cell // 64)
    tone = np.quantile(cells[:, :, ::step], 0.75, axis=2).astype(np.float32)
    tone = ndimage.uniform_filter(ndimage.percentile_filter(tone, 70, 5), 3)
    grown = torch.nn.functional.interpolate(
        torch.from_numpy(tone)[None, None], size=light.shape, mode="bilinear", align_corners=False
    )
    return grown[0, 0].numpy()


def line_width(lines: np.ndarray) -> float:
    """Mean width of the lines of a mask (H, W) in pixels; 0 without lines."""
    return line_measures.line_width(torch.from_numpy(lines)[None, None].float())


def working_copy(ink: np.ndarray, dust: float = 2.0) -> WorkingCopy:
    """The copy at which regions are found: lines about LINE_PIXELS wide, the longer side at most LARGEST_SIDE pixels.

    dust: specks of ink whose area is below (dust x line width)^2 are paper: scanner dirt, screentone, stippling.
    """
    longest = max(ink.shape)
    width = line_width(ink > CLEAR * FULL)
    factor = max(1, math.floor(width / LINE_PIXELS))
    factor = min(factor, max(1, longest // SMALLEST_SIDE))
    factor = max(factor, math.ceil(longest / LARGEST_SIDE))
    small = _pooled(ink, factor)
    lines = _hysteresis(small)
    thickness = max(1.0, line_width(lines))
    lines = _without_specks(lines, (dust * thickness) ** 2)
    return WorkingCopy(closed_diagonals(lines), small, factor, thickness)


def _pooled(ink: np.ndarray, factor: int) -> np.ndarray:
    """The largest value of every cell of factor x factor pixels."""
    if factor == 1:
        return ink
    rows, columns = (math.ceil(side / factor) for side in ink.shape)
    padded = np.pad(ink, ((0, rows * factor - ink.shape[0]), (0, columns * factor - ink.shape[1])))
    return padded.reshape(rows, factor, columns, factor).max(axis=(1, 3))


def _hysteresis(ink: np.ndarray) -> np.ndarray:
    """Line pixels: clear ink, and the faint ink that is connected with some."""
    labels, count = ndimage.label(ink > FAINT * FULL, EIGHT)
    clear = np.zeros(count + 1, bool)
    clear[labels[ink > CLEAR * FULL]] = True
    clear[0] = False
    return clear[labels]


def _without_specks(lines: np.ndarray, area: float) -> np.ndarray:
    labels, count = ndimage.label(lines, EIGHT)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    keep = sizes >= area
    keep[0] = False
    return keep[labels]


def closed_diagonals(lines: np.ndarray) -> np.ndarray:
    """The lines with one pixel more wherever paper would leak diagonally between two pixels of a line."""
    a, b, c, d = lines[:-1, :-1], lines[:-1, 1:], lines[1:, :-1], lines[1:, 1:]
    closed = lines.copy()
    closed[:-1, 1:] |= a & d & ~b & ~c
    closed[:-1, :-1] |= b & c & ~a & ~d
    return closed
