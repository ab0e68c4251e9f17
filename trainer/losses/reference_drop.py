"""Reference drop: some samples train without their reference, which classifier-free guidance needs.

Source: ColorizeDiffusion v1 (arXiv 2401.01456, section 4): high rates also fight entanglement of reference and result.
"""

from __future__ import annotations

import torch


def keep_mask(batch: int, rate: float, generator: torch.Generator | None = None) -> torch.Tensor:
    """(B,) of ones (keep) and zeros (drop); a sample is dropped with probability `rate`."""
    return (torch.rand(batch, generator=generator) >= rate).float()


def drop_references(tokens: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """Tokens (B, M, D) times keep (B,): dropped samples see zeros, the "no reference" of inference."""
    return tokens * keep.to(tokens).view(-1, 1, 1)
