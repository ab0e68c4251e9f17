"""The v1 U-Net, transcribed block by block (released layout: attention projects with 1x1 convolutions)."""

from __future__ import annotations

import torch

from .layers import attention, conv, gelu, group_norm, layer_norm, linear, silu, sinusoid

HINTS_AFTER = (0, 3, 6, 9, 11)


def res_block(w, x, emb, outputs):
    h = conv(w, "in_layers.2", silu(group_norm(w, "in_layers.0", x)), outputs)
    h = h + linear(w, "emb_layers.1", silu(emb), outputs)[:, :, None, None]
    h = conv(w, "out_layers.3", silu(group_norm(w, "out_layers.0", h)), outputs)
    return h + (x if x.shape[1] == outputs else conv(w, "skip_connection", x, outputs, size=1))


def cross_attention(w, x, context, head_width):
    width = x.shape[-1]
    q = linear(w, "to_q", x, width, bias=False)
    k = linear(w, "to_k", context, width, bias=False)
    v = linear(w, "to_v", context, width, bias=False)
    return linear(w, "to_out.0", attention(q, k, v, head_width), width)


def transformer(w, x, context, head_width):
    batch, width, height, breadth = x.shape
    projected = conv(w, "proj_in", group_norm(w, "norm", x, eps=1e-6), width, size=1)
    # Token number row * breadth + column is the pixel in that row and column.
    tokens = torch.stack([projected[:, :, row, column] for row in range(height) for column in range(breadth)], dim=1)
    block = w.under("transformer_blocks.0.")
    normal = layer_norm(block, "norm1", tokens)
    tokens = tokens + cross_attention(block.under("attn1."), normal, normal, head_width)
    tokens = tokens + cross_attention(block.under("attn2."), layer_norm(block, "norm2", tokens), context, head_width)
    both = linear(block, "ff.net.0.proj", layer_norm(block, "norm3", tokens), 8 * width)
    value, gate = both[..., : 4 * width], both[..., 4 * width :]
    tokens = tokens + linear(block, "ff.net.2", value * gelu(gate), width)
    image = tokens.permute(0, 2, 1).reshape(batch, width, height, breadth)
    return x + conv(w, "proj_out", image, width, size=1)


def upsampled(x):
    """Every pixel becomes a 2x2 square of itself."""
    return x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)


def unet(
    w,
    x,  # (B, in, H, W)
    t,  # (B,)
    context,  # (B, M, D)
    control=None,  # five maps, shallow to deep
    model_channels=320,
    channel_mult=(1, 2, 4, 4),
    attention_levels=(0, 1, 2),
    num_head_channels=64,
    out_channels=4,
    num_res_blocks=2,
    probes=None,  # block name -> None; filled with the block's output
):
    """The network's answer (B, out, H, W)."""
    probes = {} if probes is None else probes
    time_width = 4 * model_channels
    emb = sinusoid(t, model_channels).to(x.device)
    emb = linear(w, "time_embed.2", silu(linear(w, "time_embed.0", emb, time_width)), time_width)
    hints = dict(zip(HINTS_AFTER, control)) if control else {}
    h, skips, block = x, [], 0

    def finish(name, number, h):
        if f"{name}.{number}" in probes:
            probes[f"{name}.{number}"] = h
        return h + hints[number] if name == "input_blocks" and number in hints else h

    h = finish("input_blocks", 0, conv(w, "input_blocks.0.0", h, model_channels))
    skips.append(h)
    for level, mult in enumerate(channel_mult):
        for _ in range(num_res_blocks):
            block += 1
            h = res_block(w.under(f"input_blocks.{block}.0."), h, emb, mult * model_channels)
            if level in attention_levels:
                h = transformer(w.under(f"input_blocks.{block}.1."), h, context, num_head_channels)
            h = finish("input_blocks", block, h)
            skips.append(h)
        if level < len(channel_mult) - 1:
            block += 1
            h = finish("input_blocks", block, conv(w, f"input_blocks.{block}.0.op", h, h.shape[1], stride=2))
            skips.append(h)

    h = res_block(w.under("middle_block.0."), h, emb, h.shape[1])
    h = transformer(w.under("middle_block.1."), h, context, num_head_channels)
    h = res_block(w.under("middle_block.2."), h, emb, h.shape[1])
    if "middle_block" in probes:
        probes["middle_block"] = h

    block = -1
    for level in reversed(range(len(channel_mult))):
        for index in range(num_res_blocks + 1):
            block += 1
            h = torch.cat([h, skips.pop()], dim=1)
            h = res_block(w.under(f"output_blocks.{block}.0."), h, emb, channel_mult[level] * model_channels)
            layer = 1
            if level in attention_levels:
                h = transformer(w.under(f"output_blocks.{block}.{layer}."), h, context, num_head_channels)
                layer += 1
            if level > 0 and index == num_res_blocks:
                h = conv(w, f"output_blocks.{block}.{layer}.conv", upsampled(h), h.shape[1])
            h = finish("output_blocks", block, h)
    return conv(w, "out.2", silu(group_norm(w, "out.0", h)), out_channels)
