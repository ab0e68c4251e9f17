"""Shading apart from the flats: how much darker or lighter than its own piece every place of the soft result is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

from . import oklab
from .flatten import Flats, check_proportions
from .region_colours import EDGE, modes, samples

LONGEST = 1024  # pixels of the longer side of the copy on which shading is measured
SMOOTH = 0.003  # of that side: sigma of the blur
DARKEST, LIGHTEST = 0.35, 1.6  # limits of the ratio to the piece's own tone
STEPS = {1: (0.86,), 2: (0.9, 0.72)}  # ratios at which cel shadows begin
TONES = {1: (0.72,), 2: (0.8, 0.6)}
LIGHT_STEP, LIGHT_TONE = 1.18, 1.3
SPECK = 0.025  # of the longer side; cel tones that cover less than its square are left out


@dataclass(frozen=True, eq=False)
class Shade:
    """What to lay over flats, each (H, W) float32 in 0..1."""

    multiply: np.ndarray
    """1 = as flat"""
    screen: np.ndarray
    """0 = as flat"""


def shade(flats: Flats, picture: np.ndarray, levels: int = 0) -> Shade:
    """Shadows and lights of a soft result (h, w, 3) sRGB 0..1 over its flats; of several, (N, h, w, 3), of their mean.

    They are grey: the ratio of the result's luma to that of its own piece, so that a palette of other colours keeps its
    hues. Lines count for nothing. levels: 0 = smooth, 1 or 2 = cel shading with so many tones and crisp edges.
    """
    if levels not in (0, 1, 2):
        raise ValueError(f"{levels} shadow tones were asked for; choose 0 (smooth), 1 or 2.")
    check_proportions(flats.regions, picture)
    reduced = torch.from_numpy(_ratio(flats, picture if picture.ndim == 3 else picture.mean(axis=0)))[None, None]
    height, width = flats.regions.pieces.shape
    tones = F.interpolate(reduced, (height, width), mode="bicubic", align_corners=False)
    ratio = tones[0, 0].clamp(DARKEST, LIGHTEST).numpy()
    if levels:
        ratio = _cel(ratio, levels)
    luma = (flats.palette.srgb.astype(np.float32) / 255) @ np.array([0.299, 0.587, 0.114], np.float32)
    gain = luma / np.maximum(1 - luma, 0.05)
    screen = (ratio - 1) * gain[flats.entry][flats.regions.pieces]
    return Shade(np.minimum(ratio, 1, out=ratio), np.clip(screen, 0, 0.6, out=screen))


def _ratio(flats: Flats, picture: np.ndarray) -> np.ndarray:
    """(h, w) float32: tone over the piece's tone on a reduced copy, without lines, smoothed."""
    regions = flats.regions
    found = samples(regions, picture)
    tones = oklab.to_srgb(modes(found)[0]) @ np.array([0.299, 0.587, 0.114], np.float32)
    height, width = regions.pieces.shape
    scale = min(1.0, LONGEST / max(height, width))
    rows, columns = max(1, round(height * scale)), max(1, round(width * scale))
    y = np.minimum((np.arange(rows) + 0.5) * height / rows, height - 1).astype(int)
    x = np.minimum((np.arange(columns) + 0.5) * width / columns, width - 1).astype(int)
    soft = torch.from_numpy(np.ascontiguousarray(picture, np.float32)).permute(2, 0, 1)[None]
    soft = F.interpolate(soft, (rows, columns), mode="bilinear", align_corners=False, antialias=True)[0]
    luma = (soft * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(0).numpy()
    here = regions.pieces[y[:, None], x]
    ratio = np.clip(luma / np.maximum(tones[here], 0.06), DARKEST, LIGHTEST)
    edge = regions.ink[y[:, None], x] > 40
    edge[:, 1:] |= here[:, 1:] != here[:, :-1]
    edge[1:] |= here[1:] != here[:-1]
    near = ndimage.distance_transform_edt(~edge) <= EDGE * max(rows, columns) if edge.any() else edge
    if not near.all():  # what lies on lines and edges is taken from beside them
        row, column = ndimage.distance_transform_edt(near, return_distances=False, return_indices=True)
        ratio = ratio[row, column]
    return ndimage.gaussian_filter(ratio, SMOOTH * max(rows, columns)).astype(np.float32)


def _cel(ratio: np.ndarray, levels: int) -> np.ndarray:
    """One tone per step, with an edge one pixel soft, and without specks, which a painter would not make."""
    slope_y, slope_x = (np.gradient(ratio, axis=axis) if ratio.shape[axis] > 1 else 0 for axis in (0, 1))
    slope = np.maximum(np.hypot(slope_y, slope_x), 1e-4)
    result = np.ones(ratio.shape, np.float32)
    before = 1.0
    for step, tone in zip(STEPS[levels], TONES[levels]):
        result += _without_specks(np.clip((step - ratio) / slope + 0.5, 0, 1)) * (tone - before)
        before = tone
    return result + _without_specks(np.clip((ratio - LIGHT_STEP) / slope + 0.5, 0, 1)) * (LIGHT_TONE - 1)


def _without_specks(cover: np.ndarray) -> np.ndarray:
    """How much a tone covers every place (H, W), 0..1; connected patches below SPECK are gone."""
    labels, count = ndimage.label(cover > 0)
    kept = np.bincount(labels.ravel(), minlength=count + 1) >= (SPECK * max(cover.shape)) ** 2
    kept[0] = False
    return cover * kept[labels]
