"""Classifier-free guidance of this family, as plain arithmetic on predictions.

It may be applied to raw network outputs or to denoised pictures; the formulas are linear, so both agree.
"""

from __future__ import annotations

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
