"""LoRA files in a model's weights: what the trainer wrote, read again; what it does not know, told."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from colorize import names
from trainer.config import ConfigError
from trainer.models import checkpoint
from trainer.models.adapters import KINDS, adapt
from trainer.models.loras import with_loras
from trainer.models.low_rank import low_rank_difference


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(24, 48), nn.Conv2d(16, 8, 3), nn.Conv2d(8, 12, 1), nn.GroupNorm(2, 12))


def of_a_model(net: nn.Module) -> dict[str, torch.Tensor]:
    """Its tensors in half precision, as a file of a whole model has them, and one of another part."""
    unet = {names.UNET + name: value.detach().half() for name, value in net.state_dict().items()}
    return unet | {"control_encoder.weight": torch.ones(2, dtype=torch.float16)}


def written(tmp_path: Path, tensors: dict[str, torch.Tensor], name: str = "a") -> str:
    checkpoint.write_tensors(tmp_path / f"{name}.safetensors", tensors, {})
    return str(tmp_path / f"{name}.safetensors")


@pytest.mark.parametrize("alpha", [0.0, 6.0])
@pytest.mark.parametrize("kind", KINDS)
def test_adapters_read_from_a_file_are_those_that_were_merged(tmp_path, kind, alpha):
    net = network()
    net.load_state_dict({name: value.half() for name, value in net.state_dict().items()})
    adapters = adapt(net, kind, 3, alpha)
    for value in adapters.parameters():
        value.data += 0.1 * torch.randn(value.shape)
    file = written(tmp_path, {names.LORA_UNET + name: value for name, value in adapters.state_dict().items()})
    whole, wanted = with_loras(of_a_model(net), [file]), adapters.merged(net.state_dict())
    for name, value in wanted.items():
        assert torch.allclose(whole[names.UNET + name].float(), value, rtol=1e-5, atol=1e-6)
    assert (wanted["0.weight"] - net[0].weight).abs().max() > 0.01
    assert whole["control_encoder.weight"].dtype == torch.float16


def test_differences_of_all_kinds_and_marks(tmp_path):
    """As stage distill writes them: low rank where that is smaller, else whole; biases; the mark of a student."""
    net, other = network(), network(1)
    lora = low_rank_difference(net.state_dict(), other.state_dict(), 12, torch.float32)
    assert {name.split(".", 2)[2] for name in lora} >= {"lora_up.weight", "diff", "diff_b"}
    mark = {f"{names.LORA_UNET}distilled.set_weight": torch.tensor([2.0, 2.0])}
    tensors = {names.UNET + name: value for name, value in net.state_dict().items()}
    whole = with_loras(tensors, [written(tmp_path, lora | mark)])
    assert whole[names.UNET + names.DISTILLED].tolist() == [2.0, 2.0]
    for name, value in other.state_dict().items():
        near = 0.9 if f"{names.LORA_UNET}{name.removesuffix('.weight')}.lora_up.weight" in lora else 1e-6
        assert (whole[names.UNET + name] - value).norm() <= near * (value - net.state_dict()[name]).norm() + 1e-6


def test_two_files_add_up(tmp_path):
    files = [
        written(tmp_path, {f"{names.LORA_UNET}0.diff": torch.full((48, 24), size)}, str(size)) for size in (1.0, 2.0)
    ]
    net = network()
    whole = with_loras({f"{names.UNET}0.weight": net[0].weight.detach()}, files)
    assert torch.allclose(whole[f"{names.UNET}0.weight"], net[0].weight + 3)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("lora_te_text_model.lora_up.weight", torch.zeros(2, 2), "is no LoRA of this trainer"),
        ("diffusion_model.0.unknown", torch.zeros(2, 2), "is no LoRA of this trainer"),
        ("diffusion_model.9.diff", torch.zeros(2, 2), "made for another model"),
        ("diffusion_model.0.diff", torch.zeros(1, 24), "made for another model"),
        ("diffusion_model.0.lora_up.weight", torch.zeros(2, 2), "made for another model"),
        ("diffusion_model.0.alpha", torch.tensor(2.0), "has only a part"),
    ],
)
def test_other_files_are_told(tmp_path, name, value, words):
    with pytest.raises(ConfigError, match=words):
        with_loras(of_a_model(network()), [written(tmp_path, {name: value})])
