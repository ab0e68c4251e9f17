"""Classifier-free guidance of this family, as plain arithmetic on predictions.

It may be applied to raw network outputs or to denoised pictures; the formulas are linear, so both agree.
Legend: c the full conditions; u_r no reference, same sketch, scale s_r; u_s same reference, blank sketch, scale s_s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch


def single_guidance(cond: torch.Tensor, uncond: torch.Tensor, scale: float) -> torch.Tensor:
    """u + s (c - u) (Ho and Salimans 2022). Scale 1 returns the conditional prediction."""
    return uncond + scale * (cond - uncond)


def dual_guidance(
    cond: torch.Tensor,
    uncond_reference: torch.Tensor,  # no reference, same sketch
    uncond_sketch: torch.Tensor,  # same reference, blank sketch
    reference_scale: float,
    sketch_scale: float,
) -> torch.Tensor:
    """Mean of the reference-guided and the sketch-guided prediction (ColorizeDiffusion, arXiv 2401.01456)."""
    by_reference = single_guidance(cond, uncond_reference, reference_scale)
    by_sketch = single_guidance(cond, uncond_sketch, sketch_scale)
    return 0.5 * (by_reference + by_sketch)


def dual_as_single(
    uncond_reference: torch.Tensor, uncond_sketch: torch.Tensor, reference_scale: float, sketch_scale: float
) -> tuple[torch.Tensor, float]:
    """(u, s) with which single guidance gives the dual one: u + s (c - u) = dual_guidance(c, ...), for every c.

    s is the mean of the two scales, and u weighs the negatives by what each scale goes beyond 1:
    s = (s_r + s_s) / 2,  u = ((s_r - 1) u_r + (s_s - 1) u_s) / (s_r + s_s - 2).
    Samplers and patches that know one scale and one negative then work with dual guidance too. Both scales above 1.
    """
    beyond = reference_scale + sketch_scale - 2
    uncond = ((reference_scale - 1) * uncond_reference + (sketch_scale - 1) * uncond_sketch) / beyond
    return uncond, (reference_scale + sketch_scale) / 2


def join_rows(conditions: Sequence) -> Any:
    """Equal conditions, one per row group of guidance, as one batch: tensors are joined along their first axis.

    Each is a tensor, or a mapping, list or tuple of such (context, control maps, mask); anything else (a scale, None)
    has to be the same for all rows and passes through from the first.
    """
    first = conditions[0]
    if isinstance(first, torch.Tensor):
        return torch.cat(tuple(conditions))
    if isinstance(first, Mapping):
        return {key: join_rows([condition[key] for condition in conditions]) for key in first}
    if isinstance(first, (list, tuple)):
        return type(first)(join_rows(parts) for parts in zip(*conditions, strict=True))
    return first
