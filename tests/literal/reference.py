"""How reference tokens come about: v1.5's background networks and XL's token projection, transcribed."""

from __future__ import annotations

import torch

from .attention import attended, output
from .layers import layer_norm, linear, silu, sinusoid

HEAD_WIDTH = 64  # of the recovery transformer (released)


def recovered(w, tokens, thresholds, layers=2):
    """Tokens (B, M, D) of a background cut at `thresholds` (B,) -> R(tokens + T(threshold)), (B, L, D).

    Paper of v1.5, 3.3: the recovery transformer; its queries are learned. The threshold embedding is the released one.
    """
    width = tokens.shape[-1]
    told = sinusoid(thresholds, w.take_any("thresh_embedder.embed_layer.0.weight").shape[1])
    told = linear(
        w, "thresh_embedder.embed_layer.2", silu(linear(w, "thresh_embedder.embed_layer.0", told, width)), width
    )
    tokens = tokens + told[:, None]
    x = w.take_any("transformer.embedding").expand(len(tokens), -1, -1)
    for number in range(layers):
        layer = w.under(f"transformer.layers.{number}.")
        asked = attended(layer.under("2."), layer_norm(layer, "0", x), tokens, min(width, HEAD_WIDTH))
        x = x + output(layer.under("2."), asked)
        x = x + linear(layer, "3.2", silu(linear(layer, "3.0", layer_norm(layer, "1", x), 4 * width)), width)
    return x


def projection(w, clip, tagger, outputs, head_width):
    """CLIP tokens (B, M, C), the class token first, and tagger tokens (B, L, W) -> reference tokens (B, L, D).

    The CLIP tokens read each other; the first L of them, the class token among them, are joined with the tagger's, CLIP
    first (paper of XL, 3.3, and the released files).
    """
    seen = layer_norm(w, "norm", output(w.under("attn."), attended(w.under("attn."), clip, clip, head_width)))
    both = torch.cat([seen[:, : tagger.shape[1]], tagger], dim=-1)
    return layer_norm(w, "proj.3", linear(w, "proj.2", silu(linear(w, "proj.0", both, outputs)), outputs))
