"""An encoded reference, the value that travels between nodes. Immutable: a node that changes one makes a new one."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..unet.strengths import LevelStrengths

TOKEN_KINDS = ("local", "cls")
"""Which tokens of the encoder a model's cross-attention reads: all but the class token, or that one alone (the CLS
model of the v1 paper, 3.3, and of its global manipulation)."""
SECOND_TOWERS = ("tagger", "clip")
"""What XL models read beside the encoder's tokens: a tagger's patch features, or the tokens of a second CLIP (the
baseline of the XL paper's Fig. 5)."""


def read_tokens(tokens: torch.Tensor, kind: str) -> torch.Tensor:
    """Tokens (B, 1 + N, D) of a reference, the class token first -> what a model of a kind of TOKEN_KINDS reads."""
    if kind not in TOKEN_KINDS:
        raise ValueError(f"Tokens of the kind {kind!r} are unknown; choose one of {', '.join(TOKEN_KINDS)}.")
    return tokens[:, :1] if kind == "cls" else tokens[:, 1:]


@dataclass(frozen=True, eq=False)
class Region:
    """A further figure with a reference of its own."""

    tokens: torch.Tensor
    """(B, N, D): local tokens of its reference; on the CPU."""
    mask: torch.Tensor
    """(B, H, W): where the figure is in the sketch, 0..1; on the CPU, any size."""
    strength: float = 1.0
    """Factor on the attention result of this figure, 0..2."""
    class_token: torch.Tensor | None = None
    """(B, 1, D): class token of its reference, which XL and CLS models read; None in cards of older releases."""
    tagger_tokens: torch.Tensor | None = None
    """(B, P, W): the tagger's patch features of its reference, for XL models."""


@dataclass(frozen=True, eq=False)
class Reference:
    """An encoded colour reference, or a batch of them."""

    tokens: torch.Tensor
    """(B, 1 + N, D): the class token, then N local tokens, after the final norm and the projection; on the CPU."""
    image_size: int
    """Side in pixels of the square the encoder read."""
    fit: str
    """How the picture was brought to that square: "stretch", "pad" or "crop"."""
    background_tokens: torch.Tensor | None = None
    """(B, N, D): local tokens of the reference with its figure painted white, or of a background picture."""
    background_is_picture: bool = False
    """Whether the background tokens come from a picture of their own."""
    background_threshold: float = 0.5
    """Where the figure mask of the reference was cut, 0..1."""
    regions: tuple[Region, ...] = ()
    """Further figures; later ones lie on top."""
    levels: LevelStrengths = LevelStrengths()
    """Strength of the reference per level, part or layer of the U-Net."""
    edits: tuple[str, ...] = ()
    """What Manipulate Reference did to the tokens, one sentence per edit, in order."""
    tags: tuple[str, ...] = ()
    """Words that belong to the reference."""
    palette: tuple[str, ...] = ()
    """Its main colours as "#rrggbb", the most common first."""
    encoder_mark: torch.Tensor | None = None
    """(n,): numbers by which the encoder of the tokens is recognised (card.encoder_mark); None when not known."""
    tagger_tokens: torch.Tensor | None = None
    """(B, P, W): the tagger's patch features of the reference, which XL models read beside the tokens; on the CPU."""
    tagger_mark: torch.Tensor | None = None
    """(n,): numbers by which the tagger is recognised (card.tagger_mark); None when not known."""
    second_tower: str = SECOND_TOWERS[0]
    """What tagger_tokens and tagger_mark are of, one of SECOND_TOWERS; a second CLIP's are (B, 1 + N', W)."""
    background_class_token: torch.Tensor | None = None
    """(B, 1, D): class token that belongs to background_tokens, for XL and CLS models; None in cards of older
    releases."""
    background_tagger_tokens: torch.Tensor | None = None
    """(B, P, W): the tagger's patch features of the background, for XL models."""

    @property
    def local_tokens(self) -> torch.Tensor:
        """(B, N, D): what cross-attention reads; the class token is left out, as in the released models."""
        return read_tokens(self.tokens, "local")

    @property
    def count(self) -> int:
        """Number of references in the batch."""
        return self.tokens.shape[0]

    @property
    def width(self) -> int:
        """D, the width of a token."""
        return self.tokens.shape[2]
