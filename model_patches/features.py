"""What networks beside the model saw in pictures, for every step of a run, and who answers which query.

They ride in the payload (payload.py), which turns them into what the layers read.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch

from ..colorize.counts import check_count
from ..colorize.unet.decoder_guide import DecoderGuide, figure_options
from ..colorize.unet.split_attention import BANK_OPTIONS, Split, SplitOptions


class PlanCache:
    """Keeps who answers which query (split_attention.Split) while masks and options stay the same: usually a run."""

    def __init__(self) -> None:
        self._last: Split | None = None

    def split(
        self,
        tokens: Sequence[torch.Tensor],
        masks: torch.Tensor,
        options: SplitOptions,
        sizes: Sequence[tuple[int, int]],
    ) -> Split:
        """A Split whose plans for `sizes` are ready.

        They are made here and not in the layers, because they depend on the masks' values, which torch.compile cannot
        trace.
        """
        last = self._last
        if (
            last is not None
            and last.options == options
            and last.masks.device == masks.device
            and torch.equal(last.masks, masks)
        ):
            split = last.with_tokens(tokens)
        else:
            split = Split(tokens, masks, options)
        for size in sizes:
            split.plan(*size)
        self._last = split.with_tokens(())
        return split


def taken(values: torch.Tensor, numbers: Sequence[int]) -> torch.Tensor:
    """The rows of values (b, ...) for these pictures, in turn where there are fewer; one row stays one."""
    return values if len(values) == 1 else values[[number % len(values) for number in numbers]]


@dataclass(eq=False)
class PictureFeatures:
    """What networks beside the model saw in pictures, once, for every step of a run.

    Compared by identity, so that equal conditions run in one batch.
    """

    tensors: tuple[torch.Tensor, ...] = field(repr=False)
    """Of every reader of the U-Net, in order: (b, ...); b is 1 or the number of pictures."""
    plans: PlanCache = field(default_factory=PlanCache, repr=False)
    """Who reads them, made in a run's first step."""
    node: ClassVar[str]
    """The node that makes them."""
    title: ClassVar[str]
    """For messages."""

    def __post_init__(self) -> None:
        self._copies: weakref.WeakValueDictionary[str, PictureFeatures] = weakref.WeakValueDictionary()

    @property
    def count(self) -> int:
        """Number of pictures that were seen."""
        return len(self.tensors[0])

    def check(self, node: str | None, pictures: int) -> None:
        """Raise ValueError unless the model reads what this node makes, and there is one, or one per picture.

        node: that of the features which the sampled model reads.
        """
        if node != self.node:
            raise ValueError(
                f"The conditioning comes from {self.node}, but the sampled model is of another family. Connect model "
                "and colorizer of the same Load ColorizeDiffusion Checkpoint."
            )
        check_count(self.title, self.count, pictures, repeats=True)

    def on(self, device: torch.device) -> PictureFeatures:
        """The same on a device: one copy for all conditions of a run, gone when the run's conditions are."""
        if self.tensors[0].device == device:
            return self
        return self._copy(str(device), [values.to(device) for values in self.tensors])

    def of_pictures(self, numbers: tuple[int, ...]) -> PictureFeatures:
        """Those of some pictures of the batch, in turn where there are fewer than pictures; one is everybody's."""
        if self.count == 1:
            return self
        return self._copy(str(numbers), [taken(values, numbers) for values in self.tensors])

    def _copy(self, name: str, tensors: Sequence[torch.Tensor]) -> PictureFeatures:
        copy = self._copies.get(name)
        if copy is None:
            copy = self._copies[name] = replace(self, tensors=tuple(tensors), plans=PlanCache())
        return copy

    to = on  # ComfyUI asks conditions to move when it spreads a run over several devices

    def read(
        self,
        rows: int,
        masks: torch.Tensor | None,  # (rows, F, h, w) figure masks at the size of the latent
        sizes: Sequence[tuple[int, int]],  # of the feature maps with attention
        options: SplitOptions,  # of the cross-attention
    ) -> dict[str, Any]:
        """The features with 1 row or `rows` rows and who reads them in one step: fields of a Guide."""
        raise NotImplementedError

    def rows(self, rows: int) -> tuple[torch.Tensor, ...]:
        """The tensors with 1 row or `rows` rows: a batch holds all pictures once per condition."""
        if self.count == 1:
            return self.tensors
        return tuple(t.repeat(rows // self.count, *(1 for _ in t.shape[1:])) for t in self.tensors)


@dataclass(eq=False)
class Banks(PictureFeatures):
    """XL: what the background plugin offers to self-attention: (b, N_i, C_i) per transformer block of the decoder."""

    node: ClassVar[str] = "Apply Background Plugin"
    title: ClassVar[str] = "backgrounds of the plugin"

    def read(
        self, rows: int, masks: torch.Tensor | None, sizes: Sequence[tuple[int, int]], options: SplitOptions
    ) -> dict[str, Any]:
        """Banks, and the split by which they are read; arguments as in `PictureFeatures.read`."""
        tensors = self.rows(rows)
        if masks is None:
            return dict(banks=tensors)
        figures, options = masks.amax(dim=1, keepdim=True), replace(BANK_OPTIONS, threshold=options.threshold)
        return dict(banks=tensors, bank_split=self.plans.split(tensors[:1] * 2, figures, options, sizes))


@dataclass(eq=False)
class StyleAndBackground(PictureFeatures):
    """v2: what the decoder reads: first the backgrounds, then the styles, in the order of the output blocks."""

    backgrounds: int = 0
    """How many of the tensors are background tokens (b, S_i, C_i); the others are style vectors (b, 2 C_i)."""
    node: ClassVar[str] = "Apply Style and Background"
    title: ClassVar[str] = "style or background pictures"

    def read(
        self, rows: int, masks: torch.Tensor | None, sizes: Sequence[tuple[int, int]], options: SplitOptions
    ) -> dict[str, Any]:
        """The `DecoderGuide` of one step; arguments as in `PictureFeatures.read`."""
        tensors = self.rows(rows)
        split = None
        if masks is not None:
            figures, options = masks.amax(dim=1, keepdim=True), figure_options(options.threshold, options.soft)
            split = self.plans.split(tensors[:1] * 2, figures, options, ())
        return dict(decoder=DecoderGuide(tensors[: self.backgrounds], tensors[self.backgrounds :], split))
