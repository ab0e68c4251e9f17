"""Which MODEL is a student (colorize/distilled.py), by its own weights or by a LoRA that is to be put on it."""

from __future__ import annotations

from typing import Any

import torch

from ...colorize import names
from ...colorize.distilled import Distilled

KEY = names.LORA_UNET + names.DISTILLED


def student_of(patcher: Any) -> Distilled | None:
    """The facts of a MODEL (ModelPatcher); None for one that is no student, or none of ours."""
    network = getattr(getattr(patcher, "model", None), "diffusion_model", None)
    mark = getattr(network, "distilled", None)
    values: torch.Tensor | None = None if mark is None else mark.weight
    for strength, patch, *_ in getattr(patcher, "patches", {}).get(KEY, ()):
        if isinstance(patch, tuple) and patch[0] == "set" and strength:
            values = patch[1][0]
    return Distilled.from_values(values)
