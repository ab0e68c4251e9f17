"""Losses, reference transforms and EMA against the number-by-number transcriptions (sources: the modules)."""

from __future__ import annotations

import pytest
import torch

from colorize.sampling.schedule import NoiseSchedule
from colorize.unet.unet import UNet
from tests import tiny
from tests.literal import training as literal
from trainer.draws import Draws
from trainer.losses import bleach, diffusion, dual_condition, latent_shuffle, noisy_reference, reference_drop
from trainer.run.ema import EMA

T = [0, 3, 500, 899, 900, 999]


def normal(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("prediction", ("v", "eps"))
@pytest.mark.parametrize("gamma", (0.0, 1.0, 5.0))
@pytest.mark.parametrize("masked", (False, True))
def test_denoising_loss(prediction, gamma, masked):
    schedule, t = NoiseSchedule(), torch.tensor(T)
    x0, noise, answer = (normal(seed, 6, 2, 3, 2) for seed in range(3))
    mask = (normal(3, 6, 1, 3, 2) > 0).float() if masked else None
    weight = diffusion.min_snr_weight(schedule, t, gamma, prediction) if gamma else None
    loss = diffusion.denoising_loss(answer, diffusion.target(schedule, x0, noise, t, prediction), weight, mask)
    lists = [tensor.flatten(1).double().tolist() for tensor in (answer, x0, noise)]
    flat_mask = mask.expand(x0.shape).flatten(1).tolist() if masked else None
    assert loss.item() == pytest.approx(literal.loss(*lists, T, prediction, gamma, flat_mask), rel=1e-5)


@pytest.mark.parametrize("prediction", ("v", "eps"))
def test_min_snr(prediction):
    """Hang 2023, eq. 6, with the released trainer's + 1 for v."""
    weight = diffusion.min_snr_weight(NoiseSchedule(), torch.tensor(T), 5.0, prediction)
    table = literal.alphas_cumprod()
    expected = torch.tensor([literal.min_snr(table[t], 5.0, prediction) for t in T])
    torch.testing.assert_close(weight, expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("gamma", (0.0, 5.0))
def test_dual_conditioned_loss(gamma):
    schedule, t = NoiseSchedule(), torch.tensor(T)
    x0, noise, other, answer, without = (normal(seed, 6, 2, 3, 2) for seed in range(5))
    wanted, unread = (diffusion.target(schedule, x0, dirt, t, "v") for dirt in (noise, other))
    weight = diffusion.min_snr_weight(schedule, t, gamma, "v") if gamma else None
    terms = dual_condition.dual_conditioned_loss(answer, wanted, without, unread, 4.0, weight)
    lists = [tensor.flatten(1).double().tolist() for tensor in (answer, without, x0, noise, other)]
    assert sum(terms.values()).item() == pytest.approx(literal.dual_loss(*lists, T, "v", 4.0, gamma), rel=1e-5)
    assert terms["denoising"].item() == pytest.approx(diffusion.denoising_loss(answer, wanted, weight).item())


def test_offset_noise_is_one_number_per_channel():
    noise, draws = normal(0, 2, 3, 4, 5), Draws.plain(1)
    shift = (diffusion.offset_noise(noise, 0.1, draws) - noise) / 0.1
    expected = normal(1, 2, 3)
    torch.testing.assert_close(shift, expected[:, :, None, None].expand_as(noise), atol=1e-5, rtol=1e-4)
    assert diffusion.offset_noise(noise, 0.0, draws) is noise


@pytest.mark.parametrize("variant", ("paper", "released"))
def test_noisy_tokens(variant):
    """arXiv 2401.01456, eq. 3; the released code mirrors the steps from 900 on."""
    schedule, t, table = NoiseSchedule(), torch.tensor(T), literal.alphas_cumprod()
    tokens, noise = normal(0, 6, 2, 3), normal(1, 6, 2, 3)
    noisy = noisy_reference.noisy_tokens(schedule, tokens, noise, t, variant)
    for row, step in enumerate(T):
        a = table[literal.token_step(step, variant)]
        for m in range(2):
            for d in range(3):
                expected = literal.noised(tokens[row, m, d].item(), noise[row, m, d].item(), a)
                assert noisy[row, m, d].item() == pytest.approx(expected, abs=1e-5)
    with pytest.raises(ValueError, match="choose one of"):
        noisy_reference.token_steps(t, "other")


def test_reference_drop():
    tokens = normal(0, 4, 3, 2)
    dropped = reference_drop.drop_references(tokens, torch.tensor([1.0, 0.0, 0.0, 1.0]))
    assert torch.equal(dropped[[0, 3]], tokens[[0, 3]]) and dropped[[1, 2]].abs().max() == 0
    kept = reference_drop.keep_mask(20_000, 0.75, Draws.plain(0)).mean().item()
    assert kept == pytest.approx(0.25, abs=0.02)
    for rate, kept in ((0.0, 1), (1.0, 0)):
        assert (reference_drop.keep_mask(50, rate, Draws.plain(0)) == kept).all()


def test_drop_rate_moves_linearly_or_stays():
    rates = [reference_drop.drop_rate(0.8, 0.5, progress) for progress in (0.0, 0.5, 1.0)]
    assert rates == pytest.approx([0.8, 0.65, 0.5])
    assert reference_drop.drop_rate(0.75, -1.0, 0.9) == 0.75


def test_bleached_samples_are_drawn_with_the_probability():
    assert bleach.draw_bleached(20_000, 0.05, Draws.plain(0)).float().mean().item() == pytest.approx(0.05, abs=0.005)
    assert not bleach.draw_bleached(50, 0.0, Draws.plain(0)).any()
    assert bleach.draw_bleached(50, 1.0, Draws.plain(0)).all()


def test_latent_shuffle_moves_tokens_of_the_whole_batch_alike():
    tokens, order = normal(0, 2, 5, 3), torch.tensor([3, 1, 4, 0, 2])
    shuffled = latent_shuffle.shuffle_tokens(tokens, order)
    for place, source in enumerate(order.tolist()):
        assert torch.equal(shuffled[:, place], tokens[:, source])
    drawn = latent_shuffle.draw_permutation(7, Draws.plain(3))
    assert sorted(drawn.tolist()) == list(range(7))


def test_shuffled_patches_are_the_same_patches_elsewhere():
    pictures, order = normal(0, 2, 3, 12, 12), torch.randperm(9, generator=torch.Generator().manual_seed(1))
    shuffled = latent_shuffle.shuffle_patches(pictures, order, 3, 12)
    for place, source in enumerate(order.tolist()):
        (row, column), (y, x) = divmod(place, 3), divmod(source, 3)
        found = shuffled[..., 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        torch.testing.assert_close(found, pictures[..., 4 * y : 4 * y + 4, 4 * x : 4 * x + 4])


def test_only_patches_before_the_encoder_reach_the_network():
    """The order of its tokens is nothing that cross-attention sees; shuffled patches are other tokens."""
    unet, encoder = UNet(tiny.CONFIG), tiny.reference_encoder()
    unet.load_state_dict(tiny.randomised(unet))
    pictures, order = normal(1, 1, 3, 64, 64).clamp(-1, 1), torch.randperm(16)
    patches = latent_shuffle.shuffle_patches(pictures, order, 4, encoder.image_size)
    x, t = normal(2, 1, 4, 8, 8), torch.tensor([500])
    with torch.no_grad():
        tokens, others = (encoder.encode(values)[:, 1:] for values in (pictures, patches))
        plain, by_tokens, by_patches = (
            unet(x, t, given, None) for given in (tokens, latent_shuffle.shuffle_tokens(tokens, order), others)
        )
    size = plain.abs().max()
    assert (by_tokens - plain).abs().max() < 1e-5 * size
    assert (by_patches - plain).abs().max() > 1e-3 * size


@pytest.mark.parametrize("decay", (0.9999, 0.2))
def test_ema(decay):
    values = [2.0, -1.0, 0.5, 4.0, 4.0, -3.0]
    average = EMA({"w": torch.tensor([values[0]])}, decay=decay)
    for value, expected in zip(values[1:], literal.ema(values, decay), strict=True):
        average.update({"w": torch.tensor([value])})
        assert average.shadow["w"].item() == pytest.approx(expected, rel=1e-5)


def test_ema_resumes_where_it_stopped():
    first, second = (EMA({"w": torch.zeros(3)}) for _ in range(2))
    for step in range(3):
        first.update({"w": torch.full((3,), float(step))})
    second.load_state_dict(first.state_dict())
    for average in (first, second):
        average.update({"w": torch.ones(3)})
    assert torch.equal(first.shadow["w"], second.shadow["w"])
