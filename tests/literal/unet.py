"""The U-Net, transcribed block by block: v1's, whose attention projects with 1x1 convolutions, and XL's with linear
layers, several transformer blocks in a row and numbers y beside the time step."""

from __future__ import annotations

import torch

from .attention import Everywhere
from .layers import conv, gelu, group_norm, layer_norm, linear, silu, sinusoid

HINTS_AFTER = (0, 3, 6, 9, 11)


def res_block(w, x, emb, outputs):
    h = conv(w, "in_layers.2", silu(group_norm(w, "in_layers.0", x)), outputs)
    h = h + linear(w, "emb_layers.1", silu(emb), outputs)[:, :, None, None]
    h = conv(w, "out_layers.3", silu(group_norm(w, "out_layers.0", h)), outputs)
    return h + (x if x.shape[1] == outputs else conv(w, "skip_connection", x, outputs, size=1))


def transformer(w, x, reads, head_width, depth=1, linear_projections=False, taps=None):
    """taps: what each transformer block of the pass reads and answers is appended, (B, N, C) both."""
    batch, width, height, breadth = x.shape
    taps = [] if taps is None else taps
    normal = group_norm(w, "norm", x, eps=1e-6)
    projected = normal if linear_projections else conv(w, "proj_in", normal, width, size=1)
    # Token number row * breadth + column is the pixel in that row and column.
    tokens = torch.stack([projected[:, :, row, column] for row in range(height) for column in range(breadth)], dim=1)
    tokens = linear(w, "proj_in", tokens, width) if linear_projections else tokens
    for number in range(depth):
        block, size = w.under(f"transformer_blocks.{number}."), (height, breadth)
        normal = layer_norm(block, "norm1", tokens)
        tokens = tokens + reads.around(block.under("attn1."), normal, size, head_width, len(taps))
        if not isinstance(reads, Everywhere) or reads.tokens is not None:
            seen = layer_norm(block, "norm2", tokens)
            tokens = tokens + reads.reference(block.under("attn2."), seen, size, head_width)
        both = linear(block, "ff.net.0.proj", layer_norm(block, "norm3", tokens), 8 * width)
        value, gate = both[..., : 4 * width], both[..., 4 * width :]
        tokens = tokens + linear(block, "ff.net.2", value * gelu(gate), width)
        taps.append((normal, tokens))
    tokens = linear(w, "proj_out", tokens, width) if linear_projections else tokens
    image = tokens.permute(0, 2, 1).reshape(batch, width, height, breadth)
    return x + (image if linear_projections else conv(w, "proj_out", image, width, size=1))


def upsampled(x):
    """Every pixel becomes a 2x2 square of itself."""
    return x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)


def embedded(w, t, y, model_channels, device):
    """Time step (B,) and the vector y (B, Y) or None -> (B, 4 model_channels)."""
    width = 4 * model_channels
    emb = sinusoid(t, model_channels).to(device)
    emb = linear(w, "time_embed.2", silu(linear(w, "time_embed.0", emb, width)), width)
    if y is None:
        return emb
    return emb + linear(w, "label_emb.0.2", silu(linear(w, "label_emb.0.0", y, width)), width)


def unet(
    w,
    x,  # (B, in, H, W)
    t,  # (B,)
    context,  # (B, M, D), or what else attention reads: attention.Regions
    control=None,  # five maps (XL: four), shallow to deep
    model_channels=320,
    channel_mult=(1, 2, 4, 4),
    attention_levels=(0, 1, 2),
    num_head_channels=64,
    out_channels=4,
    num_res_blocks=2,
    probes=None,  # block name -> None; filled with the block's output
    y=None,  # (B, Y), XL
    depths=None,  # transformer blocks in a row on each level; None: one
    linear_projections=False,
    hints_after=HINTS_AFTER,
    taps=None,  # see `transformer`
    ends_early=False,  # XL's background plugin: no more than the decoder's blocks with attention, and no answer
):
    """The network's answer (B, out, H, W)."""
    probes = {} if probes is None else probes
    reads = Everywhere(context) if context is None or isinstance(context, torch.Tensor) else context
    emb = embedded(w, t, y, model_channels, x.device)
    hints = dict(zip(hints_after, control)) if control else {}
    taps = [] if taps is None else taps

    def attend(name, h, level):
        depth = depths[level] if depths else 1
        return transformer(w.under(name), h, reads, num_head_channels, depth, linear_projections, taps)

    def finish(name, number, h):
        if f"{name}.{number}" in probes:
            probes[f"{name}.{number}"] = h
        return h + hints[number] if name == "input_blocks" and number in hints else h

    h, skips = encoder(w, x, emb, model_channels, channel_mult, attention_levels, num_res_blocks, attend, finish)
    h = res_block(w.under("middle_block.0."), h, emb, h.shape[1])
    h = attend("middle_block.1.", h, len(channel_mult) - 1)
    h = res_block(w.under("middle_block.2."), h, emb, h.shape[1])
    if "middle_block" in probes:
        probes["middle_block"] = h
    block = -1
    for level in reversed(range(len(channel_mult))):
        if ends_early and level not in attention_levels:
            return None
        for index in range(num_res_blocks + 1):
            block += 1
            h = torch.cat([h, skips.pop()], dim=1)
            h = res_block(w.under(f"output_blocks.{block}.0."), h, emb, channel_mult[level] * model_channels)
            layer = 1
            if level in attention_levels:
                h = attend(f"output_blocks.{block}.{layer}.", h, level)
                layer += 1
            if level > 0 and index == num_res_blocks:
                height, breadth = skips[-1].shape[-2:]  # an odd side was halved upwards: one row or column too many
                up = upsampled(h)[..., :height, :breadth]
                h = conv(w, f"output_blocks.{block}.{layer}.conv", up, h.shape[1])
            h = finish("output_blocks", block, h)
    return conv(w, "out.2", silu(group_norm(w, "out.0", h)), out_channels)


def encoder(w, x, emb, model_channels, channel_mult, attention_levels, num_res_blocks, attend, finish):
    """The input blocks -> their last answer, and all answers."""
    h = finish("input_blocks", 0, conv(w, "input_blocks.0.0", x, model_channels))
    skips, block = [h], 0
    for level, mult in enumerate(channel_mult):
        for _ in range(num_res_blocks):
            block += 1
            h = res_block(w.under(f"input_blocks.{block}.0."), h, emb, mult * model_channels)
            if level in attention_levels:
                h = attend(f"input_blocks.{block}.1.", h, level)
            h = finish("input_blocks", block, h)
            skips.append(h)
        if level < len(channel_mult) - 1:
            block += 1
            h = finish("input_blocks", block, conv(w, f"input_blocks.{block}.0.op", h, h.shape[1], stride=2))
            skips.append(h)
    return h, skips
