"""LoRA files in the weights of a model, as ComfyUI's own loader puts them there at strength 1: to measure, to sample.

Read are the kinds that this trainer writes: the adapters of models/adapters.py, and whole differences (.diff, .diff_b).
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Mapping
from pathlib import Path

import torch
from torch import nn

from colorize import names
from trainer.config import ConfigError

from . import checkpoint
from .adapters import CLASSES

LORA_HELP = "LoRA files on the model of --checkpoint, at strength 1 as ComfyUI puts them there (.safetensors)"
KINDS = {"dora_scale": "dora", "lora_up.weight": "lora", "hada_w1_a": "loha", "lokr_w1": "lokr"}
"""The kind of a layer's adapter, by the first of these tensors that it has."""
RANKED = {"lora": "lora_down.weight", "dora": "lora_down.weight", "loha": "hada_w1_b", "lokr": "lokr_w2_b"}
"""The tensor whose first axis is as long as the rank."""
SET = "set_weight"
SUFFIXES = tuple(
    sorted(
        ("diff", "diff_b", SET, "alpha", *KINDS, *RANKED.values(), "hada_w2_a", "hada_w2_b", "lokr_w2", "lokr_w2_a"),
        key=len,
        reverse=True,
    )
)
"""What the names of a LoRA's tensors end in, after the layer's."""


def is_lora(found: Collection[str]) -> bool:
    """Whether tensors of these names are changes of a model."""
    return bool(found) and all(name.startswith(names.LORA_UNET) and name.endswith(SUFFIXES) for name in found)


def check_layers(file: str, known: Container[str]) -> None:
    """ConfigError where a LoRA changes a layer that is not among the `known` tensors; values are not looked at."""
    for layer, parts in _layers(checkpoint.read_tensors(Path(file))[0], file).items():
        if SET not in parts and f"{names.UNET}{layer}.weight" not in known:
            raise _does_not_fit(f"{names.UNET}{layer}.weight", file)


def with_loras(tensors: dict[str, torch.Tensor], files: Iterable[str]) -> dict[str, torch.Tensor]:
    """The tensors of a whole model with the changes of LoRA files in them, float32 where something changed.

    ConfigError for a file that changes layers the model does not have, or in a way that is not known here.
    """
    for file in files:
        layers = _layers(checkpoint.read_tensors(Path(file))[0], file)
        for layer, parts in layers.items():
            _change(tensors, names.UNET + layer, parts, file)
    return tensors


def _layers(lora: Mapping[str, torch.Tensor], file: str) -> dict[str, dict[str, torch.Tensor]]:
    """The tensors of a LoRA by their layers."""
    layers: dict[str, dict[str, torch.Tensor]] = {}
    for name, value in lora.items():
        suffix = next((s for s in SUFFIXES if name.endswith("." + s)), None)
        if suffix is None or not name.startswith(names.LORA_UNET):
            raise ConfigError(
                f"{file} is no LoRA of this trainer: it has {name!r:.100}. Put it on the model in ComfyUI and measure "
                "the pictures with --results."
            )
        layer = name.removeprefix(names.LORA_UNET).removesuffix("." + suffix)
        layers.setdefault(layer, {})[suffix] = value
    return layers


def _change(tensors: dict[str, torch.Tensor], layer: str, parts: dict[str, torch.Tensor], file: str) -> None:
    """Put what a LoRA has of one layer into the model's tensors."""
    if SET in parts:
        tensors[f"{layer}.weight"] = parts.pop(SET)
    for suffix, kind in (("diff", "weight"), ("diff_b", "bias")):
        if suffix in parts:
            before, change = _tensor(tensors, f"{layer}.{kind}", file), parts.pop(suffix).float()
            if before.shape != change.shape:
                raise _does_not_fit(f"{layer}.{kind}", file)
            tensors[f"{layer}.{kind}"] = before.float() + change
    if not parts:
        return
    adapter = next((kind for name, kind in KINDS.items() if name in parts), None)
    if adapter is None:
        raise ConfigError(f"{file} has only a part of what it changes in {layer}: get the file again.")
    weight = _tensor(tensors, f"{layer}.weight", file).float()
    try:
        tensors[f"{layer}.weight"] = _adapted(weight, adapter, parts)
    except (RuntimeError, KeyError) as error:  # of other shapes, or without one of its tensors
        raise _does_not_fit(f"{layer}.weight", file) from error


@torch.no_grad()
def _adapted(weight: torch.Tensor, kind: str, parts: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """A weight with an adapter of this kind in it."""
    layer: nn.Linear | nn.Conv2d
    if weight.ndim == 2:
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    else:
        outputs, inputs, *kernel = weight.shape
        layer = nn.Conv2d(inputs, outputs, tuple(kernel), bias=False, device="meta")  # type: ignore[arg-type]
    layer.weight = nn.Parameter(weight, requires_grad=False)
    whole = kind == "lokr" and "lokr_w2" in parts
    rank = weight.numel() if whole else parts[RANKED[kind]].shape[0]
    alpha = float(parts["alpha"]) if "alpha" in parts else float(rank)
    adapter = CLASSES[kind](layer, rank, 1.0 if whole else alpha / rank)
    adapter.load_state_dict({"alpha": adapter.alpha, **{name: value.float() for name, value in parts.items()}})
    return adapter.merged(weight)


def _tensor(tensors: Mapping[str, torch.Tensor], name: str, file: str) -> torch.Tensor:
    if name not in tensors:
        raise _does_not_fit(name, file)
    return tensors[name]


def _does_not_fit(name: str, file: str) -> ConfigError:
    return ConfigError(f"{file} was made for another model: it changes {name}, which is not here or of another size.")
