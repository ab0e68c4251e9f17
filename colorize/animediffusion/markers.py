"""What no weight of an AnimeDiffusion file tells: numbers in its metadata, or in tensors that Save Checkpoint keeps."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ..weight_files import metadata_number

HEADS_MARKER = "colorize.attention_heads"
"""Name, in metadata or as a tensor, of the number of attention heads."""
DEFAULT_HEADS = 4
STEPS_MARKER = "colorize.chain_steps"
"""Name, likewise, of the number of DDIM steps that phase 2 trained the network for."""
PAPER_STEPS = 10
MOST_STEPS = 999


def attention_heads(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> int:
    """Number of attention heads of a checkpoint: metadata, marker tensor, else the 4 of every published file."""
    return _number(HEADS_MARKER, tensors, metadata, DEFAULT_HEADS, 1024)


def chain_steps(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> int:
    """DDIM steps a checkpoint was trained for: metadata, marker tensor, else the paper's 10."""
    return _number(STEPS_MARKER, tensors, metadata, PAPER_STEPS, MOST_STEPS)


def _number(
    marker: str, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None, default: int, high: int
) -> int:
    """From 1 to `high`. ValueError for what is there and is no such number."""
    if marker not in (metadata or {}) and marker in tensors:
        value = tensors[marker]
        metadata = {marker: str(value.item()).removesuffix(".0") if value.numel() == 1 else ""}
    return metadata_number(metadata, marker, default, 1, high)
