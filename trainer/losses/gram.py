"""Gram regularisation: the structure of the features must not depend on which reference is shown.

The same noisy latent with the same sketch is denoised twice, with its own reference ("aligned") and with another one
("misaligned"). The Gram matrix of the features says which places of the picture look alike; that is the sketch's
business. So the misaligned features are drawn to the Gram matrix of the aligned ones, which get no gradient. Source:
Towards High-resolution and Disentangled Reference-based Sketch Colorization (CVPR 2026) and the released trainer.

The paper (Eq 1) writes the squared Frobenius norm of the difference of x x^T: variant "frobenius". It grows with the
number of places squared and with the features' length to the fourth power, so its weight must be found for a model and
a size. Like the released trainer, "mse" takes the mean over the entries of cosines instead. Variants besides these two
are the released trainer's.

Shape legend: B batch, N tokens of a feature map (h * w), C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F

from colorize.unet.unet import UNet

HOOKS = ("last", "released", "levels")
MARGIN = 0.1  # of the ranking variant
EPSILON = 1e-6  # of channel standardisation


def standardised(features: torch.Tensor) -> torch.Tensor:
    """Features (B, N, C) with mean 0 and deviation 1 of every channel over the tokens (released: "dist norm")."""
    return (features - features.mean(dim=1, keepdim=True)) / (features.std(dim=1, keepdim=True) + EPSILON)


def gram(features: torch.Tensor, cosine: bool = True) -> torch.Tensor:
    """Gram matrices (B, N, N) of features (B, N, C) in float32: cosines of tokens, or plain products."""
    features = features.float()
    features = F.normalize(features, dim=-1) if cosine else features
    return features @ features.transpose(1, 2)


def mse(misaligned: torch.Tensor, aligned: torch.Tensor) -> torch.Tensor:
    """Mean squared difference of the entries."""
    return F.mse_loss(misaligned, aligned)


def kl(misaligned: torch.Tensor, aligned: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Divergence of the rows as distributions, softmax(row / temperature): summed over rows, averaged over samples."""
    found, wanted = F.log_softmax(misaligned / temperature, dim=-1), F.softmax(aligned / temperature, dim=-1)
    return F.kl_div(found, wanted, reduction="batchmean")


def outstanding(matrix: torch.Tensor) -> torch.Tensor:
    """Booleans like the matrix (B, N, N): entries above the mean of their row by one standard deviation."""
    return matrix > matrix.mean(dim=-1, keepdim=True) + matrix.std(dim=-1, keepdim=True)


def ranking(misaligned: torch.Tensor, aligned: torch.Tensor) -> torch.Tensor:
    """In every row, the least of the aligned branch's outstanding entries must exceed the largest other by MARGIN."""
    above = outstanding(aligned)
    least = misaligned.masked_fill(~above, torch.inf).amin(dim=-1)
    largest = misaligned.masked_fill(above, -torch.inf).amax(dim=-1)
    both = above.any(dim=-1) & ~above.all(dim=-1)
    return torch.where(both, F.relu(MARGIN - least + largest), 0.0).mean()


def bce(misaligned: torch.Tensor, aligned: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of outstanding entries, yes or no.

    The gradient is that of a soft decision, sigmoid((entry - its row's threshold) / MARGIN); the released trainer
    passes it straight through the hard one, where that of the cross-entropy is only held finite by a clamp at 1e12.
    """
    wanted = outstanding(aligned).to(misaligned.dtype)
    hard = F.binary_cross_entropy(outstanding(misaligned).to(misaligned.dtype), wanted)
    threshold = misaligned.mean(dim=-1, keepdim=True) + misaligned.std(dim=-1, keepdim=True)
    soft = F.binary_cross_entropy_with_logits((misaligned - threshold) / MARGIN, wanted)
    return soft + (hard - soft).detach()


def frobenius(misaligned: torch.Tensor, aligned: torch.Tensor) -> torch.Tensor:
    """Squared Frobenius norm of the difference (Eq 1 of the paper), averaged over samples."""
    return (misaligned - aligned).square().sum(dim=(1, 2)).mean()


VARIANTS: dict[str, Callable[..., torch.Tensor]] = {
    "mse": mse,
    "frobenius": frobenius,
    "kl": kl,
    "ranking": ranking,
    "bce": bce,
}


def gram_loss(
    misaligned: Sequence[torch.Tensor],  # features (B, N, C) of every hooked block; N may differ
    aligned: Sequence[torch.Tensor],  # of the same blocks; gets no gradient
    variant: str = "mse",
    temperature: float = 1.0,  # of kl
    normalise_rows: bool = False,  # rows of the matrices are scaled to length 1 as well
    standardise: bool = False,  # see `standardised`
    figure: torch.Tensor | None = None,  # (B, 1, H, W) figure mask 0..1: only pairs of places inside it count
) -> torch.Tensor:
    """Sum of the variant's loss over the hooked blocks."""
    if variant not in VARIANTS:
        raise ValueError(f"Gram variant {variant!r} is unknown; choose one of {', '.join(VARIANTS)}.")
    options = {"temperature": temperature} if variant == "kl" else {}
    total = torch.zeros((), device=misaligned[0].device)
    for ours, theirs in zip(misaligned, aligned, strict=True):
        pair = [standardised(x.float()) if standardise else x for x in (ours, theirs.detach())]
        found, wanted = (gram(x, cosine=variant != "frobenius") for x in pair)
        if normalise_rows:
            found, wanted = F.normalize(found, dim=-1), F.normalize(wanted, dim=-1)
        if figure is not None:
            inside = figure_tokens(figure, found.shape[-1])
            inside = inside @ inside.transpose(1, 2)
            found, wanted = found * inside, wanted * inside
        total = total + VARIANTS[variant](found, wanted, **options)
    return total


def hooked_blocks(unet: UNet, which: str = "last") -> tuple[int, ...]:
    """Numbers of the transformer blocks whose features are compared, in their order.

    "last" (paper): the last ones of the lowest resolution, in encoder and decoder. "released": those before them, which
    the released trainer takes because it counts from one; for SDXL 22 and 62 instead of 23 and 63. "levels" (ours): the
    last ones of every resolution that has attention, so that no block reads the reference behind the loss; for SDXL 3,
    23, 63 and 69.
    """
    if which not in HOOKS:
        raise ValueError(f"Gram blocks {which!r} are unknown; choose one of {', '.join(HOOKS)}.")
    places = unet.attention_places
    last = {(place.part, place.level): number for number, place in enumerate(places) if place.part != "bottom"}
    if which == "levels":
        return tuple(sorted(last.values()))
    lowest = max(level for _, level in last)
    return tuple(last[part, lowest] - (which == "released") for part in ("encoder", "decoder"))


def two_branches(
    unet: UNet,
    noisy: torch.Tensor,  # (B, 4, h, w)
    t: torch.Tensor,  # (B,)
    control: Sequence[torch.Tensor],
    y: torch.Tensor | None,
    context: torch.Tensor,  # (B, L, D) what the aligned branch reads
    other: torch.Tensor,  # (B, L, D) what the misaligned branch reads
    blocks: Sequence[int],  # of `hooked_blocks`
) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
    """The aligned branch's answer, and the features of the blocks in the aligned and in the misaligned branch.

    Both branches share the blocks before the first attention, which see no reference, go on as one batch, and only the
    aligned one goes further than the last hooked block: on the lowest resolution the other costs about half of a pass.
    """
    count = len(noisy)
    keep = dict.fromkeys(blocks, "output")
    begun = unet.begin(noisy, t, control, y)
    both = begun.each(lambda rows: torch.cat([rows, rows]))
    # What is kept for the last decoder blocks, which the misaligned branch does not reach, stays single.
    unread = unet.unread_skips(max(blocks))
    both = replace(both, skips=(*begun.skips[:unread], *both.skips[unread:]))
    both, kept = unet.advance(both, unet.readings(torch.cat([context, other]), keep=keep), max(blocks))
    answer, _ = unet.finish(both.each(lambda rows: rows[:count]), unet.readings(context))
    return answer, [features[:count].detach() for features in kept], [features[count:] for features in kept]


def figure_tokens(figure: torch.Tensor, count: int) -> torch.Tensor:
    """A figure mask (B, 1, H, W) as (B, count, 1) ones and zeros: the nearest pixel of each of `count` tokens."""
    height, width = figure.shape[-2:]
    scale = (count / (height * width)) ** 0.5
    size = (round(height * scale), round(width * scale))
    return (F.interpolate(figure, size, mode="nearest") > 0).to(figure.dtype).flatten(2).transpose(1, 2)
