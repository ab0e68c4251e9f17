"""What a stage costs, before it costs anything."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from trainer.config import Config

EIGHT_BITS = 1.02
"""Bytes of a value in 8 bits, with the scales and with what stays whole: biases, norms, embeddings (counted: 1.003 in
the U-Net of v1, 1.004 in XL's, 1.013 in ViT-H/14)."""
ENCODERS_ASIDE = "encoders  not in memory, when the cache folder holds every picture"


@dataclass(frozen=True)
class Cost:
    """Sizes of a run's networks; counted from shapes."""

    trained: Mapping[str, int]
    """parameters by network"""
    frozen: Mapping[str, int]
    """likewise, of those in memory"""
    shapes: tuple[str, ...]
    """lines about sizes, for people"""
    activations: int | None = None
    """bytes of one micro step; None: not known for this stage"""
    largest: int = 0
    """values of the largest trained tensor; 0: not known for this stage"""
    halved: tuple[str, ...] = ()
    """frozen networks whose weights lie in 16 bits"""
    quantised: frozenset[str] = frozenset()
    """frozen networks whose weights lie in 8 bits"""

    @property
    def frozen_bytes(self) -> int:
        """Memory of the frozen networks."""
        return round(sum(self._value_bytes(name) * size for name, size in self.frozen.items()))

    def _value_bytes(self, name: str) -> float:
        return EIGHT_BITS if name in self.quantised else 2 if name in self.halved else 4


def count(tensors: Iterable[torch.Tensor]) -> int:
    """Number of values in all tensors together."""
    return sum(tensor.numel() for tensor in tensors)


def sizes(parts: Mapping[str, Sequence[torch.Tensor]]) -> dict[str, int]:
    """Number of values of each part."""
    return {name: count(tensors) for name, tensors in parts.items()}


def largest(parts: Mapping[str, Sequence[torch.Tensor]]) -> int:
    """Values of the largest tensor of all parts."""
    return max(tensor.numel() for tensors in parts.values() for tensor in tensors)


def quantised(config: Config, frozen: Iterable[str]) -> frozenset[str]:
    """Those of the frozen networks that system.frozen_8bit keeps in 8 bits: all."""
    return frozenset(frozen if config.system.frozen_8bit else ())


def cached(cost: Cost, config: Config, encoders: tuple[str, ...]) -> Cost:
    """The same without the frozen encoders in memory, where data.cache_folder keeps what they say."""
    if not config.data.cache_folder:
        return cost
    frozen = {name: size for name, size in cost.frozen.items() if name not in encoders}
    return replace(cost, frozen=frozen, shapes=(*cost.shapes, ENCODERS_ASIDE))


def pictures_line(config: Config) -> str:
    """The line about shapes of a stage that works on pixels."""
    size = config.data.size
    return f"pictures  ({config.optimizer.batch}, 3, {size}, {size})"
