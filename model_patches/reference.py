"""The reference encoder as a managed model: ComfyUI decides where it lies and when it makes room for others."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import comfy.model_management
import comfy.model_patcher
import comfy.utils
import torch

from .families import CheckpointError
from .files import check_finite, read_weights
from .types import Reference

CHUNK = 8  # references encoded together; bounds the working memory of long batches


@dataclass(frozen=True, eq=False)
class LoadedReferenceEncoder:
    """A vision tower with the patcher that owns its memory."""

    encoder: torch.nn.Module
    """networks.vision.ReferenceEncoder"""
    patcher: comfy.model_patcher.ModelPatcher = field(repr=False)
    file_name: str

    def encode(self, image: torch.Tensor, fit: str = "stretch") -> Reference:
        """Pictures (B, 3, H, W) in [-1, 1] -> REFERENCE with tokens (B, 1 + N, D), float32 on the CPU."""
        device = self.patcher.load_device
        comfy.model_management.load_models_gpu(
            [self.patcher], memory_required=self._working_memory(min(CHUNK, len(image)))
        )
        progress = comfy.utils.ProgressBar(len(image))
        tokens = []
        with torch.no_grad():
            for chunk in image.split(CHUNK):
                encoded = self.encoder.encode(chunk.to(device), fit=fit)
                tokens.append(encoded.float().to(comfy.model_management.intermediate_device()))
                progress.update(len(chunk))
        return Reference(tokens=torch.cat(tokens), image_size=self.encoder.image_size, fit=fit)

    def _working_memory(self, batch: int) -> int:
        # A block holds about 12 tensors of its token width (q, k, v, attention, 4x MLP, residuals), in float32.
        return 4 * 12 * batch * self.encoder.token_count * self.encoder.width


def load_encoder(path: str) -> LoadedReferenceEncoder:
    """Read a CLIP vision file (open_clip or Hugging Face layout). Raises CheckpointError.

    Computed in float32, as in the released application: it runs once per reference, and the tokens steer every step.
    """
    from .networks.vision import load_reference_encoder

    name = os.path.basename(path)
    state_dict, metadata = read_weights(path)
    try:
        encoder = load_reference_encoder(state_dict, metadata, device="cpu", dtype=torch.float32)
    except ImportError as error:
        raise RuntimeError(
            f"The reference encoder needs open_clip, which cannot be imported ({error}). Install it into ComfyUI's "
            "Python: pip install open_clip_torch"
        ) from error
    except (ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(
            f"The file {name!r} cannot be used as reference encoder: {' '.join(str(error).split())} "
            "Official v1 models need OpenCLIP ViT-H/14 (laion2b_s32b_b79k) in models/clip_vision."
        ) from error
    check_finite(encoder.state_dict(), name)
    patcher = comfy.model_patcher.CoreModelPatcher(
        encoder,
        load_device=comfy.model_management.text_encoder_device(),
        offload_device=comfy.model_management.text_encoder_offload_device(),
    )
    return LoadedReferenceEncoder(encoder, patcher, name)
