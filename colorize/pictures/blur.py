"""Blurs and grey levels that give the numbers of the released preprocessing, which uses OpenCV. Pure torch.

A blur is a multiplication with a band matrix, block by block, which is much faster on a CPU for wide kernels than a
convolution; the tests hold it to the convolution.
"""

from __future__ import annotations

import math

import torch

from .ranges import model_to_levels

BLOCK = 64  # pixels that one multiplication answers, at least; the band matrix has (BLOCK + taps - 1) x BLOCK values


def mirrored(length: int, margin: int, device: torch.device | None = None) -> torch.Tensor:
    """Indices of a row of `length` with `margin` mirrored places on both sides, the edge itself not repeated."""
    if length == 1:
        return torch.zeros(1 + 2 * margin, dtype=torch.long, device=device)
    period = 2 * (length - 1)
    index = torch.arange(-margin, length + margin, device=device) % period
    return torch.minimum(index, period - index)


def levels(picture: torch.Tensor) -> torch.Tensor:
    """-1..1 -> whole numbers 0..255, as float32; NaN counts as mid grey."""
    return model_to_levels(picture.float().nan_to_num(0.0)).round().clamp(0, 255)


def grey_levels(colours: torch.Tensor) -> torch.Tensor:
    """RGB levels (B, 3, H, W), whole numbers 0..255 -> grey levels (B, 1, H, W): BT.601 in 15-bit fixed point."""
    red, green, blue = colours.float().unbind(1)  # all sums stay below 2^24: exact in float32
    return ((9798 * red + 19235 * green + 3735 * blue + 16384) / 32768).floor()[:, None]


def gaussian_taps(sigma: float, size: int) -> torch.Tensor:
    """`size` values of a Gaussian of `sigma` pixels, sum 1, float64."""
    offsets = torch.arange(size, dtype=torch.float64) - size // 2
    taps = torch.exp(-(offsets**2) / (2 * sigma * sigma))
    return taps / taps.sum()


def gaussian(picture: torch.Tensor, sigma: float) -> torch.Tensor:
    """Blur (B, C, H, W) of floating values: 8 sigma + 1 taps (made odd), edges mirrored without repeating the edge."""
    return separable(picture, gaussian_taps(sigma, round(sigma * 8 + 1) | 1))


def gaussian_of_levels(colours: torch.Tensor, sigma: float) -> torch.Tensor:
    """Blur of whole numbers 0..255 to whole numbers 0..255, with 6 sigma + 1 taps (made odd).

    The taps are 8-bit fractions: each rounding error is carried to the next tap outside in, the middle takes the rest.
    All sums stay below 2^24, so float32 holds them exactly.
    """
    taps = gaussian_taps(sigma, round(sigma * 6 + 1) | 1) * 256
    half, carried = [], 0.0
    for tap in taps[: len(taps) // 2].tolist():
        half.append(math.floor(tap + carried + 0.5))
        carried += tap - half[-1]
    whole = torch.tensor([*half, 256 - 2 * sum(half), *reversed(half)], dtype=torch.float64)
    return ((separable(colours, whole) + 32768) / 65536).floor()


def separable(picture: torch.Tensor, taps: torch.Tensor) -> torch.Tensor:
    """(B, C, H, W) filtered with the same odd number of taps along both directions, edges mirrored."""
    return _filter_rows(_filter_rows(picture, taps).mT, taps).mT


def _filter_rows(picture: torch.Tensor, taps: torch.Tensor) -> torch.Tensor:
    """Filter along the last direction: blocks of the row, each with its surroundings, times a band matrix."""
    width, reach = picture.shape[-1], len(taps) // 2
    block = max(BLOCK, len(taps))
    blocks = math.ceil(width / block)
    index = mirrored(width, reach, picture.device)
    index = torch.cat([index, index[-1:].expand(blocks * block - width)])  # the rest of the last block is thrown away
    band = torch.zeros(block + 2 * reach, block, dtype=torch.float64)
    for column in range(block):
        band[column : column + len(taps), column] = taps
    windows = picture.index_select(-1, index).unfold(-1, block + 2 * reach, block)  # (B, C, H, blocks, block + 2 reach)
    return (windows @ band.to(picture)).flatten(-2)[..., :width]
