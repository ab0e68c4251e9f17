"""The CLIP vision tower that normalises and projects every token, and CLIP's preprocessing without the resampling."""

from __future__ import annotations

import torch

from .layers import attention, gelu, layer_norm, linear

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def normalised(pixels):
    """Pixels (B, 3, S, S) in [-1, 1], already at the encoder's size -> what the tower reads."""
    channels = [((pixels[:, c] + 1) / 2 - MEAN[c]) / STD[c] for c in range(3)]
    return torch.stack(channels, dim=1)


def tower(w, pixels, width=1280, layers=32, head_width=80, output_dim=1024, patch_size=14, mlp_ratio=4):
    """Normalised pixels (B, 3, S, S) -> tokens (B, 1 + (S/patch)^2, output_dim), the class token first."""
    batch, _, size, _ = pixels.shape
    grid = size // patch_size
    kernel = w.take("conv1.weight", width, 3, patch_size, patch_size).reshape(width, -1)
    patches = []
    for row in range(grid):
        for column in range(grid):
            rows = slice(row * patch_size, (row + 1) * patch_size)
            columns = slice(column * patch_size, (column + 1) * patch_size)
            patches.append(pixels[:, :, rows, columns].reshape(batch, -1) @ kernel.T)
    first = w.take("class_embedding", width).expand(batch, width)
    x = torch.stack([first, *patches], dim=1) + w.take("positional_embedding", 1 + grid * grid, width)
    x = layer_norm(w, "ln_pre", x)
    for layer in range(layers):
        block = w.under(f"transformer.resblocks.{layer}.")
        h = layer_norm(block, "ln_1", x)
        qkv = h @ block.take("attn.in_proj_weight", 3 * width, width).T + block.take("attn.in_proj_bias", 3 * width)
        q, k, v = qkv[..., :width], qkv[..., width : 2 * width], qkv[..., 2 * width :]
        x = x + linear(block, "attn.out_proj", attention(q, k, v, head_width), width)
        h = gelu(linear(block, "mlp.c_fc", layer_norm(block, "ln_2", x), int(mlp_ratio * width)))
        x = x + linear(block, "mlp.c_proj", h, width)
    return layer_norm(w, "ln_post", x) @ w.take("proj", width, output_dim)
