"""What the attention layers of one pass read: one set of reference tokens, or regions with weights of their own.

Every region answers every query, and each query of the drawing then takes the answer of its region.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .layers import attention, linear

BANK_THRESHOLD = 0.05  # released: queries whose mask is not above this read the bank of the background plugin


def projected(w, name, x, outputs, kind=None):
    """x W^T, plus x (up down)^T of a kind of region weights ("fg", "bg")."""
    answer = linear(w, name, x, outputs, bias=False)
    if kind is None:
        return answer
    down, up = (w.take_any(f"{name}.lora_{way}_{kind}.weight") for way in ("down", "up"))
    return answer + x @ (up @ down).T


def attended(w, x, context, head_width, kind=None):
    """Multi-head attention of x (B, N, C) over context (B, M, D) before the output projection."""
    width = x.shape[-1]
    q, k, v = (
        projected(w, name, values, width, kind) for name, values in (("to_q", x), ("to_k", context), ("to_v", context))
    )
    return attention(q, k, v, head_width)


def output(w, x):
    return linear(w, "to_out.0", x, x.shape[-1])


@dataclass(frozen=True)
class Everywhere:
    """All queries read the same tokens (B, M, D); None: there is no cross-attention."""

    tokens: torch.Tensor | None

    def around(self, w, x, size, head_width, place):
        """Self-attention of x (B, N, C)."""
        return output(w, attended(w, x, x, head_width))

    def reference(self, w, x, size, head_width):
        """Cross-attention of x (B, N, C)."""
        return output(w, attended(w, x, self.tokens, head_width))


@dataclass(frozen=True)
class ClassToken:
    """The CLS model of the v1 paper (3.3): a linear layer of the class token (B, D) in the place of cross-attention.

    As the files have it: to_v, then to_out. Queries and keys play no part.
    """

    token: torch.Tensor

    def around(self, w, x, size, head_width, place):
        return output(w, attended(w, x, x, head_width))

    def reference(self, w, x, size, head_width):
        answer = output(w, projected(w, "to_v", self.token, x.shape[-1]))
        return torch.stack([answer] * x.shape[1], dim=1)


@dataclass(frozen=True)
class Regions:
    """Figure and background (v1.5 paper, Eq. 2; background first read of XL's plugin: `banks`)."""

    figure: torch.Tensor
    """(B, M, D) tokens e"""
    background: torch.Tensor
    """(B, L, D) tokens e_b"""
    masks: torch.Tensor
    """(B, 1, h, w) m_s at the size of the latent"""
    thresholds: list[float]
    """ts_s of every picture"""
    kinds: tuple[str | None, str | None] = ("fg", "bg")
    """region weights of figure and background"""
    soft: bool = False
    """blend by the mask's value (XL's plugin) instead of deciding by the threshold"""
    banks: dict[int, torch.Tensor] | None = None
    """number of a transformer block -> (B, S, C) tokens that the background's queries read alone"""

    def at(self, size):
        """The mask (B, N) on a feature map of `size`."""
        return F.interpolate(self.masks, size, mode="bicubic", align_corners=False).flatten(1)

    def around(self, w, x, size, head_width, place):
        if not self.banks or place not in self.banks:
            return output(w, attended(w, x, x, head_width))
        own, bank = attended(w, x, x, head_width), attended(w, x, self.banks[place], head_width)
        return output(w, self.chosen(own, bank, self.at(size), [BANK_THRESHOLD] * len(x)))

    def reference(self, w, x, size, head_width):
        figure = attended(w, x, self.figure, head_width, self.kinds[0])
        background = attended(w, x, self.background, head_width, self.kinds[1])
        masks = self.at(size)
        if self.soft:
            return output(w, masks[..., None] * figure + (1 - masks[..., None]) * background)
        return output(w, self.chosen(figure, background, masks, self.thresholds))

    @staticmethod
    def chosen(figure, background, masks, thresholds):
        """Query by query: the figure's answer where its mask is above the picture's threshold."""
        rows = []
        for row, threshold in enumerate(thresholds):
            places = zip(masks[row].tolist(), figure[row], background[row], strict=True)
            rows.append(torch.stack([ours if mask > threshold else theirs for mask, ours, theirs in places]))
        return torch.stack(rows)
