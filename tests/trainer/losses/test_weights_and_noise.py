"""Kinds of noise and weights of the denoising loss, against their papers' formulas."""

import pytest
import torch

from colorize.sampling.schedule import NoiseSchedule
from trainer.config import ConfigError, Loss
from trainer.draws import Draws
from trainer.losses import diffusion
from trainer.losses.dual_condition import dual_conditioned_loss

T = torch.tensor([0, 3, 500, 999])


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("loss", [Loss(weighting="debiased"), Loss(weighting="p2"), Loss(weighting="p2", p2_gamma=0.5)])
def test_weights_are_those_of_the_papers_for_either_prediction(loss):
    """One answer, told as noise and as velocity, costs the same."""
    schedule = NoiseSchedule()
    x0, noise, guess = (normal(seed, 4, 2, 3, 3) for seed in range(3))
    noisy = schedule.add_noise(x0, noise, T)
    signal, spread = schedule.coefficients(T, x0)
    velocity = signal * guess - spread * (noisy - spread * guess) / signal  # of the picture that this noise implies
    costs = []
    for prediction, answer in (("eps", guess), ("v", velocity)):
        wanted, weight = diffusion.target_and_weight(schedule, x0, noise, T, prediction, loss)
        costs.append(diffusion.denoising_loss(answer.double(), wanted.double(), weight.double()))
    assert costs[0].item() == pytest.approx(costs[1].item(), rel=1e-3)
    _, weight = diffusion.target_and_weight(schedule, x0, noise, T, "eps", loss)
    snr = [float(value / (1 - value)) for value in schedule.alphas_cumprod[T].double()]
    if loss.weighting == "debiased":
        expected = [min(value, 1000.0) ** -0.5 for value in snr]
    else:
        expected = [(1 + value) ** -loss.p2_gamma for value in snr]
    assert weight.tolist() == pytest.approx(expected, rel=1e-3)


def test_no_weights_by_default():
    _, weight = diffusion.target_and_weight(NoiseSchedule(), *(normal(s, 4, 1, 2, 2) for s in (0, 1)), T, "v", Loss())
    assert weight is None and diffusion.place_weights(torch.ones(1, 1, 2, 2), Loss()) is None
    with pytest.raises(ConfigError, match="both weigh samples by their noise"):
        Loss(weighting="p2", min_snr_gamma=5.0)


def test_the_figure_counts_for_more():
    """Also together with weights of samples, and in both terms of the dual loss."""
    mask = torch.zeros(2, 1, 4, 4)
    mask[:, :, :2] = 1
    answer, wanted = normal(0, 2, 3, 4, 4), normal(1, 2, 3, 4, 4)
    places = diffusion.place_weights(mask, Loss(background_weight=0.25))
    error, weight = (answer - wanted) ** 2, torch.tensor([0.5, 2.0])
    rows = (error[:, :, :2].sum(dim=(1, 2, 3)) + 0.25 * error[:, :, 2:].sum(dim=(1, 2, 3))) / 48
    assert diffusion.denoising_loss(answer, wanted, places=places).item() == pytest.approx(rows.mean().item(), rel=1e-5)
    weighted = diffusion.denoising_loss(answer, wanted, weight, places=places)
    assert weighted.item() == pytest.approx((rows * weight).mean().item(), rel=1e-5)
    terms = dual_conditioned_loss(answer, wanted, answer, wanted, 4.0, weight, places=places)
    assert terms["dual"].item() == pytest.approx(4 * weighted.item(), rel=1e-5)


def test_noise_of_several_resolutions():
    draws = Draws(0, 0, range(3))
    noise = diffusion.drawn_noise((3, 4, 32, 24), Loss(pyramid_noise=0.8), draws)
    assert noise.std(dim=(1, 2, 3)).tolist() == pytest.approx([1.0] * 3, rel=1e-4)
    plain = diffusion.drawn_noise((3, 4, 32, 24), Loss(), Draws(0, 0, range(3)))
    assert plain.mean(dim=(2, 3)).abs().mean() < 0.5 * noise.mean(dim=(2, 3)).abs().mean()
    one = diffusion.drawn_noise((1, 4, 32, 24), Loss(pyramid_noise=0.8), Draws(0, 0, [1]))
    assert torch.equal(one[0], noise[1])  # what a sample sees does not depend on its batch
    both = diffusion.drawn_noise((3, 4, 32, 24), Loss(pyramid_noise=0.8, offset_noise=0.5), Draws(0, 0, range(3)))
    assert torch.allclose((both - noise).std(dim=(2, 3)), torch.zeros(3, 4), atol=1e-5) and not torch.equal(both, noise)


def test_more_noise_than_is_asked_for():
    noise = normal(0, 2, 4, 16, 16)
    assert diffusion.shown_noise(noise, Loss(), Draws(0, 0, range(2))) is noise
    more = diffusion.shown_noise(noise, Loss(input_perturbation=0.1), Draws(0, 0, range(2))) - noise
    assert more.std().item() == pytest.approx(0.1, rel=0.1)
