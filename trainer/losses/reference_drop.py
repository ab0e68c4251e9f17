"""Reference drop: some samples train without their reference, which classifier-free guidance needs.

Source: ColorizeDiffusion v1 (arXiv 2401.01456, section 4): high rates also fight entanglement of reference and result.
v1.5 (CVPR 2025) lowers the rate of its backbone from 80 % to 50 % during the run; the released trainer has no schedule.
"""

from __future__ import annotations

import torch

from trainer.draws import Draws


def drop_rate(first: float, last: float, progress: float) -> float:
    """The rate at `progress` 0..1 through the run: linear from `first` to `last`; a negative `last` keeps `first`."""
    return first if last < 0 else first + (last - first) * progress


def keep_mask(batch: int, rate: float, draws: Draws) -> torch.Tensor:
    """(B,) of ones (keep) and zeros (drop); a sample is dropped with probability `rate`."""
    return (draws.rand((batch,)) >= rate).float()


def drop_references(tokens: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """Tokens (B, M, D) times keep (B,): dropped samples see zeros, the "no reference" of inference."""
    return tokens * keep.to(tokens).view(-1, 1, 1)
