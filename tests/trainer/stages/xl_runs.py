"""What tests of the XL stages share besides fixtures."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from colorize.reference.vision import ReferenceEncoder
from trainer.run.datasets import build_dataset


def encoder_file(folder: Path, width: int) -> str:
    """A random reference encoder of 17 tokens: as many as the tagger has, and the class token."""
    torch.manual_seed(2)
    path = folder / f"encoder{width}.safetensors"
    save_file(ReferenceEncoder(32, 8, 32, 1, 16, width).state_dict(), path, metadata={"colorize.head_width": "16"})
    return str(path)


def randomised(stage: torch.nn.Module) -> torch.nn.Module:
    """The stage with weights that do something where they start at zero."""
    torch.manual_seed(0)
    for parameter in stage.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.05)
    return stage


def first_batch(config) -> dict[str, torch.Tensor]:
    dataset = build_dataset(config)
    return torch.utils.data.default_collate([dataset[position] for position in range(config.optimizer.batch)])


def regions_of(xl, backbone, stage, **model) -> dict[str, dict]:
    """The run `xl` with a stage that trains region weights for `backbone`."""
    loss = {"reference_drop": 0.2, "offset_noise": 0.05, "background_bleach": 0.5}
    model = xl["model"] | {"init": backbone, "vae": "", "region_rank_background": 4} | model
    data = xl["data"] | ({"reference": "self"} if stage == "xl_plugin" else {})
    return (
        xl
        | {"data": data}
        | {"run": xl["run"] | {"stage": stage}, "model": model, "loss": loss, "gram": {"weight": 0.0}}
    )
