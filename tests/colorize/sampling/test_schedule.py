"""The noise schedule and the samplers against number-by-number transcriptions and against closed answers."""

from __future__ import annotations

import math

import pytest
import torch

from colorize.sampling import guidance
from colorize.sampling import solvers as sampling
from colorize.sampling.schedule import NoiseSchedule
from tests.literal import training as literal


def test_tables():
    schedule, table = NoiseSchedule(), literal.alphas_cumprod()
    torch.testing.assert_close(schedule.alphas_cumprod, torch.tensor(table), atol=1e-6, rtol=1e-5)
    expected = torch.tensor([math.sqrt((1 - a) / a) for a in table])
    torch.testing.assert_close(schedule.sigmas, expected, atol=1e-6, rtol=1e-5)
    assert schedule.sigmas[0].item() == pytest.approx(0.029168, abs=1e-6)
    assert schedule.sigmas[-1].item() == pytest.approx(14.61464, abs=1e-4)


def test_noising_and_both_predictions():
    schedule, table = NoiseSchedule(), literal.alphas_cumprod()
    t = torch.tensor([0, 437, 999])
    x0, noise = torch.randn(3, 2), torch.randn(3, 2)
    x_t, v = schedule.add_noise(x0, noise, t), schedule.velocity(x0, noise, t)
    for row, step in enumerate(t.tolist()):
        for k in range(2):
            args = x0[row, k].item(), noise[row, k].item(), table[step]
            assert x_t[row, k].item() == pytest.approx(literal.noised(*args), abs=1e-5)
            assert v[row, k].item() == pytest.approx(literal.velocity(*args), abs=1e-5)
    torch.testing.assert_close(schedule.x0_from(v, x_t, t, "v"), x0, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(schedule.x0_from(noise, x_t, t, "eps"), x0, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="choose one of"):
        schedule.x0_from(v, x_t, t, "x0")


@pytest.mark.parametrize("sigma", (0.001, 0.029168, 0.5, 3.75, 14.6146, 80.0))
def test_sigma_to_step(sigma):
    schedule = NoiseSchedule()
    t = schedule.sigma_to_t(torch.tensor([sigma]))
    assert t.item() == pytest.approx(literal.sigma_to_t(sigma), abs=2e-3)
    if 0.0292 < sigma < 14.61:
        assert schedule.t_to_sigma(t).item() == pytest.approx(sigma, rel=1e-4)


@pytest.mark.parametrize(("steps", "intervals"), ((20, 20), (20, 21), (1, 1), (7, 8), (999, 1000)))
def test_leading_steps(steps, intervals):
    expected = literal.leading_steps(steps, intervals)
    assert NoiseSchedule().timesteps_leading(steps, intervals=intervals).tolist() == expected


def test_too_many_steps_say_so():
    with pytest.raises(ValueError, match="sampling steps"):
        NoiseSchedule().timesteps_leading(1001)
    with pytest.raises(ValueError, match="sampling steps"):
        NoiseSchedule().timesteps_leading(0)


@pytest.mark.parametrize("prediction", ("v", "eps"))
@pytest.mark.parametrize("sampler", ("ddim", "dpm", "dpm_karras"))
def test_samplers_find_what_a_perfect_network_knows(sampler, prediction):
    """A network that always knows the clean sample leads every sampler to exactly that sample."""
    schedule, truth = NoiseSchedule(), torch.randn(2, 4, 3, 3)

    def predict(x, t):
        signal, spread = schedule.coefficients(t, x)
        noise = (x - signal * truth) / spread
        return signal * noise - spread * truth if prediction == "v" else noise

    start = torch.randn(truth.shape)
    if sampler == "ddim":
        found = sampling.sample_ddim(predict, start, schedule, prediction, steps=6)
    else:
        found = sampling.sample_dpm_solver(predict, start, schedule, prediction, 6, karras=sampler == "dpm_karras")
    # With Karras levels the network sees rounded steps, so its perfect answer is for a slightly other noise level.
    torch.testing.assert_close(found, truth, atol=0.05 if sampler == "dpm_karras" else 2e-3, rtol=0)


def test_guidance():
    c, u, s = torch.randn(3, 2, 4)
    torch.testing.assert_close(guidance.single_guidance(c, u, 1.0), c)
    torch.testing.assert_close(guidance.single_guidance(c, u, 4.0), 4 * c - 3 * u)
    both = guidance.dual_guidance(c, u, s, 4.0, 1.3)
    torch.testing.assert_close(both, 0.5 * (u + 4.0 * (c - u)) + 0.5 * (s + 1.3 * (c - s)))
    torch.testing.assert_close(guidance.dual_guidance(c, u, s, 1.0, 1.0), c)
