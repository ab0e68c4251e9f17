"""Recovery transformer, threshold embedding, region LoRA names, strengths per layer, noisy sampling."""

from __future__ import annotations

import math

import pytest
import torch

from colorize.reference.noisy_sampling import is_noisy_step, noisy_sampling_tokens, steps_left
from colorize.reference.recovery import BackgroundEncoder, RecoveryTransformer, ScalarEmbedder
from colorize.sampling.schedule import NoiseSchedule
from colorize.unet.config import UNetConfig
from colorize.unet.region_lora import RegionLinear, rank_of, region_ranks, to_module_names, to_official_names
from colorize.unet.strengths import LevelStrengths
from colorize.unet.unet import UNet


def random(network: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(0)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return network.eval().requires_grad_(False)


def test_recovery_transformer_against_a_literal_transcription():
    network = random(RecoveryTransformer(dim=32, layers=2, token_length=5, heads=4))
    tokens = torch.randn(2, 9, 32)
    weights = {key: value.double() for key, value in network.state_dict().items()}
    given = tokens.double()
    x = weights["embedding"].expand(2, -1, -1)

    def norm(values, number, layer):
        scale, shift = (weights[f"layers.{layer}.{number}.{part}"] for part in ("weight", "bias"))
        mean, spread = values.mean(-1, keepdim=True), values.var(-1, unbiased=False, keepdim=True)
        return (values - mean) / (spread + 1e-5).sqrt() * scale + shift

    for layer in range(2):
        name = f"layers.{layer}.2."
        q, k, v = (
            norm(x, 0, layer) @ weights[name + "to_q.weight"].T,
            *(given @ weights[name + f"to_{letter}.weight"].T for letter in "kv"),
        )
        heads = []
        for head in range(4):
            part = slice(8 * head, 8 * head + 8)
            scores = q[..., part] @ k[..., part].transpose(-1, -2) / math.sqrt(8)
            heads.append(scores.softmax(-1) @ v[..., part])
        x = x + torch.cat(heads, -1) @ weights[name + "to_out.0.weight"].T + weights[name + "to_out.0.bias"]
        hidden = norm(x, 1, layer) @ weights[f"layers.{layer}.3.0.weight"].T + weights[f"layers.{layer}.3.0.bias"]
        hidden = hidden * hidden.sigmoid()
        x = x + hidden @ weights[f"layers.{layer}.3.2.weight"].T + weights[f"layers.{layer}.3.2.bias"]
    torch.testing.assert_close(network(tokens).double(), x, atol=1e-5, rtol=1e-4)


def test_background_encoder_adds_the_threshold_before_the_transformer():
    encoder = random(BackgroundEncoder(RecoveryTransformer(64, 1, 4), ScalarEmbedder(16, 64)))
    tokens, thresholds = torch.randn(2, 6, 64), torch.tensor([0.2, 0.7])
    term = encoder.thresh_embedder(thresholds)
    assert term.shape == (2, 1, 64)
    assert torch.equal(encoder.background(tokens, thresholds), encoder.transformer(tokens + term))
    assert torch.equal(encoder.background(tokens, thresholds, recover=False), tokens + term)
    torch.testing.assert_close(encoder.figure(tokens, 0.2)[0], tokens[0] + term[0])
    again = BackgroundEncoder.from_state_dict(encoder.state_dict())
    assert torch.equal(again.background(tokens, 0.5), encoder.background(tokens, 0.5))


def test_incomplete_background_tensors_are_named():
    weights = BackgroundEncoder(RecoveryTransformer(64, 1, 4), ScalarEmbedder(16, 64)).state_dict()
    for key in ("transformer.embedding", "transformer.layers.0.2.to_k.weight", "thresh_embedder.embed_layer.2.bias"):
        with pytest.raises(ValueError, match="missing|no recovery"):
            BackgroundEncoder.from_state_dict({k: v for k, v in weights.items() if k != key})


@pytest.mark.parametrize(
    "value, inputs, outputs, rank", [(4, 320, 320, 4), (0.5, 1024, 1280, 512), (0.5, 1280, 1280, 640)]
)
def test_ranks_of_the_released_configuration(value, inputs, outputs, rank):
    assert rank_of(value, inputs, outputs) == rank


def test_impossible_ranks_are_refused():
    with pytest.raises(ValueError, match="does not fit"):
        rank_of(40, 32, 64)


def test_region_linear_forward_is_the_plain_layer():
    layer = random(RegionLinear(8, 12, (2, 0)))
    x = torch.randn(3, 8)
    assert torch.equal(layer(x), x @ layer.weight.T)
    torch.testing.assert_close(
        layer.term(x, "fg"), x @ (layer.lora_up_fg.weight @ layer.lora_down_fg.weight).T, atol=1e-6, rtol=1e-5
    )
    assert layer.term(x, "bg") is None and layer.term(x, None) is None


def test_names_go_there_and_back():
    sizes = dict(model_channels=32, channel_mult=(1, 1, 1, 1), num_head_channels=32, context_dim=16)
    network = UNet(UNetConfig(**sizes, region_ranks=(2, 0.5)))
    official = network.state_dict()
    renamed = to_module_names(official)
    assert not any(".lora_down_" in key for key in renamed) and len(renamed) == len(official)
    assert to_official_names(renamed).keys() == official.keys()
    ranks = region_ranks({f"model.{k}": v for k, v in official.items()}, "model.")
    assert len(ranks) == 48 and ranks["middle_block.1.transformer_blocks.0.attn2.to_k"] == (2, 8)


def test_released_v1_5_names_and_shapes(golden_keys):
    with torch.device("meta"):
        network = UNet(UNetConfig(region_ranks=(4, 0.5)))
        background = BackgroundEncoder(RecoveryTransformer(1024, 6, 256), ScalarEmbedder(256, 1024))
    built = {f"model.diffusion_model.{key}": value.shape for key, value in network.state_dict().items()}
    built |= {key: value.shape for key, value in background.state_dict().items()}
    released = {key: value.shape for key, value in golden_keys("v1_5").items() if "." in key}
    foreign = ("first_stage_model.", "control_encoder.")
    assert built == {key: shape for key, shape in released.items() if not key.startswith(foreign)}


def test_strengths_per_level_and_part():
    places = UNet(UNetConfig(model_channels=32, channel_mult=(1, 1, 1, 1), num_head_channels=32)).attention_places
    high_bottom = LevelStrengths(high=0.4, bottom=0.0).of(places)
    # the released modules of each level: high 0 1 13 14 15, middle 2 3 10 11 12, low 4 5 7 8 9, bottom 6
    assert [n for n, s in enumerate(high_bottom) if s == 0.4] == [0, 1, 13, 14, 15]
    assert [n for n, s in enumerate(high_bottom) if s == 0.0] == [6]
    both = LevelStrengths(middle=0.5, encoder=0.5).of(places, overall=2.0)
    assert both == (1.0, 1.0, 0.5, 0.5, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0)
    assert [n for n, s in enumerate(LevelStrengths(decoder=0).of(places)) if s == 0] == list(range(7, 16))
    assert LevelStrengths(layers=tuple(range(16)), high=0).of(places, 0.5)[3] == 1.5
    with pytest.raises(ValueError, match="16 cross-attention layers"):
        LevelStrengths(layers=(1.0,) * 15).of(places)


def test_noisy_sampling_follows_the_schedule():
    schedule = NoiseSchedule()
    steps = torch.tensor([999, 700, 699, 0])
    alpha = schedule.alphas_cumprod[steps]
    sigma = ((1 - alpha) / alpha).sqrt()
    tokens, noise = torch.randn(4, 3, 5), torch.randn(4, 3, 5)
    out = noisy_sampling_tokens(tokens, noise, sigma, steps, noise_level=0.3001)
    expected = alpha.sqrt().view(-1, 1, 1) * tokens + (1 - alpha).sqrt().view(-1, 1, 1) * noise
    torch.testing.assert_close(out[:2], expected[:2].float(), atol=1e-5, rtol=1e-5)
    assert torch.equal(out[2:], tokens[2:])  # 1 - 699/1000 = 0.301 is over the level
    assert not is_noisy_step(steps, 0.0).any() and is_noisy_step(steps[:3], 1.0).all()


@pytest.mark.parametrize("rho", [1.0, 7.0])
def test_noisy_sampling_counts_sampling_steps_under_any_scheduler(rho):
    """v1 paper 5.1: T is the number of sampling steps. 0.8 of 20 are 16 (by Karras' sigmas on 1000 steps it was 12)."""
    ramp = torch.linspace(0, 1, 20)
    sigmas = (14.6 ** (1 / rho) + ramp * (0.03 ** (1 / rho) - 14.6 ** (1 / rho))) ** rho
    sigmas = torch.cat([sigmas, torch.zeros(1)])
    left = steps_left(sigmas[:-1], sigmas)
    assert left.tolist() == list(range(20, 0, -1))
    assert is_noisy_step(left, 0.8, 20).tolist() == [True] * 16 + [False] * 4
    between = (sigmas[:-1] + sigmas[1:]) / 2  # where second-order solvers look
    assert torch.equal(steps_left(between, sigmas), left)
    assert torch.equal(steps_left(sigmas[:-1] * (1 + 1e-6), sigmas), left)  # rounded on the way
