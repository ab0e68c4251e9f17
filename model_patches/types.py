"""The values that travel between our nodes. All are immutable: a node that changes one makes a new one."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .families import Family


@dataclass(frozen=True, eq=False)
class Reference:
    """An encoded colour reference, or a batch of them."""

    tokens: torch.Tensor
    """(B, 1 + N, D): the class token, then N local tokens, after the final norm and the projection; on the CPU."""
    image_size: int
    """Side in pixels of the square the encoder read."""
    fit: str
    """How the picture was brought to that square: "stretch", "pad" or "crop"."""

    @property
    def local_tokens(self) -> torch.Tensor:
        """(B, N, D): what cross-attention reads; the class token is left out, as in the released models."""
        return self.tokens[:, 1:]

    @property
    def count(self) -> int:
        """Number of references in the batch."""
        return self.tokens.shape[0]

    @property
    def width(self) -> int:
        """D, the width of a token."""
        return self.tokens.shape[2]


@dataclass(frozen=True, eq=False)
class Colorizer:
    """The reference side of a checkpoint: what Apply Reference needs to know about the model."""

    family: Family
    file_name: str
    """For messages: which checkpoint this came from."""
