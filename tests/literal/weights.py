"""Weights for the literal transcriptions: a transcription asks for each tensor by name and shape.

The same transcription can therefore draw random weights of any size (and tell the shapes), or read given ones.
"""

from __future__ import annotations

import math

import torch


class Weights:
    """`take(name, *shape)` returns the tensor of that name; what is not there yet is drawn from the seed.

    Every parameter is random, biases and scales included, so that a wrong mapping shows. Device "meta": shapes only.
    """

    def __init__(self, tensors: dict[str, torch.Tensor] | None = None, seed: int = 0, device: str = "cpu"):
        self.tensors = {} if tensors is None else dict(tensors)
        self.device = device
        self._drawing = tensors is None
        self._generator = torch.Generator().manual_seed(seed)

    def take(self, name: str, *shape: int) -> torch.Tensor:
        if name not in self.tensors and self._drawing:
            self.tensors[name] = self._draw(name, shape)
        tensor = self.tensors[name]
        assert tuple(tensor.shape) == shape, f"{name} is {tuple(tensor.shape)}, the transcription wants {shape}"
        return tensor

    def take_any(self, name: str) -> torch.Tensor:
        """A tensor that is there, of any shape."""
        return self.tensors[name]

    def _draw(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        if self.device == "meta":
            return torch.empty(shape, device="meta")
        values = torch.randn(shape, generator=self._generator)
        if len(shape) > 1:
            return values / math.sqrt(math.prod(shape[1:]))
        return 1.0 + 0.2 * values if name.endswith("weight") else 0.2 * values

    def under(self, prefix: str) -> Prefixed:
        return Prefixed(self, prefix)

    def shapes(self) -> dict[str, list[int]]:
        return {name: list(tensor.shape) for name, tensor in self.tensors.items()}


class Prefixed:
    """The weights under a prefix."""

    def __init__(self, weights: Weights, prefix: str):
        self._weights, self._prefix = weights, prefix

    def take(self, name: str, *shape: int) -> torch.Tensor:
        return self._weights.take(self._prefix + name, *shape)

    def take_any(self, name: str) -> torch.Tensor:
        return self._weights.take_any(self._prefix + name)

    def under(self, prefix: str) -> Prefixed:
        return Prefixed(self._weights, self._prefix + prefix)
