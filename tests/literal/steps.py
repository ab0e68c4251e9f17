"""The training steps of the papers, written out sample by sample and number by number.

What a network is stays a function here: eps_theta and the encoders come from the caller. Random numbers are given.
"""

from __future__ import annotations

import math

import torch

from .training import alphas_cumprod, loss, token_step

ALPHAS = alphas_cumprod()


def diffused(x0, noise, steps):
    """z_t = sqrt(a_t) z_0 + sqrt(1 - a_t) eps, a step t for every row."""
    rows = [
        math.sqrt(ALPHAS[t]) * clean + math.sqrt(1 - ALPHAS[t]) * dirt
        for clean, dirt, t in zip(x0, noise, steps, strict=True)
    ]
    return torch.stack(rows)


def with_offset(noise, shift, level):
    """eps + level * one normal number per picture and channel."""
    noise = noise.clone()
    for row in range(noise.shape[0]):
        for channel in range(noise.shape[1]):
            noise[row, channel] += level * shift[row, channel]
    return noise


def noisy_reference(tokens, noise, steps, variant):
    """tau_(phi, t)(r) of Eq. 3 (v1 paper): the tokens get the noise of the picture's own step."""
    return diffused(tokens, noise, [token_step(t, variant) for t in steps])


def rate_at(first, last, progress):
    """Reference drop that goes from `first` to `last` along the run (v1.5 paper, 3.1)."""
    return (1 - progress) * first + progress * last


def dropped(tokens, draws, rate):
    """A sample whose draw is below the rate sees zeros instead of its reference."""
    rows = [row if draw >= rate else torch.zeros_like(row) for row, draw in zip(tokens, draws.tolist(), strict=True)]
    return torch.stack(rows)


def without(pictures, masks, keep, white=1.0):
    """Pictures (B, C, H, W) that are white where keep(row, value of the mask) is false, pixel by pixel."""
    result = pictures.clone()
    for row in range(len(pictures)):
        for y in range(pictures.shape[-2]):
            for x in range(pictures.shape[-1]):
                if not keep(row, masks[row, 0, y, x].item()):
                    result[row, :, y, x] = white
    return result


def squared_error(answer, x0, noise, steps, prediction, gamma=0.0):
    """Eq. 1: mean of |eps - answer|^2, or of the velocity, with min-SNR weights where asked for."""
    lists = [values.flatten(1).double().tolist() for values in (answer, x0, noise)]
    return loss(*lists, steps, prediction, gamma)


def gram(features):
    """x x^T of features (N, C), as nested lists."""
    rows = features.double().tolist()
    return [[sum(a * b for a, b in zip(one, other, strict=True)) for other in rows] for one in rows]


def gram_loss(aligned, misaligned, cosine):
    """XL paper, Eq. 1: sum over blocks of the squared Frobenius norm, the mean over samples; cosine: of the mean
    squared difference between cosines (released)."""
    total = 0.0
    for ours, theirs in zip(misaligned, aligned, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            if cosine:
                one, other = (x / x.norm(dim=-1, keepdim=True) for x in (one, other))
            pairs = zip(gram(one), gram(other), strict=True)
            square = sum((a - b) ** 2 for found, wanted in pairs for a, b in zip(found, wanted, strict=True))
            total += square / len(ours) / (len(one) ** 2 if cosine else 1)
    return total


def told_size(size, crop, score):
    """[root of the area the crop had in the source, score]; size: the source's height, width and resized short side."""
    factor = min(size[0], size[1]) / size[2]
    return [math.sqrt(math.floor(crop[0] * factor) * math.floor(crop[1] * factor)), score]
