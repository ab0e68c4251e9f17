"""What a compiled U-Net depends on beside its tensors, as a word that torch.compile compares.

ComfyUI's node TorchCompileModel takes transformer_options out of what torch compares before it uses a trace again, and
there everything of ours rides: another mode, strength, window or figure mask would be answered by the trace of the run
before. Tensors in them are read anew; what a trace fixes are numbers, sizes and which patches there are. They are
written down here and handed to the network as an argument of its own, so another word means another trace.
"""

from __future__ import annotations

import dataclasses
import itertools
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch

KEYS = ("colorize", "patches", "patches_replace", "optimized_attention_override", "cond_or_uncond")
"""What is described of transformer_options: the guide, the patches of everybody, and what some of them go by."""
PACK = __name__.rpartition(".model_patches.")[0]

_numbers: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
_count = itertools.count()


def is_compiled(network: torch.nn.Module) -> bool:
    """Whether torch.compile has this network, or this part of one."""
    # By attribute: torch._dynamo takes seconds to import where nobody compiles.
    return hasattr(network, "_orig_mod") or getattr(network, "_compiled_call_impl", None) is not None


def outline(options: Mapping[str, Any]) -> str:
    """A word for transformer_options: the same as long as a trace of the U-Net holds."""
    return repr({key: _outline(options[key], ()) for key in KEYS if key in options})


def _outline(value: Any, above: tuple[int, ...]) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if id(value) in above:  # an object that holds itself
        return ...
    above = (*above, id(value))
    if isinstance(value, torch.nn.Module):
        return _number(value)
    if isinstance(value, torch.Tensor):
        return tuple(value.shape), str(value.dtype), str(value.device)
    if isinstance(value, Mapping):
        return {repr(key): _outline(entry, above) for key, entry in value.items()}
    if isinstance(value, (Sequence, set, frozenset)):
        return [_outline(entry, above) for entry in value]
    if hasattr(value, "__self__") and hasattr(value, "__func__"):  # a method: new at every look
        return value.__func__.__qualname__, _outline(value.__self__, above)
    if type(value).__module__.startswith(PACK):  # made anew in every step: by what it holds
        return type(value).__qualname__, {key: _outline(entry, above) for key, entry in _held(value).items()}
    return _number(value)


def _held(value: Any) -> dict[str, Any]:
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return getattr(value, "__dict__", {})


def _number(value: Any) -> int | str:
    """A number for this object and no other, also after its end."""
    try:
        if value not in _numbers:
            _numbers[value] = next(_count)
        return _numbers[value]
    except TypeError:  # cannot be remembered
        return f"{type(value).__qualname__} {next(_count)}"
