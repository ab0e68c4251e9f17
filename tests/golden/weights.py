"""Weights that golden files do not store: rebuilt from the tensor's name, its shape and a seed.

Two recipes exist. `stream_weights` belongs to files whose config says `"kind": "procedural"`, `numbered_weights` to
those that say `"kind": "recipe"`. Both give the same numbers on every machine; both come with a check.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch

_GOLDEN_GAMMA = 0x9E3779B97F4A7C15  # step of the splitmix64 generator (Steele, Lea, Flood 2014)
_WORD = 1 << 64


def _mix(words: np.ndarray) -> np.ndarray:
    """The output function of splitmix64 on an array of uint64 (overflow wraps, as intended)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def stream(key: str, count: int, seed: int) -> np.ndarray:
    """`count` float64 numbers in [-1, 1): a splitmix64 stream that starts at a hash of the name and the seed."""
    state = (zlib.crc32(key.encode()) + (seed + 1) * _GOLDEN_GAMMA) % _WORD
    start = _mix(np.array([state], dtype=np.uint64))
    steps = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_GOLDEN_GAMMA)
    return (_mix(start + steps) >> np.uint64(40)).astype(np.float64) / 2.0**23 - 1.0


def stream_weights(
    shapes: Mapping[str, Sequence[int]],  # name -> shape of every tensor
    seed: int,
    gains: Mapping[str, float] | None = None,  # name prefix -> factor of the matrices under it (1 elsewhere)
) -> dict[str, torch.Tensor]:
    """float32 tensors: matrices u * gain * sqrt(3 / fan_in), norm scales 1 + 0.2 u, biases 0.1 u; u from `stream`."""
    tensors = {}
    for key, shape in shapes.items():
        u = stream(key, math.prod(shape), seed)
        if len(shape) > 1:
            gain = next((value for prefix, value in (gains or {}).items() if key.startswith(prefix)), 1.0)
            values = u * (gain * np.sqrt(3.0 / float(math.prod(shape[1:]))))
        elif key.endswith("weight"):
            values = 1.0 + 0.2 * u
        else:
            values = 0.1 * u
        tensors[key] = torch.from_numpy(values.astype(np.float32).reshape(tuple(shape)))
    return tensors


def check_sums(tensors: Mapping[str, torch.Tensor], check: Mapping[str, float]) -> None:
    """Compare count, sum and absolute sum with the recorded ones; raises ValueError when the set is another one."""
    count = sum(tensor.numel() for tensor in tensors.values())
    total = sum(tensor.double().sum().item() for tensor in tensors.values())
    absolute = sum(tensor.double().abs().sum().item() for tensor in tensors.values())
    slack = 1e-6 * max(1.0, check["abs_sum"])
    if count != check["params"] or abs(total - check["sum"]) > slack or abs(absolute - check["abs_sum"]) > slack:
        found = {"params": count, "sum": total, "abs_sum": absolute}
        raise ValueError(f"The weights are not those of the golden file: {found}, recorded {dict(check)}.")


def numbered_weights(shapes: Mapping[str, Sequence[int]], base_seed: int, gain: float) -> dict[str, torch.Tensor]:
    """Tensors drawn from NumPy's frozen legacy generator, one seed per key in sorted order; float32, counters int64."""
    tensors = {}
    for number, key in enumerate(sorted(shapes)):
        shape = tuple(shapes[key])
        if key.endswith("num_batches_tracked"):
            tensors[key] = torch.zeros(shape, dtype=torch.int64)
            continue
        z = np.random.RandomState(base_seed + number).standard_normal(math.prod(shape)).reshape(shape)
        if key.endswith("running_var"):
            values = 1.0 + np.abs(0.1 * z)
        elif len(shape) > 1:
            values = gain * z / np.sqrt(math.prod(shape[1:]))
        elif key.endswith("weight"):
            values = 1.0 + 0.1 * z
        else:
            values = 0.1 * z
        tensors[key] = torch.from_numpy(np.asarray(values, dtype=np.float32))
    return tensors


def check_numbered(tensors: Mapping[str, torch.Tensor], first: torch.Tensor, sums: torch.Tensor) -> None:
    """Compare the first element and the sum of each tensor, in sorted key order, with the recorded ones."""
    keys = sorted(tensors)
    if len(keys) != first.numel():
        raise ValueError(f"The golden file was made with {first.numel()} weights, its key list has {len(keys)}.")
    for index, key in enumerate(keys):
        values = tensors[key].double().flatten()
        slack = 1e-5 * max(1.0, values.abs().sum().item())
        if abs(values[0].item() - first[index].item()) > 1e-5 or abs(values.sum().item() - sums[index].item()) > slack:
            raise ValueError(f"The rebuilt weight {key} differs from the one the golden file was made with.")


def apply_extra(tensors: dict[str, torch.Tensor], rule: str) -> None:
    """Carry out the sentence `add NUMBER to KEY after the recipe` of a golden file, in place."""
    match = re.match(r"add (\S+) to (\S+)", rule)
    if match is None or match[2] not in tensors:
        raise ValueError(f"The golden file's rule {rule!r} could not be read.")
    tensors[match[2]] = tensors[match[2]] + float(match[1])
