"""Layers in their plainest form: formulas written out, attention as a loop over pictures and heads."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F


def conv(w, name, x, outputs, size=3, stride=1, bias=True):
    """Convolution of (B, C, H, W) with zero padding that keeps the size (before the stride)."""
    weight = w.take(f"{name}.weight", outputs, x.shape[1], size, size)
    return F.conv2d(x, weight, w.take(f"{name}.bias", outputs) if bias else None, stride=stride, padding=size // 2)


def linear(w, name, x, outputs, bias=True):
    """y = x W^T + b over the last axis."""
    y = x @ w.take(f"{name}.weight", outputs, x.shape[-1]).T
    return y + w.take(f"{name}.bias", outputs) if bias else y


def silu(x):
    return x / (1 + torch.exp(-x))


def gelu(x):
    """Exact: x times the normal distribution function."""
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def layer_norm(w, name, x, eps=1e-5):
    """Zero mean and unit variance over the last axis, then scale and shift."""
    mean = x.mean(dim=-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(dim=-1, keepdim=True)
    width = x.shape[-1]
    return (x - mean) / torch.sqrt(variance + eps) * w.take(f"{name}.weight", width) + w.take(f"{name}.bias", width)


def group_norm(w, name, x, eps=1e-5, groups=32):
    """Zero mean and unit variance over each group of channels and all pixels, then scale and shift per channel."""
    batch, channels, height, width = x.shape
    grouped = x.reshape(batch, groups, -1)
    mean = grouped.mean(dim=-1, keepdim=True)
    variance = ((grouped - mean) ** 2).mean(dim=-1, keepdim=True)
    normal = ((grouped - mean) / torch.sqrt(variance + eps)).reshape(batch, channels, height, width)
    scale = w.take(f"{name}.weight", channels).view(1, -1, 1, 1)
    return normal * scale + w.take(f"{name}.bias", channels).view(1, -1, 1, 1)


def attention(q, k, v, head_width):
    """softmax(q k^T / sqrt(head width)) v for each picture and head; q (B, N, C), k and v (B, M, C) -> (B, N, C)."""
    pictures = []
    for picture in range(q.shape[0]):
        heads = []
        for start in range(0, q.shape[-1], head_width):
            part = slice(start, start + head_width)
            scores = q[picture, :, part] @ k[picture, :, part].T / math.sqrt(head_width)
            scores = torch.exp(scores - scores.max(dim=-1, keepdim=True).values)
            heads.append(scores / scores.sum(dim=-1, keepdim=True) @ v[picture, :, part])
        pictures.append(torch.cat(heads, dim=-1))
    return torch.stack(pictures)


def sinusoid(t, width, max_period=10000.0):
    """Row b is [cos(t_b f_0), ..., cos(t_b f_last), sin(t_b f_0), ...] with f_i = max_period^(-i / (width/2))."""
    half = width // 2
    rows = []
    for step in t.tolist():
        angles = [step * math.exp(-math.log(max_period) * i / half) for i in range(half)]
        rows.append([math.cos(a) for a in angles] + [math.sin(a) for a in angles])
    return torch.tensor(rows)
