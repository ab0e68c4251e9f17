"""How pictures are sampled: guidance of both conditions, noisy sampling and samplers, against plain transcriptions."""

from __future__ import annotations

import pytest
import torch

from colorize.sampling import solvers
from colorize.sampling.schedule import NoiseSchedule
from trainer.__main__ import main
from trainer.config import ConfigError
from trainer.models.colorizer import V1Colorizer
from trainer.models.denoising import SAMPLERS, Denoising, blank_sketch, denoised_latents


def toy(x, t, tokens, control, y):
    """A network in which everything matters: a row's answer depends on its own tokens, sketch and y only."""
    seen = sum((k + 1) * values.tanh().mean((1, 2)) for k, values in enumerate(tokens))
    shift = 0.3 * seen.view(-1, 1, 1, 1) + 0.2 * control[0].mean((1, 2, 3)).view(-1, 1, 1, 1)
    return 0.5 * x + shift + 1e-4 * t.view(-1, 1, 1, 1) + (0 if y is None else y.mean(1).view(-1, 1, 1, 1))


def given(seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    noise, first, second = (torch.randn(s, generator=generator) for s in ((2, 4, 8, 8), (2, 5, 3), (2, 4, 3)))
    controls = [torch.randn(2, 3, 8, 8, generator=generator)], [torch.full((1, 3, 8, 8), 0.7)]
    return noise, (first, second), controls, torch.randn(2, 6, generator=generator)


@pytest.mark.parametrize("scales", [(1.0, 1.0), (3.0, 1.0), (1.0, 5.0), (3.0, 5.0)])
def test_guidance_is_that_of_the_paper(scales):
    """One call with joined row groups equals three calls and the formula: 0.5 [u_r + s_r (c - u_r) + u_s + s_s (c - u_s)],
    and single guidance where one scale is 1."""  # noqa: E501
    noise, tokens, controls, y = given()
    reference, sketch = scales

    def literal(x, t):
        cond = toy(x, t, tokens, controls[0], y)
        no_reference = toy(x, t, [torch.zeros_like(k) for k in tokens], controls[0], y)
        no_sketch = toy(x, t, tokens, [controls[1][0].expand(2, -1, -1, -1)], y)
        by_reference = no_reference + reference * (cond - no_reference)
        by_sketch = no_sketch + sketch * (cond - no_sketch)
        if sketch == 1:
            return by_reference
        return by_sketch if reference == 1 else 0.5 * (by_reference + by_sketch)

    wanted = solvers.sample_dpm_solver(literal, noise, NoiseSchedule(), "v", 4)
    how = Denoising(4, reference, sketch)
    made = denoised_latents(toy, noise, tokens, controls, y, "v", how, torch.Generator())
    torch.testing.assert_close(made, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("level, noisy_steps", [(0.0, 0), (0.8, 16), (1.0, 20)])
def test_noisy_sampling_counts_sampling_steps(sampler, level, noisy_steps):
    """Eq. 14 with T = 20: the first 0.8 of the steps see sqrt(a) e + sqrt(1 - a) eps, the same eps in each of them."""
    noise, tokens, controls, y = given()
    seen = []

    def network(x, t, tokens, control, y):
        seen.append((int(t[0]), [k[:2] for k in tokens], [k[2:] for k in tokens]))
        return toy(x, t, tokens, control, y)

    how = Denoising(20, 2.0, noise_level=level, sampler=sampler)
    denoised_latents(network, noise, tokens, controls, y, "v", how, torch.Generator().manual_seed(3))
    assert len(seen) == 20
    changed = [not all(torch.equal(k, own) for k, own in zip(cond, tokens)) for _, cond, _ in seen]
    assert changed == [True] * noisy_steps + [False] * (20 - noisy_steps)
    assert all(not k.any() for _, _, empty in seen for k in empty)  # no reference has no noise either
    generator = torch.Generator().manual_seed(3)
    drawn = [torch.randn(k.shape, generator=generator) for k in tokens]
    for t, cond, _ in seen[:noisy_steps]:
        alpha = NoiseSchedule().alphas_cumprod[t]
        for own, extra, found in zip(tokens, drawn, cond):
            torch.testing.assert_close(found, alpha.sqrt() * own + (1 - alpha).sqrt() * extra, rtol=1e-4, atol=1e-4)


def test_samplers_visit_their_steps():
    noise, tokens, controls, y = given()
    visited = {name: [] for name in SAMPLERS}
    for name, steps in visited.items():

        def network(x, t, *rows, steps=steps):
            steps.append(int(t[0]))
            return toy(x, t, *rows)

        denoised_latents(network, noise, tokens, controls, y, "v", Denoising(20, 1.0, sampler=name), torch.Generator())
    assert visited["dpmpp_2m"] == list(range(941, 47, -47)) and visited["ddim"] == list(range(951, 0, -50))
    karras = solvers.karras_levels(NoiseSchedule(), 20)[0].tolist()
    assert visited["dpmpp_2m_karras"] == karras and karras[0] == 999 and karras[-1] == 0


@pytest.mark.parametrize(
    "numbers, message",
    [
        ({"steps": 0}, "0 sampling steps"),
        ({"steps": 1000}, "1000 sampling steps"),
        ({"guidance": 0.5}, "reference guidance is 0.5"),
        ({"sketch_guidance": float("nan")}, "sketch guidance is nan"),
        ({"noise_level": 1.5}, "noise level is 1.5"),
        ({"sampler": "heun"}, "Unknown sampler 'heun'"),
    ],
)
def test_numbers_that_cannot_be_meant(numbers, message):
    with pytest.raises(ConfigError, match=message):
        Denoising(**numbers)


def test_every_setting_changes_a_picture(v1_file, frozen):
    """And the blank sketch that guidance reads is the one of the nodes: black, in the range of the model."""
    colorizer = V1Colorizer.from_files(v1_file, frozen["encoder"], torch.device("cpu"))
    sketches = torch.full((1, 3, 64, 64), -1.0)
    sketches[..., 20:22] = 1
    masks = (torch.arange(64) < 32).float().expand(1, 1, 64, 64)
    references = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    tokens = colorizer.tokens(references)

    def picture(mode="vanilla", **settings):
        regions = colorizer.regions(mode, references, masks, masks)
        return colorizer.generate(sketches, tokens, Denoising(3, **settings), torch.Generator().manual_seed(0), regions)

    changes = [{}, {"guidance": 3.0}, {"sketch_guidance": 3.0}, {"noise_level": 0.5}, {"mode": "masked"}]
    changes += [{"mode": "masked", "noise_level": 0.5}, *({"sampler": name} for name in list(SAMPLERS)[1:])]
    made = [picture(**change) for change in changes]
    assert all(not torch.equal(a, b) for k, a in enumerate(made) for b in made[:k])
    assert torch.equal(picture(), made[0]) and torch.isfinite(torch.stack(made)).all()
    blank = blank_sketch(sketches)
    assert blank.shape == (1, 3, 64, 64) and (blank == -1).all()


def test_the_command_samples_with_every_setting_and_without_reference(v1_file, frozen, pictures, tmp_path, capsys):
    command = ["sample", "--checkpoint", v1_file, "--encoder", frozen["encoder"], "--steps", "2", "--size", "64"]
    command += ["--sketch", str(pictures / "sketch/00_0.png"), "--output", str(tmp_path / "out.png")]
    reference = ["--reference", str(pictures / "reference/00_0.png")]
    settings = ["--sketch-guidance", "1.3", "--noise-level", "0.5", "--sampler", "dpmpp_2m_karras"]
    written = []
    for extra in (reference, [*reference, *settings], ["--sketch-guidance", "1.3"]):
        assert main([*command, *extra]) == 0
        written.append((tmp_path / "out.png").read_bytes())
    assert len(set(written)) == 3
    assert main([*command, "--mode", "masked"]) == 2
    assert "give --reference" in capsys.readouterr().err
