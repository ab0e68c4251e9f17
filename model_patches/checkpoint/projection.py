"""The token projection of an XL checkpoint as a managed model: image and tagger tokens become reference tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import comfy.model_management
import comfy.model_patcher
import torch

from ...colorize import names
from ...colorize.families import CheckpointError
from ...colorize.reference import token_projection
from .managed import managed

TAGGER_ADVICE = (
    "Connect a tagger to Encode Reference: Load Tagger with model.safetensors of WD v1.4 Swin V2 "
    "(https://huggingface.co/SmilingWolf/wd-v1-4-swinv2-tagger-v2)."
)

VALUES_PER_INPUT = 32  # working memory: about as many float32 values at once for each value of the image tokens


@dataclass(frozen=True, eq=False)
class LoadedProjection:
    """The network with the patcher that owns its memory. It runs once per Apply Reference, in float32."""

    network: token_projection.TokenProjection
    patcher: comfy.model_patcher.ModelPatcher = field(repr=False)
    file_name: str

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
        return cls(network, managed(network), file_name)

    def tokens(self, image_tokens: torch.Tensor, tagger_tokens: torch.Tensor | None) -> torch.Tensor:
        """(B, 1 + N, C) and (B, P, W) of the same pictures -> reference tokens (B, P, D), float32 on the CPU.

        Raises ValueError when there are no tagger tokens, or tokens of other encoders.
        """
        if tagger_tokens is None:
            raise ValueError(
                f"{self.file_name} also reads a tagger's features, which the reference lacks. {TAGGER_ADVICE}"
            )
        memory = 4 * VALUES_PER_INPUT * image_tokens.numel()
        comfy.model_management.load_models_gpu([self.patcher], memory_required=memory)
        device = self.patcher.load_device
        with torch.no_grad():
            projected = self.network(*(values.to(device, torch.float32) for values in (image_tokens, tagger_tokens)))
        return projected.to(comfy.model_management.intermediate_device())
