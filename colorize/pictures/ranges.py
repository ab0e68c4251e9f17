"""The ranges of a picture's values and the ways between them: the networks' -1..1, ComfyUI's 0..1, a file's 0..255.

Arithmetic alone: nothing is clamped or rounded, so that released formulas can be written to the last bit. Any shape.
"""

from __future__ import annotations

import torch


def model_to_unit(values: torch.Tensor) -> torch.Tensor:
    """-1..1 -> 0..1."""
    return (values + 1) / 2


def unit_to_model(values: torch.Tensor) -> torch.Tensor:
    """0..1 -> -1..1."""
    return values * 2 - 1


def model_to_levels(values: torch.Tensor) -> torch.Tensor:
    """-1..1 -> 0..255, not rounded."""
    return (values + 1) * 127.5


def levels_to_model(values: torch.Tensor) -> torch.Tensor:
    """0..255 -> -1..1."""
    return values / 127.5 - 1
