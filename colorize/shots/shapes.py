"""What matching needs to know of one drawing: its pieces' places, shapes, outlines, neighbours, on a working copy."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from ..pictures.regions import RegionMap
from .line_motion import line_maps

LONGEST = 384  # pixels of the longer side of the working copy; smaller drawings are taken as they are
UNIT = 256  # lengths are in units of the longer side / UNIT
RAYS = 16


@dataclass(frozen=True, eq=False)
class Shapes:
    """The n pieces of a drawing. Lengths are in working pixels; places are (row, column)."""

    labels: np.ndarray
    """(h, w) int32: the piece of every working pixel"""
    areas: np.ndarray
    """(n,) pixels; 0 for a piece too small to be on the working copy"""
    centres: np.ndarray
    """(n, 2)"""
    moments: np.ndarray
    """(n, 3) mean squared distance from the centre along rows, along columns, and their mean product"""
    rays: np.ndarray
    """(n, RAYS) how far the outline reaches in every direction from the centre"""
    edges: np.ndarray
    """(e, 2) int, places of all outlines' pixels"""
    touches: np.ndarray
    """(n,) bool: reaches the picture's edge"""
    borders: np.ndarray
    """(n, n) float32, length of the common border of every two"""
    maps: torch.Tensor
    """(1, 2, h, w) see `line_motion.line_maps`"""
    tones: np.ndarray
    """(n, 2) mean of the maps over every piece: how full of lines it is"""
    unit: float

    @property
    def count(self) -> int:
        """Number of pieces."""
        return len(self.areas)


def shapes_of(regions: RegionMap) -> Shapes:
    """The shapes of the pieces of a drawing."""
    factor = max(1, math.ceil(max(regions.pieces.shape) / LONGEST))
    labels = regions.pieces[factor // 2 :: factor, factor // 2 :: factor]
    labels = labels if labels.size else regions.pieces[:1, :1]
    height, width = labels.shape
    padded = np.pad(regions.ink, ((0, factor), (0, factor)))[: height * factor, : width * factor]
    ink = padded.reshape(height, factor, width, factor).max(axis=(1, 3))
    return measured(labels, ink, len(regions.region_of))


def measured(labels: np.ndarray, ink: np.ndarray, count: int) -> Shapes:
    """Shapes of `count` pieces from their map (h, w) and the ink (h, w) uint8 at the working size."""
    unit = max(labels.shape) / UNIT
    flat = labels.ravel()
    areas = np.bincount(flat, minlength=count).astype(np.float32)
    whole = np.maximum(areas, 1)

    def mean(values: np.ndarray) -> np.ndarray:
        return np.bincount(flat, values.ravel(), count) / whole

    grid = np.indices(labels.shape).astype(np.float64)
    rows, columns = grid[0], grid[1]
    centres = np.stack([mean(rows), mean(columns)], axis=1)
    down, right = rows - centres[labels, 0], columns - centres[labels, 1]
    moments = np.stack([mean(down * down), mean(right * right), mean(down * right)], axis=1)
    borders, on_edge = _borders(labels, count)
    edges = np.argwhere(on_edge)
    maps = line_maps(ink, unit)
    tones = np.stack([mean(one.numpy()) for one in maps[0]], axis=1)
    rim = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    return Shapes(
        labels,
        areas,
        centres,
        moments,
        _rays(labels, edges, centres, areas),
        edges,
        np.bincount(rim, minlength=count) > 0,
        borders,
        maps,
        tones,
        unit,
    )


def _borders(labels: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """((n, n) border lengths, (h, w) bool pixels beside another piece)."""
    on_edge = np.zeros(labels.shape, bool)
    codes = []
    for one, other in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        differ = labels[one] != labels[other]
        on_edge[one] |= differ
        on_edge[other] |= differ
        codes.append(labels[one][differ].astype(np.int64) * count + labels[other][differ])
    table = np.bincount(np.concatenate(codes), minlength=count * count).reshape(count, count).astype(np.float32)
    return table + table.T, on_edge


def _rays(labels: np.ndarray, edges: np.ndarray, centres: np.ndarray, areas: np.ndarray) -> np.ndarray:
    """(n, RAYS) the farthest outline pixel in every sector around the centre; half a disc's radius where none lies."""
    piece = labels[edges[:, 0], edges[:, 1]]
    offset = edges - centres[piece]
    turn = np.arctan2(offset[:, 0], offset[:, 1]) / (2 * np.pi)
    sector = np.floor((turn + 1) * RAYS + 0.5).astype(int) % RAYS
    found = np.zeros((len(areas), RAYS))
    np.maximum.at(found, (piece, sector), np.hypot(*offset.T))
    empty = 0.5 * np.sqrt(np.maximum(areas, 1) / np.pi)[:, None]
    return np.where(found > 0, found, empty) + 0.5
