"""Nested values (dicts, lists, numbers, words, tensors) in a safetensors file, which runs no code when it is read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch

ENTRY = "packed"


def pack(value: Any) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata from which `unpack` makes an equal value. TypeError for other kinds of values."""
    tensors: dict[str, torch.Tensor] = {}

    def flat(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            name = str(len(tensors))
            tensors[name] = value.detach().cpu().contiguous().clone()
            dense = _last_place(value.shape, value.stride()) == max(0, value.numel() - 1)
            return {"tensor": [name, list((value if dense else tensors[name]).stride())]}
        if isinstance(value, Mapping):
            return {"dict": [[flat(key), flat(inner)] for key, inner in value.items()]}
        if isinstance(value, (list, tuple)):
            return {type(value).__name__: [flat(inner) for inner in value]}
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        raise TypeError(f"{type(value).__name__} cannot be kept in a checkpoint")

    return tensors, {ENTRY: json.dumps(flat(value))}


def unpack(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> Any:
    """The value that was packed. ValueError or LookupError when the text is not of `pack`."""

    def whole(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        ((kind, inner),) = value.items()
        if kind == "tensor":
            name, strides = inner
            return _laid_out(tensors[name], strides)
        if kind == "dict":
            return {whole(key): whole(item) for key, item in inner}
        return {"list": list, "tuple": tuple}[kind](whole(item) for item in inner)

    return whole(json.loads(metadata[ENTRY]))


def check(metadata: Mapping[str, str]) -> None:
    """ValueError or LookupError when the text is not of `pack`; the tensors are not looked at."""
    if not isinstance(json.loads(metadata[ENTRY]), dict):
        raise ValueError("its text is not of this trainer")


def _last_place(shape: Sequence[int], strides: Sequence[int]) -> int:
    return sum((side - 1) * stride for side, stride in zip(shape, strides, strict=True)) if all(shape) else 0


def _laid_out(tensor: torch.Tensor, strides: list[int]) -> torch.Tensor:
    """The tensor with its numbers in the memory order they had: sums over them depend on it in the last bit."""
    if any(stride < 0 for stride in strides) or _last_place(tensor.shape, strides) != max(0, tensor.numel() - 1):
        raise ValueError(f"strides {strides} do not fit the shape {tuple(tensor.shape)}")
    return torch.empty_strided(tensor.shape, strides, dtype=tensor.dtype).copy_(tensor)
