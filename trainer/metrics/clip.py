"""CLIP similarity: cosine between the image embeddings of two pictures (Radford et al. 2021; Hessel et al. 2021)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from colorize.reference.encoder_file import load_reference_encoder
from trainer.config import ConfigError
from trainer.models import checkpoint
from trainer.models.colorizer import TokenReader

Embed = Callable[[torch.Tensor], torch.Tensor]
"""Pictures (B, 3, H, W) in [-1, 1] -> vectors (B, D) of length 1, on the CPU."""


def embedding(encoder: TokenReader, device: torch.device | str = "cpu") -> Embed:
    """Pictures (B, 3, H, W) in [-1, 1] -> the projected class token (B, D), of length 1, on the CPU."""

    @torch.no_grad()
    def embed(pictures: torch.Tensor) -> torch.Tensor:
        return F.normalize(encoder.encode(pictures.to(device).clamp(-1, 1))[:, 0].float(), dim=-1).cpu()

    return embed


def clip_embedding(path: str | Path, device: torch.device | str = "cpu") -> Embed:
    """As `embedding`, of a CLIP file in open_clip or Hugging Face layout; its sizes come from its tensors."""
    tensors, metadata = checkpoint.read_tensors(Path(path))
    try:
        return embedding(load_reference_encoder(tensors, metadata, dtype=torch.float32).to(device).eval(), device)
    except ValueError as error:
        raise ConfigError(f"{path} cannot be used as CLIP: {error}") from None


def similarity(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    """Cosine (B,) of embeddings (B, D), row by row, -1..1."""
    return F.cosine_similarity(ours, theirs, dim=-1)
