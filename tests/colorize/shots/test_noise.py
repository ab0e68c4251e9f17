"""The noise of a shot is white in every frame and moves with the drawing."""

import pytest
import torch

from colorize.pictures.regions import find_regions
from colorize.shots.noise import carried_noise, shot_noise, with_means_of
from tests.drawings import box, drawing


def sketches(*steps):
    """A box on its way to the right by so many pixels, 256 x 256, 1 = line."""
    inks = [find_regions(drawing([box(60 + s, 70, 150 + s, 170)], size=(256, 256))).maps[0].ink for s in steps]
    return torch.stack([torch.from_numpy(ink.copy()).float() / 255 for ink in inks])


@pytest.fixture(scope="module")
def moved():
    return sketches(0, 16)


def alike(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1])


def test_the_noise_goes_with_the_lines(moved):
    """16 pixels are two latent values: along the box's left edge the noise is that of two values before."""
    noise = shot_noise(moved, (2, 64, 32, 32), 5, shared="all")
    before, after = noise[0][:, 10:20, 6:9], noise[1][:, 10:20, 8:11]
    assert alike(before, after) > 0.6 > 0.2 > abs(alike(noise[0][:, 10:20, 8:11], after))
    assert torch.equal(noise[0], shot_noise(moved, (2, 64, 32, 32), 5)[0])


@pytest.mark.parametrize("shared", ["coarse", "all"])
def test_every_frame_is_white(moved, shared):
    noise = shot_noise(moved, (2, 64, 30, 31), 7, shared=shared)[1]
    assert abs(float(noise.mean())) < 0.02 and abs(float(noise.std()) - 1) < 0.02
    for shift in ((0, 1), (1, 0), (1, 1), (0, 2)):
        assert abs(alike(noise, torch.roll(noise, shift, (-2, -1)))) < 0.02
    means = torch.nn.functional.avg_pool2d(noise[None], 4)
    assert abs(float(means.std()) - 0.25) < 0.02


def test_a_value_is_used_once_and_the_rest_is_drawn_anew():
    base, own = torch.arange(16.0).reshape(1, 4, 4), -torch.ones(1, 4, 4)
    shift = torch.zeros(2, 4, 4).numpy()
    assert torch.equal(carried_noise(base, own, shift), base)
    shift[1, :, 3] = -1  # the last column reads the one before, which has been read
    shift[0, 0] = -1  # the first row comes from outside
    found = carried_noise(base, own, shift)
    assert (found[0, 0] == -1).all() and (found[0, :, 3] == -1).all() and torch.equal(found[0, 1:, :3], base[0, 1:, :3])


def test_coarse_shares_means_alone():
    one, other = torch.randn(8, 16, 16), torch.randn(8, 16, 16)
    mixed = with_means_of(one, other)
    pool = torch.nn.functional.avg_pool2d
    assert torch.allclose(pool(mixed, 4), pool(other, 4), atol=1e-6) and abs(alike(mixed, one)) > 0.9


def test_wrong_numbers_are_told(moved):
    with pytest.raises(ValueError, match="2 sketches for 3 latents"):
        shot_noise(moved, (3, 4, 32, 32), 0)
    with pytest.raises(ValueError, match="choose one of coarse, all"):
        shot_noise(moved, (2, 4, 32, 32), 0, shared="fine")


def test_still_noise_is_that_of_every_drawing_alone(moved):
    noise = shot_noise(moved, (2, 4, 32, 32), 7, key_frame=1, shared="still")
    alone = torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(7))  # as ComfyUI draws a picture's
    assert torch.equal(noise[:1], alone) and torch.equal(noise[1:], alone)
