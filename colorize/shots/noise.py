"""The noise of a shot: what a sampler starts from moves with the drawing, so that colours that it decides stay on it.

The noise of the key frame is carried along the motion of the lines. Every value is used at most once in a frame, and
what has none is drawn anew, so each frame's noise is white and Gaussian, as a sampler expects. "coarse" shares only
means over blocks: they decide large areas of colour, and what is finer is drawn for every frame by itself. "still"
moves nothing: all frames have the key frame's noise, which is the steadiest where things move little (docs/LOG.md).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional

from .line_motion import line_maps, motion
from .shapes import LONGEST, UNIT

SHARED = ("coarse", "all", "still")
BLOCK = 4
"""Latent values to each side whose mean is shared by "coarse"."""


def shot_noise(
    sketches: torch.Tensor,
    shape: tuple[int, ...],
    seed: int,
    key_frame: int = 0,
    shared: str = "coarse",
    on_frame: Callable[[], None] = lambda: None,
) -> torch.Tensor:
    """(B, ..., h, w) float32 of `shape`: white Gaussian noise for the latents of a shot.

    sketches: (B, H, W) in 0..1, 1 = line, of the sampled pictures, whose proportions the latents have. The key frame's
    noise depends on the seed alone, every other one's also on its number and the drawings. Raises ValueError.
    """
    if len(sketches) != shape[0] or not 0 <= key_frame < shape[0]:
        raise ValueError(
            f"There are {len(sketches)} sketches for {shape[0]} latents, and the key is frame {key_frame}, counted "
            "from 0. Connect the sketch and the latent of one Prepare Sketch, and name one of its frames."
        )
    if shared not in SHARED:
        raise ValueError(f"Noise cannot share {shared!r}; choose one of {', '.join(SHARED)}.")
    height, width = shape[-2:]
    base = _drawn(seed, 0, shape[1:])
    if shared == "still":
        return base.expand(shape).clone()
    maps = _maps(sketches)
    found = []
    for number in range(shape[0]):
        if number == key_frame:
            found.append(base)
            continue
        own, fresh = (_drawn(seed, 2 * number + which, shape[1:]) for which in (1, 2))
        shift = torch.from_numpy(motion(maps[key_frame], maps[number]))[None]
        cells = functional.adaptive_avg_pool2d(shift, (height, width))[0].numpy()
        moved = carried_noise(base, fresh, cells * height / maps[number].shape[-2])
        found.append(moved if shared == "all" else with_means_of(own, moved))
        on_frame()
    return torch.stack(found)


def _drawn(seed: int, number: int, shape: tuple[int, ...]) -> torch.Tensor:
    """Noise that depends on a seed and a number alone, drawn on the CPU."""
    mixed = int(np.random.SeedSequence([seed & 0xFFFFFFFF, seed >> 32, number]).generate_state(1, np.uint64)[0] >> 1)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed if number == 0 else mixed))


def _maps(sketches: torch.Tensor) -> list[torch.Tensor]:
    """The line maps of sketches (B, H, W) on a working copy."""
    factor = max(1, -(-max(sketches.shape[1:]) // LONGEST))
    small = functional.max_pool2d(sketches[:, None], factor, ceil_mode=True)[:, 0]
    unit = max(small.shape[1:]) / UNIT
    return [line_maps((one * 255).round().to(torch.uint8).numpy(), unit) for one in small]


def carried_noise(base: torch.Tensor, fresh: torch.Tensor, shift: np.ndarray) -> torch.Tensor:
    """(..., h, w): `base` read where a motion (2, h, w) in latent values leads, `fresh` where it leads out of the
    picture or to a value that another place has already."""
    height, width = base.shape[-2:]
    rows, columns = (np.rint(grid + moved).astype(int) for grid, moved in zip(np.indices((height, width)), shift))
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    code = np.where(inside, rows * width + columns, -1).ravel()
    used, first = np.unique(code, return_index=True)
    first = first[used >= 0]
    result = fresh.flatten(-2).clone()
    result[..., first] = base.flatten(-2)[..., code[first]]
    return result.unflatten(-1, (height, width))


def with_means_of(own: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """`own` (..., h, w) with the means over blocks of `other`: white again where both are white and independent."""
    height, width = own.shape[-2:]
    flat = (other - own).reshape(1, -1, height, width)
    means = functional.avg_pool2d(flat, BLOCK, ceil_mode=True)
    wide = means.repeat_interleave(BLOCK, -2).repeat_interleave(BLOCK, -1)[..., :height, :width]
    return own + wide.reshape(own.shape)
