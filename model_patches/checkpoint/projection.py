"""The token projection of an XL checkpoint as a managed model: image and tagger tokens become reference tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import comfy.model_management
import comfy.model_patcher
import torch

from ...colorize import names
from ...colorize.families import CheckpointError, second_tower
from ...colorize.reference import token_projection
from .managed import managed

TOWERS = {
    "tagger": (
        "a tagger's features",
        "Connect a tagger to Encode Reference: Load Tagger with model.safetensors of WD v1.4 Swin V2 "
        "(https://huggingface.co/SmilingWolf/wd-v1-4-swinv2-tagger-v2).",
    ),
    "clip": (
        "the tokens of a second CLIP",
        "Connect a second Load Reference Encoder to second_encoder of Encode Reference: the file that the model was "
        "trained with as model.tagger.",
    ),
}
"""By second tower (reference.types.SECOND_TOWERS): what it gives, and what to do where that is missing."""

VALUES_PER_INPUT = 32  # working memory: about as many float32 values at once for each value of the image tokens


@dataclass(frozen=True, eq=False)
class LoadedProjection:
    """The network with the patcher that owns its memory. It runs once per Apply Reference, in float32."""

    network: token_projection.TokenProjection
    patcher: comfy.model_patcher.ModelPatcher = field(repr=False)
    file_name: str
    second_tower: str = "tagger"
    """What it reads beside the image tokens, one of reference.types.SECOND_TOWERS."""

    @classmethod
    def from_state_dict(cls, state_dict: Mapping[str, torch.Tensor], file_name: str) -> LoadedProjection:
        """From a checkpoint's tensors. Raises CheckpointError for incomplete ones."""
        try:
            network = token_projection.from_state_dict(state_dict, names.PROJECTION, dtype=torch.float32)
        except (ValueError, KeyError, RuntimeError) as error:
            raise CheckpointError(
                f"The file {file_name!r} is an incomplete XL checkpoint: {' '.join(str(error).split())} "
                "Download or convert it again."
            ) from None
        network.requires_grad_(False)
        return cls(network, managed(network), file_name, second_tower(state_dict))

    def tokens(
        self, image_tokens: torch.Tensor, tagger_tokens: torch.Tensor | None, second_tower: str = "tagger"
    ) -> torch.Tensor:
        """(B, 1 + N, C) and (B, P, W) of the same pictures -> reference tokens (B, P, D), float32 on the CPU.

        second_tower: what the latter are of. Raises ValueError when there are none, or tokens of other encoders.
        """
        what, advice = TOWERS[self.second_tower]
        if tagger_tokens is None:
            raise ValueError(f"{self.file_name} also reads {what}, which the reference lacks. {advice}")
        if second_tower != self.second_tower:
            raise ValueError(
                f"{self.file_name} reads {what}, but the reference has {TOWERS[second_tower][0]}. {advice}"
            )
        memory = 4 * VALUES_PER_INPUT * image_tokens.numel()
        comfy.model_management.load_models_gpu([self.patcher], memory_required=memory)
        device = self.patcher.load_device
        with torch.no_grad():
            projected = self.network(*(values.to(device, torch.float32) for values in (image_tokens, tagger_tokens)))
        return projected.to(comfy.model_management.intermediate_device())
