"""Adapters: no change at first, the same numbers as merged weights and as ComfyUI's own LoRA code, and gradients."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from colorize.unet.unet import UNet
from tests import tiny
from tests.tiny import CONFIG
from trainer.models.adapters import KINDS, Adapters, adapt, factors

SMALL = replace(CONFIG, model_channels=32, channel_mult=(1, 1, 2), num_head_channels=16, context_dim=16)


def network(seed: int = 0) -> UNet:
    unet = UNet(SMALL)
    unet.load_state_dict(tiny.randomised(unet, seed))
    return unet.double()


def answer(unet: UNet, context: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(2, 4, 8, 8, generator=generator).double()
    tokens = context * torch.randn(2, 5, SMALL.context_dim, generator=generator).double()
    return unet(x, torch.tensor([3.0, 700.0]), tokens)


def trained(adapters: Adapters, size: float = 0.05) -> Adapters:
    """With values as after training: none of them is where it began."""
    generator = torch.Generator().manual_seed(7)
    for value in adapters.parameters():
        value.data += size * torch.randn(value.shape, generator=generator).to(value)
    return adapters


@pytest.mark.parametrize(
    ("kind", "layers"), [*((kind, "all") for kind in KINDS), ("lora", "transformers"), ("dora", "attention")]
)
def test_an_adapter_begins_as_nothing_and_learns(kind, layers):
    unet = network()
    plain = answer(unet)
    adapters = adapt(unet, kind, 4, layers=layers).double()
    exact = 1e-5 if kind == "dora" else 1e-9  # its factors are kept in float32
    assert torch.allclose(answer(unet), plain, rtol=exact, atol=exact / 10)
    assert not any(value.requires_grad for value in unet.parameters())
    answer(unet).square().mean().backward()
    assert all(value.grad is not None for value in adapters.parameters())
    moved = [name for name, value in adapters.named_parameters() if value.grad.any()]
    assert moved and all(value.grad is None for value in unet.parameters())
    trained(adapters)
    assert not torch.allclose(answer(unet), plain, rtol=1e-3)
    with adapters.off():
        assert torch.equal(answer(unet), plain)
    assert not torch.allclose(answer(unet), plain, rtol=1e-3)


@pytest.mark.parametrize("first", ["with", "without"])
def test_a_traced_network_is_still_its_own_teacher(first):
    """torch.compile traces a network with its adapters and without, whichever of the two it meets first."""
    net = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.SiLU(), torch.nn.Linear(16, 8))
    x = torch.randn(3, 8)
    plain = net(x).detach()
    adapters = trained(adapt(net, "lora", 2))
    changed = net(x).detach()
    net.compile(backend="eager")
    if first == "with":
        net(x)
    for _ in range(2):
        with adapters.off():
            assert torch.allclose(net(x), plain, atol=1e-6)
        assert torch.allclose(net(x), changed, atol=1e-6) and not torch.allclose(changed, plain, rtol=1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_beside_the_layers_equals_inside_the_weights(kind):
    unet, other = network(), network()
    adapters = trained(adapt(unet, kind, 4, alpha=2.0).double())
    other.load_state_dict(adapters.merged(unet.state_dict()))
    assert torch.allclose(answer(unet), answer(other), rtol=1e-6, atol=1e-9)
    unet.gradient_checkpointing = True
    answer(unet).square().mean().backward()
    checkpointed = [value.grad.clone() for value in adapters.parameters()]
    unet.gradient_checkpointing, _ = False, adapters.zero_grad()
    answer(unet).square().mean().backward()
    plain = [value.grad for value in adapters.parameters()]
    assert all(torch.allclose(a, b) for a, b in zip(checkpointed, plain, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_gradients(kind):
    """Against differences; the norm of dora is a constant to its gradient, so it is held still there."""
    layer = nn.Conv2d(6, 8, 3, padding=1).double()
    adapters = trained(adapt(nn.Sequential(layer), kind, 2).double(), 0.3)
    names, values = zip(*adapters.named_parameters(), strict=True)
    (adapter,) = adapters.by_layer.values()
    if kind == "dora":
        norm = (adapter.dora_scale / adapter._factor(layer.weight)).detach()
        adapter._factor = lambda weight: adapter.dora_scale / norm
    x = torch.randn(1, 6, 5, 5, dtype=torch.double)

    def run(*given: torch.Tensor) -> torch.Tensor:
        seen = torch.func.functional_call(adapter, dict(zip((n[2:] for n in names), given, strict=True)), (x,))
        return seen if kind != "dora" else seen * given[names.index("0.dora_scale")].sum()

    assert torch.autograd.gradcheck(run, tuple(v.detach().requires_grad_() for v in values))


@pytest.mark.parametrize("kind", KINDS)
def test_comfyui_reads_every_tensor_and_makes_the_same_weights(kind, loaded_unet, caplog):
    """With ComfyUI's own code: its names of layers, its reader, its arithmetic."""
    import comfy.lora

    model, unet = loaded_unet
    adapters = trained(adapt(unet, kind, 4, alpha=6.0))
    file = {f"diffusion_model.{name}": value for name, value in adapters.state_dict().items()}
    keys = comfy.lora.model_lora_keys_unet(model.model, {})
    with caplog.at_level("WARNING"):
        patches = comfy.lora.load_lora(file, keys)
    assert "not loaded" not in caplog.text
    assert len(patches) == len(adapters.by_layer) > 50
    weights, merged = unet.state_dict(), adapters.merged(unet.state_dict())
    for key, patch in patches.items():
        name = key.removeprefix("diffusion_model.")
        theirs = comfy.lora.calculate_weight([(1.0, patch, 1.0, None, None)], weights[name].clone(), key)
        assert not torch.allclose(weights[name], merged[name], rtol=1e-3)
        assert torch.allclose(theirs, merged[name], rtol=1e-5, atol=1e-6), name


@pytest.fixture
def loaded_unet(pack):
    """ComfyUI's model of a tiny file, and our U-Net with its weights."""
    import comfy.sd

    tensors = tiny.checkpoint(vae=False) | {"colorize.num_head_channels": torch.tensor(CONFIG.num_head_channels)}
    unet = UNet(CONFIG)
    prefix = "model.diffusion_model."
    unet.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
    model, *_ = comfy.sd.load_state_dict_guess_config(dict(tensors), output_vae=False, output_clip=False)
    return model, unet


def test_names_and_sizes():
    unet = network()
    adapters = adapt(unet, "lora", 4, layers="attention")
    names = set(adapters.state_dict())
    first = "input_blocks.1.1.transformer_blocks.0.attn1.to_q"
    assert {f"{first}.lora_down.weight", f"{first}.lora_up.weight", f"{first}.alpha"} <= names
    assert all(".attn" in name for name in names)
    whole = adapt(network(), "lora", 16)
    assert whole.by_layer["out.2"].rank == 4  # four channels: no more rank is there
    assert whole.by_layer["out.2"].alpha == 4
    sizes = {kind: sum(v.numel() for v in adapt(network(), kind, 4).parameters()) for kind in KINDS}
    assert sizes["lokr"] < sizes["lora"] < sizes["dora"] < sizes["loha"]
    with pytest.raises(ValueError, match="no linear or convolution layer of the choice 'attention'"):
        adapt(nn.Linear(2, 2), layers="attention")


def test_factors():
    assert [factors(number) for number in (320, 4, 7, 1280)] == [(16, 20), (2, 2), (1, 7), (32, 40)]
