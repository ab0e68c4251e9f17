"""Gram loss and misaligned branch of the XL stage."""

from __future__ import annotations

import pytest
import torch

from tests.trainer.stages.xl_runs import first_batch, randomised
from trainer import config as configuration
from trainer.draws import Draws
from trainer.losses import gram as gram_module
from trainer.stages.table import build_stage


def test_the_misaligned_branch_never_sees_the_samples_own_reference(xl, monkeypatch):
    """Also with a batch of one, for which the released trainer would compare a sample with itself."""
    config = configuration.build({**xl, "optimizer": {**xl["optimizer"], "batch": 1}})
    stage, batch, seen = build_stage(config, torch.device("cpu")), first_batch(config), []

    def spy(unet, noisy, t, hints, y, context, other, blocks):
        seen.append((context, other))
        return gram_module.two_branches(unet, noisy, t, hints, y, context, other, blocks)

    monkeypatch.setattr("trainer.stages.xl.two_branches", spy)
    terms = stage(batch, Draws(0, 0, range(1)), 0.5)
    assert set(terms) == {"denoising", "gram"}
    context, other = seen[0]
    assert (context - other).abs().max() > 1e-3


@pytest.mark.parametrize("variant", sorted(gram_module.VARIANTS))
def test_every_variant_gives_a_finite_gradient(variant):
    torch.manual_seed(0)
    misaligned, aligned = torch.randn(2, 24, 6, requires_grad=True), torch.randn(2, 24, 6)
    gram_module.gram_loss([misaligned], [aligned], variant, standardise=True).backward()
    largest = 24 * 10 if variant == "frobenius" else 10  # that one sums where the others average
    assert torch.isfinite(misaligned.grad).all() and 0 < misaligned.grad.abs().max() < largest


def prepared(xl, depth=None):
    """A stage with random weights and its U-Net's inputs. depth: transformer blocks per level, else the fixture's."""
    model = xl["model"] | ({"transformer_depth": depth} if depth else {})
    config = configuration.build({**xl, "model": model, "gram": {"weight": 1.0, "start": 0.0}})
    stage = randomised(build_stage(config, torch.device("cpu")))
    unet = stage.model["diffusion_model"]
    y, t = torch.randn(2, unet.config.y_width), torch.tensor([200, 800])
    noisy, hints = torch.randn(2, 4, 8, 8), stage.control_encoder(torch.rand(2, 3, 64, 64))
    context, other = torch.randn(2, 2, 16, 48).unbind(0)
    return stage, (unet, noisy, t, hints, y), context, other


@pytest.mark.parametrize("which", ["last", "levels"])
@pytest.mark.parametrize("depth", [[0, 1, 2], [0, 0, 2], [1, 1, 1]])
def test_two_branches_are_two_passes(xl, depth, which):
    """The shared beginning, the common batch and the early end change no number (but for rounding).

    With attention on the lowest level only, a shared input block is read before the last hooked block.
    """
    stage, (unet, noisy, t, hints, y), context, other = prepared(xl, depth)
    blocks = gram_module.hooked_blocks(unet, which)
    answer, aligned, misaligned = gram_module.two_branches(unet, noisy, t, hints, y, context, other, blocks)
    layers = [block for layer in unet.modules() if hasattr(layer, "transformer_blocks")
              for block in layer.transformer_blocks]  # fmt: skip
    seen = {}
    for number in blocks:
        layers[number].register_forward_hook(lambda m, i, o, n=number: seen.__setitem__(n, o[0]))
    torch.testing.assert_close(answer, unet(noisy, t, context, hints, y=y), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(aligned, [seen[number] for number in blocks], atol=1e-5, rtol=1e-4)
    unet(noisy, t, other, hints, y=y)
    torch.testing.assert_close(misaligned, [seen[number] for number in blocks], atol=1e-5, rtol=1e-4)


def test_only_the_misaligned_branch_gets_gradients(xl):
    stage, inputs, context, other = prepared(xl)
    context, other = context.requires_grad_(), other.requires_grad_()
    blocks = gram_module.hooked_blocks(inputs[0])
    _, aligned, misaligned = gram_module.two_branches(*inputs, context, other, blocks)
    gram_module.gram_loss(misaligned, aligned).backward()
    assert context.grad.abs().max() == 0 and other.grad.abs().max() > 0


def test_hooked_blocks_are_the_last_of_the_lowest_resolution(xl):
    from colorize.unet.config import XL
    from colorize.unet.unet import UNet

    unet = UNet(XL, device="meta")
    assert gram_module.hooked_blocks(unet) == (23, 63)
    assert gram_module.hooked_blocks(unet, "released") == (22, 62)
    assert gram_module.hooked_blocks(unet, "levels") == (3, 23, 63, 69)
    with pytest.raises(ValueError, match="blocks 'first' are unknown"):
        gram_module.hooked_blocks(unet, "first")


def test_the_papers_gram_loss_number_by_number():
    """Eq 1: the squared Frobenius norm of the difference of x x^T, summed over blocks, averaged over samples."""
    generator = torch.Generator().manual_seed(0)
    ours, theirs = ([torch.randn(2, n, 3, generator=generator) for n in (4, 5)] for _ in range(2))
    total = 0.0
    for x, y in zip(ours, theirs, strict=True):
        for a, b in zip(x.tolist(), y.tolist(), strict=True):
            for i in range(len(a)):
                for j in range(len(a)):
                    found = sum(p * q for p, q in zip(a[i], a[j]))
                    wanted = sum(p * q for p, q in zip(b[i], b[j]))
                    total += (found - wanted) ** 2 / 2
    assert gram_module.gram_loss(ours, theirs, "frobenius").item() == pytest.approx(total, rel=1e-4)


def test_gram_loss_is_zero_for_equal_structure_and_refuses_unknown_variants():
    features = torch.randn(2, 12, 8)
    rotation = torch.linalg.qr(torch.randn(8, 8)).Q
    assert gram_module.gram_loss([features @ rotation], [features]) < 1e-10
    with pytest.raises(ValueError, match="variant 'l1' is unknown"):
        gram_module.gram_loss([features], [features], "l1")


def test_without_gram_nothing_of_it_is_computed(xl, monkeypatch):
    config = configuration.build({**xl, "gram": {"weight": 0.0}})
    monkeypatch.setattr("trainer.stages.xl.two_branches", None)
    assert set(build_stage(config, torch.device("cpu"))(first_batch(config), Draws(0, 0, range(2)), 1.0)) == {
        "denoising"
    }
