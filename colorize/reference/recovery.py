"""The background side of ColorizeDiffusion v1.5: recovery transformer and threshold embedding.

A reference whose figure is painted white gives tokens with a hole in it. The recovery transformer reads them with
learned queries and answers tokens of a whole background; the threshold embedding tells it where the mask was cut
(CVPR 2025 paper for the transformer; the threshold embedding is in the released code only).

Shape legend: B batch, M tokens in, L tokens out, D width of a token.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import nn

from .. import names
from ..unet.attention import MultiHeadAttention
from ..unet.layers import timestep_embedding
from ..weight_files import check_fits, count_numbered, reads_strange_sizes

Weights = Mapping[str, torch.Tensor]
Network = TypeVar("Network", bound=nn.Module)

HEAD_WIDTH = 64  # of the recovery transformer in the released files


class RecoveryTransformer(nn.Module):
    """Learned queries (L, D) read the background tokens layer by layer; the answer has always L tokens.

    A layer: x += attention(LN x, tokens), x += MLP(LN x), MLP = linear 4 D, SiLU, linear. The tokens are read as they
    are, and there is no norm after the last layer (released code).
    """

    def __init__(self, dim: int, layers: int, token_length: int, heads: int | None = None) -> None:
        super().__init__()
        heads = heads or max(1, dim // HEAD_WIDTH)
        if dim % heads:
            raise ValueError(f"{heads} heads do not divide tokens of width {dim}; choose another number of heads.")
        self.embedding = nn.Parameter(torch.randn(token_length, dim) * dim**-0.5)
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    nn.LayerNorm(dim),
                    nn.LayerNorm(dim),
                    MultiHeadAttention(dim, dim // heads),
                    nn.Sequential(nn.Linear(dim, 4 * dim), nn.SiLU(), nn.Linear(4 * dim, dim)),
                ]
            )
            for _ in range(layers)
        )

    @classmethod
    @reads_strange_sizes("recovery transformer")
    def from_state_dict(cls, state_dict: Weights, prefix: str = names.RECOVERY) -> RecoveryTransformer:
        """Sizes and weights from a file's tensors. Raises ValueError when tensors are missing."""
        own = {key.removeprefix(prefix): value for key, value in state_dict.items() if key.startswith(prefix)}
        numbers = {m[1] for key in own if (m := re.match(r"layers\.(\d+)\.", key))}
        if "embedding" not in own or not numbers:
            raise ValueError(f"There is no recovery transformer under {prefix!r}.")
        length, dim = own["embedding"].shape[-2:]
        layers = count_numbered(numbers, f"layers under {prefix!r}")
        own["embedding"] = own["embedding"].reshape(length, dim)
        return _load(lambda: cls(dim, layers, length), own, prefix)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Background tokens (B, M, D) -> (B, L, D)."""
        x = self.embedding.expand(len(tokens), -1, -1)
        for layer in self.layers:
            norm1, norm2, attention, mlp = layer.children()
            x = x + attention(norm1(x), tokens)
            x = x + mlp(norm2(x))
        return x


class ScalarEmbedder(nn.Module):
    """A number, such as a mask threshold, as one token: sinusoid [cos, sin] of the raw value, linear, SiLU, linear."""

    def __init__(self, embed_dim: int, out_dim: int) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.embed_layer = nn.Sequential(nn.Linear(embed_dim, out_dim), nn.SiLU(), nn.Linear(out_dim, out_dim))

    @classmethod
    @reads_strange_sizes("recovery transformer")
    def from_state_dict(cls, state_dict: Weights, prefix: str = names.THRESHOLD) -> ScalarEmbedder:
        """Sizes and weights from a file's tensors. Raises ValueError when tensors are missing."""
        own = {key.removeprefix(prefix): value for key, value in state_dict.items() if key.startswith(prefix)}
        if "embed_layer.0.weight" not in own:
            raise ValueError(f"There is no threshold embedding under {prefix!r}.")
        out_dim, embed_dim = own["embed_layer.0.weight"].shape
        return _load(lambda: cls(embed_dim, out_dim), own, prefix)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """values (n,) -> (n, 1, out_dim)."""
        dtype = next(self.embed_layer.parameters()).dtype
        return self.embed_layer(timestep_embedding(values, self.embed_dim).to(dtype))[:, None]


class BackgroundEncoder(nn.Module):
    """Recovery transformer and threshold embedding together, under the names of a checkpoint."""

    def __init__(self, transformer: RecoveryTransformer, thresh_embedder: ScalarEmbedder) -> None:
        super().__init__()
        self.transformer = transformer
        self.thresh_embedder = thresh_embedder

    @classmethod
    def from_state_dict(cls, state_dict: Weights) -> BackgroundEncoder:
        """From the `transformer.*` and `thresh_embedder.*` of a file. Raises ValueError when tensors are missing."""
        return cls(RecoveryTransformer.from_state_dict(state_dict), ScalarEmbedder.from_state_dict(state_dict))

    def figure(self, tokens: torch.Tensor, threshold: torch.Tensor | float) -> torch.Tensor:
        """tokens (B, M, D) + T(threshold): what the released inference does to figure tokens; training does not."""
        return tokens + self._embedded(tokens, threshold)

    def background(self, tokens: torch.Tensor, threshold: torch.Tensor | float, recover: bool = True) -> torch.Tensor:
        """Tokens (B, M, D) of the masked reference or of a background picture -> background tokens (B, L, D).

        threshold: the reference mask's, (B,) or one number, 0..1. recover = False leaves the recovery transformer out,
        as the released code does for a separate background picture.
        """
        tokens = tokens + self._embedded(tokens, threshold)
        return self.transformer(tokens) if recover else tokens

    def _embedded(self, tokens: torch.Tensor, threshold: torch.Tensor | float) -> torch.Tensor:
        values = torch.as_tensor(threshold, dtype=torch.float32, device=tokens.device).reshape(-1)
        return self.thresh_embedder(values).to(tokens.dtype)


def _load(build: Callable[[], Network], weights: Weights, prefix: str) -> Network:
    try:
        check_fits(build, weights)
    except ValueError as error:
        raise ValueError(f"Under {prefix!r}: {error}") from None
    network = build()
    network.load_state_dict({key: weights[key] for key in network.state_dict()})
    return network
