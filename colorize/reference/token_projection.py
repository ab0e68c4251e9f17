"""Reference tokens of ColorizeDiffusion XL: CLIP tokens and tagger tokens of one picture become one set.

CLIP bigG says what is seen, the tagger's patch features say it in the words of anime pictures. The CLIP tokens look at
each other, the first ones are kept (the class token among them) and joined with the tagger's tokens channel by channel,
although the two grids (16 x 16 and 14 x 14) do not lie on each other: so it was trained. Source: CVPR 2026 paper and
the released files, whose tensor names (`proj.*`) are kept.

Shape legend: B batch, M CLIP tokens with the class token (257), L tagger tokens (196), C width of a CLIP token (1280),
W width of a tagger token (1024), K tags (9083), D width of a result (2048).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from .. import names
from ..unet.attention import MultiHeadAttention, usual_head_width
from ..unet.layers import FeedForward
from ..weight_files import check_fits, reads_strange_sizes

Weights = Mapping[str, torch.Tensor]


class TokenProjection(nn.Module):
    """CLIP tokens (B, M, C) and tagger tokens (B, L, W) of one picture -> reference tokens (B, L, D).

    "ClusterConcat" in the released code, and what all published files have. L decides how many CLIP tokens are kept.
    """

    def __init__(
        self,
        clip_width: int = 1280,
        tagger_width: int = 1024,
        output_width: int = 2048,
        head_width: int | None = None,  # of the attention; None: see usual_head_width
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        operations: Any = nn,  # supplies Linear and LayerNorm; ComfyUI passes its casting layers
    ) -> None:
        super().__init__()
        self.clip_width = clip_width  # C
        self.tagger_width = tagger_width  # W
        self.output_width = output_width  # D
        options: dict[str, Any] = dict(device=device, dtype=dtype)
        joined = clip_width + tagger_width
        head_width = head_width or usual_head_width(clip_width)
        self.attn = MultiHeadAttention(clip_width, head_width, operations=operations, **options)
        self.norm = operations.LayerNorm(clip_width, **options)
        self.proj = nn.Sequential(
            operations.Linear(joined, output_width, **options),
            nn.SiLU(),
            operations.Linear(output_width, output_width, **options),
            operations.LayerNorm(output_width, **options),
        )

    def forward(self, clip_tokens: torch.Tensor, tagger_tokens: torch.Tensor) -> torch.Tensor:
        for name, tokens, width in (("CLIP", clip_tokens, self.clip_width), ("tagger", tagger_tokens, self._given())):
            if tokens.shape[-1] != width:
                raise ValueError(
                    f"These {name} tokens are {tokens.shape[-1]} wide, but the model's token projection was made for "
                    f"{width}. Choose the encoder that belongs to the model (released XL files: OpenCLIP bigG, width "
                    "1280, and the WD v1.4 Swin V2 tagger, width 1024)."
                )
        count = tagger_tokens.shape[1]
        if clip_tokens.shape[1] < count:
            raise ValueError(f"{count} tagger tokens need as many CLIP tokens, class token included, not "
                             f"{clip_tokens.shape[1]}; take all tokens of the encoder.")  # fmt: skip
        seen = self.norm(self.attn(clip_tokens)[:, :count])
        return self.proj(torch.cat([seen, self._tagger(tagger_tokens)], dim=-1))

    def _given(self) -> int:
        """Width of what the tagger gives."""
        return self.tagger_width

    def _tagger(self, tokens: torch.Tensor) -> torch.Tensor:
        return tokens


class RecoveryProjection(TokenProjection):
    """A token projection with a transformer block for background tokens ("RecoveryClusterConcat"; unpublished)."""

    def __init__(
        self,
        clip_width: int = 1280,
        tagger_width: int = 1024,
        output_width: int = 2048,
        head_width: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(clip_width, tagger_width, output_width, head_width, **options)
        self.transformer = RecoveryBlock(output_width, head_width or usual_head_width(output_width), **options)

    def background(self, clip_tokens: torch.Tensor, tagger_tokens: torch.Tensor) -> torch.Tensor:
        """As `forward`, for a picture without its figure."""
        return self.transformer(self(clip_tokens, tagger_tokens))


class RecoveryBlock(nn.Module):
    """Self-attention and gated feed-forward, pre-normalised and residual: (B, L, D) -> (B, L, D)."""

    def __init__(
        self,
        width: int,
        head_width: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        operations: Any = nn,
    ) -> None:
        super().__init__()
        options: dict[str, Any] = dict(device=device, dtype=dtype)
        self.attn1 = MultiHeadAttention(width, head_width, operations=operations, **options)
        self.ff = FeedForward(width, operations=operations, **options)
        self.norm1 = operations.LayerNorm(width, **options)
        self.norm3 = operations.LayerNorm(width, **options)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn1(self.norm1(x))
        return x + self.ff(self.norm3(x))


class LogitProjection(TokenProjection):
    """A token projection that reads tag logits (B, L, K) instead of features ("LogitClusterConcat"; unpublished)."""

    def __init__(
        self,
        classes: int,
        clip_width: int = 1280,
        tagger_width: int = 1024,
        output_width: int = 2048,
        head_width: int | None = None,
        layers: int = 4,
        **options: Any,
    ) -> None:
        super().__init__(clip_width, tagger_width, output_width, head_width, **options)
        self.mlp = AdaptiveMLP(classes, tagger_width, layers, **options)

    def _given(self) -> int:
        return self.mlp.classes

    def _tagger(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.mlp(tokens)


class AdaptiveMLP(nn.Module):
    """(B, L, K) -> (B, L, W): linear layers one after the other, all their answers joined, projected and normalised."""

    def __init__(
        self,
        inputs: int,
        width: int,
        layers: int = 4,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        operations: Any = nn,
    ) -> None:
        super().__init__()
        self.classes = inputs  # K
        options: dict[str, Any] = dict(device=device, dtype=dtype)
        first = nn.Sequential(operations.Linear(inputs, width, **options))
        rest = (
            nn.Sequential(nn.SiLU(), operations.LayerNorm(width, **options), operations.Linear(width, width, **options))
            for _ in range(layers - 1)
        )
        self.mlp = nn.ModuleList([first, *rest])
        self.fusion_layer = operations.Linear(layers * width, width, bias=False, **options)
        self.norm = operations.LayerNorm(width, **options)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        answers = []
        for layer in self.mlp:
            x = layer(x)
            answers.append(x)
        return self.norm(self.fusion_layer(torch.cat(answers, dim=-1)))


@reads_strange_sizes("token projection")
def from_state_dict(
    state_dict: Weights,
    prefix: str = names.PROJECTION,
    head_width: int | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    operations: Any = nn,
) -> TokenProjection:
    """The token projection whose tensors stand under `prefix`, loaded (strict): one of the three kinds above.

    Raises ValueError when there is none.
    """
    own = {key.removeprefix(prefix): value for key, value in state_dict.items() if key.startswith(prefix)}
    if "attn.to_q.weight" not in own or "proj.0.weight" not in own:
        raise ValueError(f"No token projection of an XL model is under {prefix!r}: {prefix}proj.0.weight is missing.")
    clip_width, (output_width, joined) = own["norm.weight"].shape[0], own["proj.0.weight"].shape
    options: dict[str, Any] = dict(
        device=device, dtype=dtype if dtype is not None else own["proj.0.weight"].dtype, operations=operations
    )
    sizes: dict[str, Any] = dict(
        clip_width=clip_width, tagger_width=joined - clip_width, output_width=output_width, head_width=head_width
    )
    build: Callable[..., TokenProjection]
    if "mlp.fusion_layer.weight" in own:
        width, inputs = own["mlp.fusion_layer.weight"].shape
        classes = own["mlp.mlp.0.0.weight"].shape[1]
        build = functools.partial(LogitProjection, classes, layers=inputs // width)
    elif "transformer.norm1.weight" in own:
        build = RecoveryProjection
    else:
        build = TokenProjection
    check_fits(lambda: build(**sizes, **options | {"device": "meta"}), own)
    network = build(**sizes, **options)
    network.load_state_dict(own)
    return network.eval()
