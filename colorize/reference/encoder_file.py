"""From the tensors of a file to the reference encoder they belong to."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from ..weight_files import count_numbered, metadata_number, reads_strange_sizes
from .feature_vision import MARK, FeatureReferenceEncoder
from .vision import KNOWN_HEAD_WIDTHS, ReferenceEncoder, find_tower


@reads_strange_sizes("vision tower")
def load_reference_encoder(
    state_dict: Mapping[str, torch.Tensor],
    metadata: Mapping[str, str] | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> ReferenceEncoder:
    """Build a reference encoder with the sizes of the tensors, and load them (strict).

    The head width comes from the metadata `colorize.head_width`, else from the table of known widths.
    """
    tower = find_tower(state_dict)
    patches = tower["conv1.weight"]
    width, patch_size = patches.shape[0], patches.shape[-1]
    head_width = metadata_number(metadata, "colorize.head_width", KNOWN_HEAD_WIDTHS.get(width), 1, width)
    if head_width is None:
        raise ValueError(
            f"The head width of a vision tower of width {width} is not known; "
            "add the metadata colorize.head_width to the file."
        )
    blocks = (key.split(".")[2] for key in tower if key.startswith("transformer.resblocks."))
    layers = count_numbered(blocks, "blocks of the vision tower (transformer.resblocks)")
    weights = {f"visual.{name}": value for name, value in tower.items()}
    knows = MARK in state_dict
    if knows:
        weights |= {k: v for k, v in state_dict.items() if k.startswith(("knowledge.", "features."))}
    encoder = (FeatureReferenceEncoder if knows else ReferenceEncoder)(
        math.isqrt(tower["positional_embedding"].shape[0] - 1) * patch_size,
        patch_size,
        width,
        layers=layers,
        head_width=head_width,
        output_dim=tower["proj"].shape[1],
        mlp_ratio=tower["transformer.resblocks.0.mlp.c_fc.weight"].shape[0] / width,
        device="meta",
    )
    dtype = dtype or patches.dtype
    device = device or patches.device
    encoder.load_state_dict({k: v.to(device=device, dtype=dtype) for k, v in weights.items()}, assign=True)
    return encoder.requires_grad_(False).eval()
