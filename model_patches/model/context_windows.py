"""ComfyUI's context windows over a batch: each window samples some of the pictures, with what belongs to them.

ComfyUI cuts tensors that have a row for each picture. Ours ride in lists and objects as well, and two references for
four pictures are taken in turn, so the model is asked (`resize_cond_for_context_window`, in newer versions of ComfyUI).
"""

from __future__ import annotations

from typing import Any

import torch

from .. import payload
from ..features import PictureFeatures, taken
from . import sampled_part

TOKENS = ("c_crossattn", "y")  # ComfyUI's names of what the model reads of a conditioning


def pictures(window: Any, x: torch.Tensor) -> tuple[int, ...] | None:
    """The numbers of the pictures of a latent x (B, C, h, w) in a window; None where it cuts something else."""
    return tuple(window.get_tensor(torch.arange(len(x)), dim=0).tolist()) if window.dim == 0 else None


def cut(key: str, value: Any, numbers: tuple[int, ...]) -> Any:
    """The cond `value` of a window with these pictures; None where ComfyUI cuts it itself."""
    if isinstance(value, sampled_part.PartCond):
        return value.of_pictures(numbers)
    if key not in TOKENS and not key.startswith(payload.COND):
        return None
    if isinstance(value.cond, torch.Tensor):
        return value._copy_with(taken(value.cond, numbers))
    if isinstance(value.cond, list):
        return value._copy_with([taken(entry, numbers) for entry in value.cond])
    if isinstance(value.cond, PictureFeatures):
        return value._copy_with(value.cond.of_pictures(numbers))
    return None
