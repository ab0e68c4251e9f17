"""The text encoder as a managed model: ComfyUI decides where it lies and when it makes room for others."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import comfy.model_management
import comfy.model_patcher
import torch

from ...colorize.families import CheckpointError
from ...colorize.reference.text import VOCABULARY, TextEncoder, token_counts, tokenize
from ...colorize.reference.text import load_text_encoder as build
from ..checkpoint.files import check_finite, read_weights
from ..checkpoint.managed import managed

ADVICE = "Official models need OpenCLIP ViT-H/14 (laion2b_s32b_b79k), the whole file with both towers."


@dataclass(frozen=True, eq=False)
class LoadedTextEncoder:
    """A text tower with the patcher that owns its memory."""

    encoder: TextEncoder
    patcher: comfy.model_patcher.ModelPatcher = field(repr=False)
    file_name: str

    @property
    def width(self) -> int:
        """D, the width of a text vector: that of the reference tokens it can be compared with."""
        return self.encoder.output_dim

    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        """Texts -> vectors (n, D) of length 1, float32 on the CPU. What is too long is cut, and said in the log."""
        network = self.encoder
        if network.vocabulary != VOCABULARY:
            raise ValueError(
                f"The text encoder {self.file_name} knows {network.vocabulary} tokens, CLIP's word list has "
                f"{VOCABULARY}. Choose another file in Load Text Encoder. {ADVICE}"
            )
        for text, count in zip(texts, token_counts(texts), strict=True):
            if count > network.context_length:
                logging.warning(
                    "A prompt has %d tokens, the text encoder reads %d: the end of %r is cut off. Use fewer words.",
                    count, network.context_length, text[:60],
                )  # fmt: skip
        working = 4 * 12 * len(texts) * network.context_length * network.width
        comfy.model_management.load_models_gpu([self.patcher], memory_required=working)
        with torch.no_grad():
            ids = tokenize(texts, network.context_length).to(self.patcher.load_device)
            vectors = network.encode_ids(ids)
        return vectors.float().to(comfy.model_management.intermediate_device())


def load_text_encoder(path: str) -> LoadedTextEncoder:
    """Read a CLIP file with a text tower (open_clip or Hugging Face layout). Raises CheckpointError.

    Computed in float32, as in the released application: it runs once per prompt.
    """
    name = os.path.basename(path)
    state_dict, metadata = read_weights(path)
    try:
        encoder = build(state_dict, metadata, device="cpu", dtype=torch.float32)
    except ImportError as error:
        raise RuntimeError(
            f"The text encoder needs open_clip, which cannot be imported ({error}). Install it into ComfyUI's Python: "
            "pip install open_clip_torch"
        ) from error
    except (ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(
            f"The file {name!r} cannot be used as text encoder: {' '.join(str(error).split())} {ADVICE}"
        ) from error
    check_finite(encoder.state_dict(), name)
    return LoadedTextEncoder(encoder, managed(encoder), name)
