"""AnimeDiffusion's network, schedule and walks against slow restatements; files in every layout."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F

from colorize.animediffusion import markers
from colorize.animediffusion import unet as module
from colorize.animediffusion.sampling import (
    ancestral_step,
    ddim_step,
    descending,
    deterministic_forward,
    sample_ddim,
    sample_ddpm,
)
from colorize.animediffusion.schedule import AnimeSchedule
from colorize.animediffusion.unet import AnimeUNet, AnimeUNetConfig
from tests import tiny

CONFIG = AnimeUNetConfig(channels=64, channel_mult=(1, 2), residual_blocks=1, cbam=True)


@pytest.fixture(scope="module")
def network() -> AnimeUNet:
    network = AnimeUNet(CONFIG)
    network.load_state_dict(tiny.randomised(network))
    return network.eval()


# -- network -----------------------------------------------------------------------------------------------------------


def test_the_published_configuration_has_the_released_names(golden_keys):
    released = {k.removeprefix("denoise_fn."): v.shape for k, v in golden_keys("animediffusion").items() if "." in k}
    ours = AnimeUNet(device="meta").state_dict()
    assert {k: v.shape for k, v in ours.items()} == released
    assert AnimeSchedule().buffers().keys() == golden_keys("animediffusion").keys() - {
        f"denoise_fn.{k}" for k in released
    }


def literal_network(w: dict, x: torch.Tensor, t: torch.Tensor | None, heads: int = 4) -> torch.Tensor:
    """The tiny network (two levels, one residual block each, CBAM) written out call by call from its tensors."""

    def norm(x, name):
        return F.group_norm(x, 32, w[f"{name}.weight"], w[f"{name}.bias"])

    def conv(x, name, padding=0):
        return F.conv2d(x, w[f"{name}.weight"], w.get(f"{name}.bias"), padding=padding)

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0)

    def block(x, name):
        h = conv(F.silu(norm(x, f"{name}.conv1.0")), f"{name}.conv1.2", 1)
        if time is not None:
            h = h + linear(F.silu(time), f"{name}.time_emb.1")[:, :, None, None]
        if f"{name}.attention.0.spatial_attention.conv.weight" in w:
            attend = f"{name}.attention.0.channel_attention.fc"
            gates = [linear(F.relu(linear(v, f"{attend}.0")), f"{attend}.2") for v in (h.mean((2, 3)), h.amax((2, 3)))]
            h = h * torch.sigmoid(sum(gates))[:, :, None, None]
            views = torch.stack([h.max(1).values, h.mean(1)], dim=1)
            h = h * torch.sigmoid(conv(views, f"{name}.attention.0.spatial_attention.conv", 3))
        h = conv(F.silu(norm(h, f"{name}.conv2.0")), f"{name}.conv2.3", 1)
        h = h + (conv(x, f"{name}.skip_connection") if f"{name}.skip_connection.weight" in w else x)
        after = f"{name}.self_attention"
        return attention(h, after) if f"{after}.attention.1.weight" in w else h

    def attention(x, name):
        flat = x.flatten(2)
        qkv = F.conv1d(
            norm(flat, f"{name}.attention.0"), w[f"{name}.attention.1.weight"], w[f"{name}.attention.1.bias"]
        )
        q, k, v = qkv.chunk(3, dim=1)
        out, width = torch.zeros_like(q), q.shape[1] // heads
        for head in range(heads):
            part = slice(head * width, (head + 1) * width)
            for row in range(len(x)):
                weights = (q[row, part].T @ k[row, part] / math.sqrt(width)).softmax(-1)
                out[row, part] = v[row, part] @ weights.T
        return (flat + out).view(x.shape)

    time = None
    if t is not None:
        waves = [[t_i * 1000 ** (-j / 32) for j in range(32)] for t_i in t.tolist()]
        features = torch.tensor([[*map(math.cos, row), *map(math.sin, row)] for row in waves])
        time = linear(F.silu(linear(features, "time_embedding.0")), "time_embedding.2")
    a = block(conv(x, "input.0"), "encoder_block.0")
    b = F.avg_pool2d(a, 2)
    c = block(b, "encoder_block.2")
    h = block(attention(block(c, "bottom_block.0"), "bottom_block.1"), "bottom_block.2")
    h = block(torch.cat([h, c], 1), "decoder_block.0")
    h = block(torch.cat([h, b], 1), "decoder_block.1.0").repeat_interleave(2, 2).repeat_interleave(2, 3)
    h = block(torch.cat([h, a], 1), "decoder_block.2")
    return conv(F.silu(norm(h, "output.0")), "output.2")


@torch.no_grad()
@pytest.mark.parametrize("steps", [None, [3, 871]])
def test_network_is_its_transcription(network, steps):
    x = torch.randn(2, 7, 8, 12, generator=torch.Generator().manual_seed(1))
    t = None if steps is None else torch.tensor(steps)
    expected = literal_network(network.state_dict(), x, t)
    assert (network(x, t) - expected).abs().max() < 1e-4 * max(1.0, float(expected.abs().max()))


@torch.no_grad()
@pytest.mark.parametrize("levels", [(1,), (0, 1)])
def test_attention_behind_the_blocks_of_deeper_levels(levels):
    """Paper, Fig. 2: the blocks of encoder and decoder are followed by attention; files say on which levels."""
    network = AnimeUNet(dataclasses.replace(CONFIG, attention_levels=levels)).eval()
    network.load_state_dict(tiny.randomised(network))
    x, t = torch.randn(2, 7, 8, 12, generator=torch.Generator().manual_seed(1)), torch.tensor([3, 871])
    expected = literal_network(network.state_dict(), x, t)
    assert (network(x, t) - expected).abs().max() < 1e-4 * max(1.0, float(expected.abs().max()))
    again = module.load_network(tiny.prefixed("denoise_fn.", network.state_dict()))
    assert again.config == network.config and torch.equal(again(x, t), network(x, t))


@torch.no_grad()
def test_the_time_step_reaches_the_answer(network):
    x = torch.randn(1, 7, 8, 8)
    answers = [network(x, t) for t in (None, torch.tensor([1]), torch.tensor([900]))]
    assert all((a - b).abs().max() > 1e-3 for a, b in zip(answers, answers[1:], strict=False))


def test_odd_widths_get_a_zero_column():
    features = module.time_features(torch.tensor([0, 7]), 5)
    assert features.shape == (2, 5) and (features[:, 4] == 0).all()


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (dict(channel_mult=(2, 4)), "begin with 1"),
        (dict(channels=48), "multiple of 32"),
        (dict(residual_blocks=0), "at least 1"),
        (dict(channels=32, channel_mult=(1,), attention_heads=5), "do not divide"),
        (dict(channel_mult=(1, 2), attention_levels=(2,)), "names level 2; there are 0 to 1"),
    ],
)
def test_impossible_sizes_are_refused(wrong, text):
    with pytest.raises(ValueError, match=text):
        AnimeUNetConfig(**wrong)


# -- files -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "denoise_fn.", "module.denoise_fn.", "model.diffusion_model.", "module."])
@pytest.mark.parametrize("blocks", [1, 3])
def test_sizes_are_read_from_any_layout(prefix, blocks):
    config = AnimeUNetConfig(channels=32, channel_mult=(1, 2, 2), residual_blocks=blocks, cbam=True, attention_heads=2)
    weights = AnimeUNet(config).state_dict()
    file = tiny.prefixed(prefix, weights)
    wrapper = "module." if prefix.startswith("module.") else ""
    file |= tiny.prefixed(wrapper, AnimeSchedule().buffers())
    file |= {markers.HEADS_MARKER: torch.tensor(2), markers.STEPS_MARKER: torch.tensor(4)}
    loaded = module.load_network(file, markers.attention_heads(file))
    assert loaded.config == config
    assert all(torch.equal(v, weights[k]) for k, v in loaded.state_dict().items())


def test_heads_come_from_metadata_then_marker_then_the_published_number():
    marker = {markers.HEADS_MARKER: torch.tensor(2)}
    assert markers.attention_heads(marker, {markers.HEADS_MARKER: "8"}) == 8
    assert markers.attention_heads(marker) == 2 and markers.attention_heads({}) == 4


def test_steps_come_from_metadata_then_marker_then_the_paper():
    marker = {markers.STEPS_MARKER: torch.tensor(2)}
    assert markers.chain_steps(marker, {markers.STEPS_MARKER: "8"}) == 8
    assert markers.chain_steps(marker) == 2 and markers.chain_steps({}) == 10


def test_broken_files_name_what_is_wrong(network):
    whole = network.state_dict()
    with pytest.raises(ValueError, match="no AnimeDiffusion network"):
        module.load_network({"input_blocks.0.0.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="lacks 1 tensors, for example bottom_block.0.conv1.2.bias"):
        module.load_network({k: v for k, v in whole.items() if k != "bottom_block.0.conv1.2.bias"})
    with pytest.raises(ValueError, match="has unknown 1 tensors, for example extra"):
        module.load_network(whole | {"extra.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="input.0.weight"):
        module.load_network({k: v for k, v in whole.items() if not k.startswith("input")})


# -- walks -------------------------------------------------------------------------------------------------------------


def test_steps_of_the_paper():
    assert descending(AnimeSchedule(), 10) == [(901, 801), *((t, t - 100) for t in range(801, 1, -100)), (1, 0)]


def test_ddim_step_is_song_12_with_clamping():
    schedule, generator = AnimeSchedule(), torch.Generator().manual_seed(0)
    x, eps, noise = (torch.randn(1, 3, 2, 2, generator=generator).double() for _ in range(3))
    g, h = schedule.alphas_cumprod[[501, 401]].double().tolist()
    for eta in (0.0, 0.3, 1.0):
        sigma = eta * math.sqrt((1 - h) / (1 - g) * (1 - g / h))
        expected = torch.zeros_like(x)
        for i in range(x.numel()):
            x0 = min(1.0, max(-1.0, (x.view(-1)[i] - math.sqrt(1 - g) * eps.view(-1)[i]) / math.sqrt(g)))
            along = math.sqrt(1 - h - sigma**2) * eps.view(-1)[i]
            expected.view(-1)[i] = math.sqrt(h) * x0 + along + sigma * noise.view(-1)[i]
        assert torch.allclose(ddim_step(schedule, x, eps, 501, 401, eta, noise), expected, atol=1e-5)


def test_ancestral_chain_ends_at_the_predicted_picture():
    """At t = 0 the posterior's mean is x0 itself and no noise is added; float32 tables are a percent off there."""
    schedule = AnimeSchedule()
    x0, noise = torch.rand(2, 3, 4, 4) * 2 - 1, torch.randn(2, 3, 4, 4)
    t = torch.tensor([0, 0])
    x = schedule.add_noise(x0, noise, t)
    assert torch.allclose(ancestral_step(schedule, x, noise, t, torch.full_like(x, 9.0)), x0, atol=2e-2)


@torch.no_grad()
def test_the_full_chain_is_the_papers():
    """Eq. 8 to 10 step by step, with given noise; the last step adds none. 25 steps stand for 1000."""
    schedule = AnimeSchedule(25)
    start, noises = torch.randn(1, 3, 4, 4), torch.randn(25, 1, 3, 4, 4)
    betas, gammas = schedule.betas.double().tolist(), schedule.alphas_cumprod.double().tolist()

    def predict(x, t):
        return (0.3 * x + 0.01 * t.view(-1, 1, 1, 1)).tanh()

    x = start
    for t in range(24, -1, -1):
        eps = predict(x, torch.tensor([t]))
        before = gammas[t - 1] if t else 1.0
        picture = ((x - math.sqrt(1 - gammas[t]) * eps) / math.sqrt(gammas[t])).clamp(-1, 1)
        mean = math.sqrt(before) * betas[t] / (1 - gammas[t]) * picture
        mean = mean + (1 - before) * math.sqrt(1 - betas[t]) / (1 - gammas[t]) * x
        spread = math.sqrt((1 - before) / (1 - gammas[t]) * betas[t])
        x = mean + (spread * noises[24 - t] if t else 0)
    found = sample_ddpm(predict, start, schedule, noises.__getitem__)
    torch.testing.assert_close(found, x, atol=2e-3, rtol=1e-3)


def test_the_forward_walk_leads_back():
    """With a predictor that depends on the step only, the walk up and the walk down are exact inverses."""
    schedule = AnimeSchedule()
    pattern = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(2)) * 0.2

    def predict(x, t):
        return pattern

    x0 = torch.rand(1, 3, 4, 4) - 0.5
    noised = deterministic_forward(predict, x0, schedule)
    assert not torch.allclose(noised, x0, atol=0.1)
    assert torch.allclose(sample_ddim(predict, noised, schedule), x0, atol=1e-3)


def test_the_released_walk_is_random_in_its_first_hop_only():
    schedule, calls = AnimeSchedule(), []

    def predict(x, t):
        calls.append(int(t[0]))
        return torch.zeros_like(x)

    x0, noise = torch.full((1, 3, 2, 2), 0.5), torch.randn(1, 3, 2, 2)
    deterministic_forward(predict, x0, schedule, 10, "released", noise)
    assert calls == [1, *range(101, 802, 100)]
    calls.clear()
    deterministic_forward(predict, x0, schedule)
    assert calls == [0, 1, *range(101, 802, 100)]
    with pytest.raises(ValueError, match="starts with noise"):
        deterministic_forward(predict, x0, schedule, 10, "released")
    with pytest.raises(ValueError, match="unknown"):
        deterministic_forward(predict, x0, schedule, 10, "backwards")
    with pytest.raises(ValueError, match="noise source"):
        sample_ddim(predict, x0, schedule, 10, 1.0)


def test_checkpointing_changes_memory_not_gradients(network):
    """Result and gradients of the differentiated chain are those of the plain one, with noise in the steps."""
    schedule, generator = AnimeSchedule(), torch.Generator().manual_seed(4)
    start, condition = torch.randn(1, 3, 4, 4, generator=generator), torch.randn(1, 4, 4, 4, generator=generator)
    noises = torch.randn(3, 1, 3, 4, 4, generator=generator)
    found = []
    for checkpointing in (False, True):
        network.zero_grad()
        result = sample_ddim(
            lambda x, t: network(torch.cat([x, condition], 1), t), start, schedule, 3, 0.5, noises.__getitem__,
            checkpointing,
        )  # fmt: skip
        result.square().mean().backward()
        found.append([result.detach(), *(p.grad.clone() for p in network.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    network.zero_grad()
