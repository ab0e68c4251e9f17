"""The reference encoder as a managed model: ComfyUI decides where it lies and when it makes room for others."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import comfy.model_management
import comfy.model_patcher
import comfy.utils
import torch

from .card import encoder_mark
from .families import CheckpointError
from .figure_masks import without_figure
from .files import check_finite, read_weights
from .managed import managed
from .networks.vision import preprocess
from .types import Reference

CHUNK = 8  # references encoded together; bounds the working memory of long batches


@dataclass(frozen=True, eq=False)
class LoadedReferenceEncoder:
    """A vision tower with the patcher that owns its memory."""

    encoder: torch.nn.Module
    """networks.vision.ReferenceEncoder"""
    patcher: comfy.model_patcher.ModelPatcher = field(repr=False)
    file_name: str

    def encode(
        self,
        image: torch.Tensor,
        fit: str = "stretch",
        figure_mask: torch.Tensor | None = None,
        background: torch.Tensor | None = None,
        mask_threshold: float = 0.5,
    ) -> Reference:
        """Pictures (B, 3, H, W) in [-1, 1] -> REFERENCE with tokens (B, 1 + N, D), float32 on the CPU.

        figure_mask: (B or 1, h, w) in 0..1, 1 = figure. The pictures are encoded once more with everything white
        that is not below mask_threshold (released code): the background tokens.
        background: (B or 1, 3, h, w) in [-1, 1], separate background pictures, encoded instead of that; figure_mask,
        which belongs to the reference, is then not used. Raises ValueError when the counts do not agree.
        """
        pictures = [image]
        if background is not None:
            if len(background) not in (1, len(image)):
                raise ValueError(
                    f"There are {len(background)} background pictures for {len(image)} references. Connect one "
                    "background, or one for each reference."
                )
            pictures.append(background)
        elif figure_mask is not None:
            pictures.append(without_figure(image, figure_mask, mask_threshold))
        tokens = self._tokens(pictures, fit)
        return Reference(
            tokens=tokens[: len(image)],
            image_size=self.encoder.image_size,
            fit=fit,
            background_tokens=tokens[len(image) :, 1:].expand(len(image), -1, -1) if len(pictures) > 1 else None,
            background_is_picture=background is not None,
            background_threshold=mask_threshold,
            encoder_mark=encoder_mark(self.encoder),
        )

    def _tokens(self, pictures: list[torch.Tensor], fit: str) -> torch.Tensor:
        """Batches of pictures (B_i, 3, H_i, W_i) -> their tokens (sum B_i, 1 + N, D) one after the other.

        The encoder's square is the same for all sizes, so they run together.
        """
        device = self.patcher.load_device
        count = sum(map(len, pictures))
        comfy.model_management.load_models_gpu([self.patcher], memory_required=self._working_memory(min(CHUNK, count)))
        progress = comfy.utils.ProgressBar(count)
        tokens = []
        with torch.no_grad():
            squares = [
                preprocess(chunk.to(device).float(), self.encoder.image_size, fit)
                for batch in pictures
                for chunk in batch.split(CHUNK)
            ]
            for chunk in torch.cat(squares).split(CHUNK):
                encoded = self.encoder.tokens(chunk.to(self.encoder.visual.conv1.weight.dtype))
                tokens.append(encoded.float().to(comfy.model_management.intermediate_device()))
                progress.update(len(chunk))
        return torch.cat(tokens)

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
    return LoadedReferenceEncoder(encoder, managed(encoder), name)
