"""Lean layers: in 8 bits near the whole ones, at rest the same numbers, and never more on the device than was said."""

from __future__ import annotations

import copy
import weakref
from dataclasses import replace

import pytest
import torch
from torch import nn

from colorize import names
from colorize.reference.vision import ReferenceEncoder
from colorize.unet.region_lora import RegionLinear
from colorize.unet.split_attention import Split, SplitOptions
from colorize.unet.unet import UNet
from tests import tiny
from tests.tiny import CONFIG
from trainer.config import System
from trainer.models import lean_layers
from trainer.models.adapters import KINDS, adapt
from trainer.models.lean_layers import Lean, lean, quantised
from trainer.run.throughput import count_model_flops
from trainer.stages.activations import kept_bytes

CPU = torch.device("cpu")
WHOLE = System(channels_last=False)  # another layout of convolutions changes the last bits
EIGHT, RESTING = replace(WHOLE, frozen_8bit=True), replace(WHOLE, layer_offload=1.0)
BOTH = replace(EIGHT, layer_offload=1.0)
SMALL = replace(
    CONFIG, model_channels=32, channel_mult=(1, 1, 2), num_head_channels=16, context_dim=16, region_ranks=(4, 0.5)
)


def layers() -> dict[str, tuple[nn.Module, torch.Tensor]]:
    """A layer of every kind that computes by itself, and an input."""
    torch.manual_seed(0)
    return {
        "linear": (nn.Linear(24, 40), torch.randn(2, 5, 24)),
        "no bias": (nn.Linear(24, 40, bias=False), torch.randn(7, 24)),
        "region": (RegionLinear(24, 40, (2, 3)), torch.randn(2, 5, 24)),
        "3x3": (nn.Conv2d(8, 12, 3, padding=1), torch.randn(2, 8, 9, 7)),
        "stride": (nn.Conv2d(8, 12, 3, stride=2, padding=1), torch.randn(2, 8, 9, 7)),
        "1x1": (nn.Conv2d(8, 12, 1), torch.randn(2, 8, 9, 7)),
        "groups": (nn.Conv2d(8, 12, 3, padding=1, groups=4), torch.randn(2, 8, 9, 7)),
    }


def leaned(layer: nn.Module, system: System) -> nn.Module:
    """A copy, frozen but for what it has below it, in the form that is asked for."""
    network = nn.Sequential(copy.deepcopy(layer))
    for parameter in network[0].parameters(recurse=False):
        parameter.requires_grad_(False)
    lean(network, system, CPU)
    return network[0]


def through(layer: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The answer, and the gradient of the input for a loss that weighs its values."""
    x = x.clone().requires_grad_()
    answer = layer(x)
    (answer * torch.linspace(-1, 1, answer.numel()).view(answer.shape)).sum().backward()
    assert x.grad is not None
    return answer.detach(), x.grad


@pytest.mark.parametrize("name", layers())
@pytest.mark.parametrize("system", [EIGHT, RESTING, BOTH], ids=["8 bits", "resting", "both"])
def test_a_layer_answers_as_a_whole_one_with_its_weight(name, system):
    """To the bit, and its gradient to the last bits: of a whole layer that holds the same numbers."""
    layer, x = layers()[name]
    other = leaned(layer, system)
    assert isinstance(other, Lean) and isinstance(other, type(layer))
    plain = copy.deepcopy(layer)
    assert torch.equal(other.weight, layer.weight) == (not system.frozen_8bit)
    plain.weight.data.copy_(other.weight)
    (ours, our_gradient), (theirs, their_gradient) = through(other, x), through(plain, x)
    assert torch.equal(ours, theirs)
    assert torch.allclose(our_gradient, their_gradient, rtol=1e-5, atol=1e-6)
    assert all(p.grad is None for p in other.parameters(recurse=False))


def test_rounding_to_8_bits():
    """Every value is within half a step of its row; a row of zeros stays one, the largest values are exact."""
    weight = torch.randn(6, 5, 3, 3, generator=torch.Generator().manual_seed(0)) * torch.logspace(-4, 2, 6).view(
        -1, 1, 1, 1
    )
    weight[2] = 0
    codes, scale = quantised(weight)
    assert codes.dtype == torch.int8 and codes.shape == weight.shape and scale.shape == (6, 1, 1, 1)
    assert ((codes * scale - weight).abs() <= scale / 2 * 1.001).all() and not codes[2].any()
    assert codes.flatten(1).abs().amax(1).tolist() == [127, 127, 0, 127, 127, 127]


def test_bf16_multiplies_with_rounded_weights_only():
    """As the plain layer in autocast: the answer has the type of the arithmetic, and float32 beside it stays whole."""
    layer, x = layers()["linear"]
    other, plain = leaned(layer, EIGHT), copy.deepcopy(layer)
    plain.weight.data.copy_(other.weight)
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = other(x), plain(x)
        assert ours.dtype == torch.bfloat16 and torch.equal(ours, theirs)
        with torch.autocast("cpu", enabled=False):
            assert other(x).dtype == torch.float32


def network() -> UNet:
    """A U-Net whose region weights alone are trained, as in stage v1_5."""
    unet = UNet(SMALL)
    unet.load_state_dict(tiny.randomised(unet, 0))
    for name, parameter in unet.named_parameters():
        parameter.requires_grad_(names.REGION_LORA in name)
    return unet


def run(unet: UNet) -> torch.Tensor:
    generator = torch.Generator().manual_seed(4)
    x, tokens = torch.randn(2, 4, 16, 16, generator=generator), torch.randn(2, 2, 5, 16, generator=generator)
    masks = torch.zeros(2, 1, 16, 16)
    masks[..., :8] = 1
    split = Split(list(tokens), masks, SplitOptions(("fg", "bg"), (1.0, 1.0)))
    return unet(x, torch.tensor([3.0, 700.0]), None, split=split)


def gradients(unet: UNet, trained: nn.Module | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """The answer, and the gradients of all that is trained as one vector."""
    answer = run(unet)
    answer.square().mean().backward()
    found = [p.grad.flatten() for p in (trained or unet).parameters() if p.requires_grad]
    return answer.detach(), torch.cat(found)


def bytes_of(unet: nn.Module) -> int:
    """Of what is frozen and on the device."""
    return sum(t.nbytes for t in (*unet.parameters(), *unet.buffers()) if not t.requires_grad)


def off(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Size of the difference over that of theirs."""
    return float((ours - theirs).norm() / theirs.norm())


def test_a_network_in_8_bits_is_near_the_whole_one():
    """The answer within 4 %, gradients of region weights within 15 % and of one direction, in about a quarter of the
    memory; with random weights, whose errors add up layer by layer (trained ones: docs/LOG.md)."""
    unet = network()
    answer, gradient = gradients(unet)
    before = bytes_of(unet)
    eighth = lean(network(), EIGHT, CPU)
    near, its_gradient = gradients(eighth)
    assert 0 < off(near, answer) < 0.04
    assert 0 < off(its_gradient, gradient) < 0.15
    assert torch.cosine_similarity(its_gradient, gradient, dim=0) > 0.99
    assert bytes_of(eighth) < 0.3 * before  # norms and biases are a larger part of a tiny one
    assert not any(isinstance(layer, Lean) for name, layer in eighth.named_modules() if names.REGION_LORA in name)


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_hang_on_lean_layers(kind):
    """Their gradients are those beside whole layers: of one direction in 8 bits, to the last bits at rest."""
    found = {}
    for name, system in (("whole", WHOLE), ("8 bits", EIGHT), ("resting", RESTING)):
        torch.manual_seed(3)
        unet = lean(network().requires_grad_(False), system, CPU)
        adapters = adapt(unet, kind, 2)
        for value in adapters.parameters():
            value.data += 0.05 * torch.randn(value.shape)
        found[name] = gradients(unet, adapters)
    for part, near in ((0, 0.05), (1, 0.15)):
        assert 0 < off(found["8 bits"][part], found["whole"][part]) < near
        assert off(found["resting"][part], found["whole"][part]) < 1e-5
    assert torch.cosine_similarity(found["8 bits"][1], found["whole"][1], dim=0) > 0.99


@pytest.fixture
def visits(monkeypatch) -> list[int]:
    """Bytes on a stand-in for the device after every visit: a copy is there as long as anybody holds it."""
    here, after = {}, []

    def visit(values: torch.Tensor, device: torch.device) -> torch.Tensor:
        copied = values.clone()
        here[id(copied)] = copied.nbytes
        weakref.finalize(copied, here.pop, id(copied))
        after.append(sum(here.values()))
        return copied

    monkeypatch.setattr(lean_layers, "visit", visit)
    return after


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("system", [RESTING, BOTH], ids=["whole", "8 bits"])
def test_what_rests_visits_one_by_one(visits, checkpointing, system):
    """With gradient checkpointing or without: no more than one weight is on the device at any time, forward and
    backward, and the numbers are those of a network that is there as a whole."""
    plain = lean(network(), replace(system, layer_offload=0.0), CPU)
    resting = lean(network(), system, CPU)
    layers = [layer for layer in resting.modules() if isinstance(layer, Lean)]
    largest = max(layer.resting[0].nbytes for layer in layers)
    assert all(layer.codes is None for layer in layers) and len(layers) > 50
    plain.gradient_checkpointing = resting.gradient_checkpointing = checkpointing
    (ours, our_gradient), (theirs, their_gradient) = gradients(resting), gradients(plain)
    assert torch.equal(ours, theirs)
    assert torch.allclose(our_gradient, their_gradient, rtol=1e-4, atol=1e-7)
    assert max(visits) <= largest < 0.1 * sum(layer.resting[0].nbytes for layer in layers)
    passes = 3 if checkpointing else 2
    assert len(visits) > 0.8 * passes * len(layers)  # the first ones have nothing to answer backwards


def test_a_share_rests_spread_over_the_network():
    unet = lean(network(), System(layer_offload=0.5), CPU)
    sizes = [
        (layer.weight.numel(), isinstance(layer, Lean))
        for name, layer in unet.named_modules()
        if isinstance(layer, (nn.Linear, nn.Conv2d)) and names.REGION_LORA not in name
    ]
    half = len(sizes) // 2
    for part in (sizes, sizes[:half], sizes[half:]):
        share = sum(size for size, rests in part if rests) / sum(size for size, _ in part)
        assert 0.35 < share <= 0.55
    assert lean(network(), System(), CPU).state_dict().keys() == network().state_dict().keys()


@pytest.mark.parametrize("system", [EIGHT, RESTING], ids=["8 bits", "resting"])
def test_autograd_keeps_no_frozen_weight(system):
    """Of a whole network in bf16 it keeps one of every weight, in the type of the arithmetic."""

    def kept(unet: UNet) -> int:
        with torch.autocast("cpu", torch.bfloat16):
            return kept_bytes(unet, lambda: run(unet))[0]

    whole = network()
    weights = sum(p.numel() for name, p in whole.named_parameters() if not p.requires_grad and p.ndim > 1)
    assert kept(lean(network(), system, CPU)) < kept(whole) - 1.5 * weights


def test_operations_of_lean_layers_are_counted():
    """A run's utilisation does not fall because its weights lie in 8 bits."""
    counts = [count_model_flops(lambda unet=unet: run(unet).sum()) for unet in (network(), lean(network(), EIGHT, CPU))]
    assert counts[0] == counts[1] > 10**6


def test_state_dicts_of_both_forms_fit_each_other():
    """What is trained goes from one to the other; frozen weights stay as they are."""
    whole, eighth = network(), lean(network(), EIGHT, CPU)
    for parameter in eighth.parameters():
        if parameter.requires_grad:
            parameter.data += 1
    saved = eighth.state_dict()
    assert {name for name in saved if names.REGION_LORA in name} and "input_blocks.0.0.weight" not in saved
    assert whole.state_dict().keys() - saved.keys() == {
        name for name in whole.state_dict() if name.removesuffix(".weight") in
        {n for n, layer in eighth.named_modules() if isinstance(layer, Lean)}
    }  # fmt: skip
    before = eighth.get_submodule("input_blocks.0.0").weight
    eighth.load_state_dict(whole.state_dict())
    assert torch.equal(eighth.get_submodule("input_blocks.0.0").weight, before)
    with pytest.raises(RuntimeError, match="Missing key"):
        whole.load_state_dict({name: value for name, value in saved.items() if names.REGION_LORA not in name})


@pytest.mark.parametrize("system", [EIGHT, BOTH], ids=["8 bits", "both"])
def test_a_reference_encoder_in_8_bits(system):
    """torch's own attention reads its weights whole; tokens within 2 %."""
    torch.manual_seed(0)
    encoder = ReferenceEncoder(32, 8, 64, 2, 16, 32).requires_grad_(False).eval()
    picture = torch.rand(2, 3, 40, 40) * 2 - 1
    with torch.no_grad():
        whole, before = encoder.encode(picture), bytes_of(encoder)
        small = lean(encoder, system, CPU)
        assert off(small.encode(picture), whole) < 0.02
    assert bytes_of(small) < (0.3 if system is EIGHT else 0.1) * before
    kinds = {type(layer).__name__ for layer in small.modules() if isinstance(layer, Lean)}
    assert kinds == {"LeanLinear", "LeanConv2d", "LeanAttention"}
