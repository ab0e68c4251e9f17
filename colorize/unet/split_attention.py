"""Split cross-attention: every query of the sketch attends to the reference tokens of its own region.

Paper: Image Referenced Sketch Colorization Based on Animation Creation Workflow (CVPR 2025), Eq. 2, for a figure and a
background; here for any number of figures ("cast"), the same composition with more regions. The released code computes
both regions for every query and throws half away; here a query is computed once, for the region that it belongs to, so
split attention costs hardly more than plain attention. Only soft edges and the merge scale make a query belong to two.

The paper writes softmax(QK/d); like the released code, d is the root of the head width.

Shape legend: B batch, F figures, R = F + 1 regions (background last), H W size of a feature map, N = H * W queries,
n queries of one region, M tokens of one region, D width of a token, C channels.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F

from .kept import KeptLayer, RegionAttention, keys_and_values


@dataclass(frozen=True)
class SplitOptions:
    """How the regions are composed. Compared by value: conditions with equal options run in one batch."""

    kinds: tuple[str | None, ...]
    """Region weights of each region, figures first, background last: "fg", "bg", or None for the plain weights."""
    strengths: tuple[float, ...]
    """Factor on the attention result of each region."""
    threshold: float = 0.05
    """A query belongs to a figure where the figure's mask, resized to the feature map, is greater (0..1)."""
    merge: float = 0.0
    """0..1: how much of a figure's result is replaced by the background's result for the same query."""
    soft: bool = False
    """Blend the regions by the mask's value instead of deciding by the threshold."""
    ties_to_figure: bool = False
    """Where mask = threshold: figure (released v1 path) instead of background (released v1.5 path)."""
    overshoot: bool = False
    """With `soft`: use what bicubic resizing makes below 0 and above 1 as well (released XL path)."""

    def __post_init__(self) -> None:
        if len(self.kinds) != len(self.strengths) or len(self.kinds) < 2:
            raise ValueError(
                f"{len(self.kinds)} kinds and {len(self.strengths)} strengths: a split needs one of each per region, "
                "and at least a figure and the background."
            )


# A bank of background tokens is read by the queries whose figure mask is not greater than this (released XL code).
BANK_OPTIONS = SplitOptions(kinds=(None, None), strengths=(1.0, 1.0), threshold=0.05)


@dataclass(frozen=True, eq=False)
class Share:
    """The queries of one region on a feature map of one size."""

    index: torch.Tensor | None
    """(B * n,) places in the queries flattened to (B * N); None: every query, in order."""
    weight: torch.Tensor | None
    """(B, n, 1) factor on the region's result, padding has 0; None: 1 everywhere."""


@dataclass(frozen=True, eq=False)
class Parting:
    """A feature map on which every query belongs to one region alone."""

    order: torch.Tensor
    """(sum of B * n,) the queries of all regions one after the other, as their shares have them"""
    back: torch.Tensor
    """(B * N,) place of every query in that order"""


def to_latent_size(masks: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Masks (B, F, H, W) of any size -> (B, F, height, width), the latent's size; float32.

    Masks of 8 times the latent are reduced bicubically without antialiasing, as in the released code; others are
    brought to that size first, with antialiasing, so that a large mask is not sampled between its pixels.
    """
    masks = masks.float()
    if masks.shape[-2:] == (height, width):
        return masks
    full = (8 * height, 8 * width)
    if masks.shape[-2:] != full:
        masks = F.interpolate(masks, size=full, mode="bilinear", align_corners=False, antialias=True)
    return F.interpolate(masks, size=(height, width), mode="bicubic", align_corners=False)


def composition(masks: torch.Tensor, options: SplitOptions, threshold: torch.Tensor | None = None) -> torch.Tensor:
    """Weight of every region at every query: masks (B, F, H, W) of this size -> (B, R, N).

    Later figures lie on top of earlier ones; the background gets what no figure covers. threshold: (B,), replaces the
    one of the options. Strengths and merge are part of the weights.
    """
    if options.soft:
        inside = masks if options.overshoot else masks.clamp(0, 1)
    else:
        level = options.threshold if threshold is None else threshold.to(masks).view(-1, 1, 1, 1)
        inside = (masks >= level if options.ties_to_figure else masks > level).to(masks.dtype)
    free = torch.ones_like(inside[:, 0])
    figures = []
    for figure in reversed(inside.unbind(1)):
        figures.append(free * figure)
        free = free * (1 - figure)
    figures.reverse()
    background = free + options.merge * sum(figures)
    weights = [figure * (1 - options.merge) for figure in figures] + [background]
    scaled = [weight * strength for weight, strength in zip(weights, options.strengths, strict=True)]
    return torch.stack(scaled, dim=1).flatten(2)


def shares(weights: torch.Tensor) -> tuple[Share | None, ...]:
    """The queries each region has to answer, from weights (B, R, N); None for a region without any.

    Rows of a batch may differ: the shorter ones are padded with other queries of weight 0.
    """
    result: list[Share | None] = []
    batch, _, total = weights.shape
    for weight in weights.unbind(1):
        used = weight != 0
        most = int(used.sum(dim=1).max())
        if most == 0:
            result.append(None)
            continue
        if most == total:
            index, own = None, weight
        else:
            # A stable sort puts the used queries first, each part in its old order.
            order = torch.sort(used.to(torch.uint8), dim=1, descending=True, stable=True).indices[:, :most]
            own = weight.gather(1, order)
            index = (order + torch.arange(batch, device=order.device)[:, None] * total).flatten()
        result.append(Share(index, None if bool((own == 1).all()) else own[..., None]))
    return tuple(result)


def parting(parts: Sequence[Share | None], total: int) -> Parting | None:
    """How shares divide `total` queries (B * N) among them; None where a query belongs to none, to two, or all to one.

    Padding of a share counts for nothing: its weight is 0.
    """
    indices, used = [], []
    for share in parts:
        if share is None:
            continue
        if share.index is None:
            return None
        indices.append(share.index)
        used.append(torch.ones_like(share.index) if share.weight is None else (share.weight != 0).flatten().long())
    if not indices:
        return None
    order, counts = torch.cat(indices), torch.cat(used)
    if not bool((torch.zeros(total, dtype=torch.long, device=order.device).index_add(0, order, counts) == 1).all()):
        return None
    places = counts.nonzero()[:, 0]
    back = torch.empty(total, dtype=torch.long, device=order.device).index_copy(0, order[places], places)
    return Parting(order, back)


class Split:
    """The regions of one run of the U-Net: their tokens, and who answers which query at every feature map size."""

    def __init__(
        self,
        tokens: Sequence[torch.Tensor],  # R tensors (B, M, D), background last; M may differ
        masks: torch.Tensor,  # (B, F, H, W) figure masks at the size of the latent, 1 = figure
        options: SplitOptions,
        threshold: torch.Tensor | None = None,  # (B,) one threshold per row, instead of the one of the options
    ) -> None:
        if not len(tokens) == masks.shape[1] + 1 == len(options.kinds):
            raise ValueError(
                f"{len(tokens)} token sets, {masks.shape[1]} figure masks and options for {len(options.kinds)} regions "
                "do not belong together: there is one more token set than masks, the background's."
            )
        self.tokens = tuple(tokens)
        self.masks = masks
        self.options = options
        self._threshold = threshold
        self._plans: dict[tuple[int, int], tuple[Share | None, ...]] = {}
        self._partings: dict[tuple[int, int], Parting | None] = {}
        self._weights: dict[tuple[int, int], torch.Tensor] = {}
        self._two: Split | None = None

    def with_tokens(self, tokens: Sequence[torch.Tensor]) -> Split:
        """The same masks, options and plans with other tokens."""
        other = copy.copy(self)
        other.tokens = tuple(tokens)
        return other

    def against_background(self, options: SplitOptions) -> Split:
        """All figures as one, for layers in which only the background differs. Made once; options of two regions."""
        if self._two is None or self._two.options != options:
            self._two = Split(self.tokens[:1] * 2, self.masks.amax(dim=1, keepdim=True), options)
        return self._two

    def plan(self, height: int, width: int) -> tuple[Share | None, ...]:
        """The shares on a feature map of height x width; made once per size.

        The masks are resized bicubically without antialiasing, as in the released code; values outside 0..1 that this
        makes only meet the threshold.
        """
        size = (height, width)
        if size not in self._plans:
            self._plans[size] = shares(self.weights(height, width))
            self._partings[size] = parting(self._plans[size], len(self.masks) * height * width)
        return self._plans[size]

    def parting(self, height: int, width: int) -> Parting | None:
        """How the plan of this size divides the queries, see `parting`; made with it."""
        self.plan(height, width)
        return self._partings[height, width]

    def weights(self, height: int, width: int) -> torch.Tensor:
        """Weight of every region at every query of a feature map of height x width: (B, R, N), see `composition`.

        Made once per size.
        """
        size = (height, width)
        if size not in self._weights:
            masks = self.masks.float()
            if masks.shape[-2:] != size:
                masks = F.interpolate(masks, size=size, mode="bicubic", align_corners=False)
            self._weights[size] = composition(masks, self.options, self._threshold)
        return self._weights[size]


def split_attention(
    layer: RegionAttention,
    x: torch.Tensor,  # (B, N, C) normalised hidden states
    split: Split,
    size: tuple[int, int],  # H, W with H * W = N
    attend: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor],
    values: Sequence[torch.Tensor] | None = None,  # R tensors (B, M, D) the values are made of; None: the tokens
    kept: KeptLayer | None = None,  # of this layer and these tokens; None: computed here
) -> torch.Tensor:
    """Attention results (B, N, C) before the output projection, composed of all regions (Eq. 2).

    attend(q, k, v): multi-head attention of (B, n, C), (B, M, C), (B, M, C) -> (B, n, C).
    """
    plan, parted, batch, hidden = split.plan(*size), split.parting(*size), len(x), x.flatten(0, 1)
    numbers = [number for number, share in enumerate(plan) if share is not None]
    asking = [(kind, share) for kind, share in zip(split.options.kinds, plan, strict=True) if share is not None]
    if parted is None:
        queries = _all_queries(layer, hidden, asking, kept)
    else:
        queries = _parted_queries(layer, hidden.index_select(0, parted.order), asking, kept)
    answers: list[torch.Tensor] = []
    for number, (kind, share), query in zip(numbers, asking, queries, strict=True):
        if kept is not None:
            key, value = kept.keys[number], kept.values[number]
        else:
            key, value = keys_and_values(layer, split.tokens[number], (values or split.tokens)[number], kind)
        answer = attend(query.unflatten(0, (batch, -1)), key, value)
        answers.append((answer if share.weight is None else answer * share.weight.to(answer.dtype)).flatten(0, 1))
    if parted is not None:
        composed = torch.cat(answers).index_select(0, parted.back)
    else:
        found = _composed(answers, asking, len(hidden))  # None where all strengths are 0
        composed = torch.zeros_like(layer.project("to_q", hidden)) if found is None else found
    return composed.unflatten(0, (batch, -1))


Asking = Sequence[tuple[str | None, Share]]
"""Kind and share of every region that has queries."""


def _parted_queries(
    layer: RegionAttention, ordered: torch.Tensor, asking: Asking, kept: KeptLayer | None
) -> list[torch.Tensor]:
    """(B * n, C) of every region, from all hidden states in the order of a `Parting`; neighbours of one kind together.

    Every query is projected once, for its own region.
    """
    queries: list[torch.Tensor] = []
    start = 0
    for kind, group in itertools.groupby(asking, key=lambda pair: pair[0]):
        counts = [len(cast(torch.Tensor, share.index)) for _, share in group]
        queries += _query(layer, ordered.narrow(0, start, sum(counts)), kind, kept).split(counts)
        start += sum(counts)
    return queries


def _all_queries(
    layer: RegionAttention, hidden: torch.Tensor, asking: Asking, kept: KeptLayer | None
) -> list[torch.Tensor]:
    """(B * n, C) of regions that share some: the plain projection of hidden (B * N, C) is made once for all."""
    queries: list[torch.Tensor] = []
    plain: torch.Tensor | None = None
    for kind, share in asking:
        own = hidden if share.index is None else hidden.index_select(0, share.index)
        if kept is not None and kind in kept.queries:
            queries.append(own @ kept.queries[kind])
            continue
        plain = layer.project("to_q", hidden) if plain is None else plain
        query = plain if share.index is None else plain.index_select(0, share.index)
        term = layer.term("to_q", own, kind)
        queries.append(query if term is None else query + term)
    return queries


def _query(layer: RegionAttention, hidden: torch.Tensor, kind: str | None, kept: KeptLayer | None) -> torch.Tensor:
    if kept is not None and kind in kept.queries:
        return hidden @ kept.queries[kind]
    query, term = layer.project("to_q", hidden), layer.term("to_q", hidden, kind)
    return query if term is None else query + term


def _composed(answers: Sequence[torch.Tensor], asking: Asking, total: int) -> torch.Tensor | None:
    """(total, C): the sum of the regions' answers, each at the places of its share; None where there are none."""
    composed = None
    for (_, share), answer in zip(asking, answers, strict=True):
        if share.index is None:
            composed = answer if composed is None else composed + answer
        else:
            composed = answer.new_zeros(total, answer.shape[-1]) if composed is None else composed
            composed = composed.index_add(0, share.index, answer)
    return composed
