"""Line drawings without weights, and the blurs under them (pictures/blur.py, sketch/extractors/{lineart,xdog}.py)."""

from __future__ import annotations

import math
import random

import pytest
import torch

from colorize.pictures import blur
from colorize.sketch.extractors import lineart, xdog
from tests import tiny_extractors as tiny
from tests.literal import blur as literal

NAN = float("nan")


@pytest.mark.parametrize("sigma", [0.1, 0.3, 1.75, 6.0, 40.0])
@pytest.mark.parametrize("size", [(1, 1), (1, 90), (37, 20), (130, 65)])
def test_the_fast_blur_is_the_plain_blur(sigma, size):
    picture = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0)) * 255
    assert (blur.gaussian(picture, sigma) - literal.gaussian_blur(picture, sigma)).abs().max() < 1e-3


def test_blur_of_levels_is_whole_and_keeps_flat_pictures():
    flat = torch.full((1, 3, 20, 30), 77.0)
    assert torch.equal(blur.gaussian_of_levels(flat, 3.0), flat)
    levels = blur.levels(tiny.picture(40, 30))
    blurred = blur.gaussian_of_levels(levels, 3.0)
    assert torch.equal(blurred, blurred.round()) and blurred.min() >= 0 and blurred.max() <= 255
    assert (blurred - literal.gaussian_blur(levels, 3.0)).abs().max() < 1.6  # 8-bit taps


def test_grey_levels():
    for red, green, blue in ((0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 255, 0), (1, 2, 3)):
        colour = torch.tensor([red, green, blue], dtype=torch.float32).view(1, 3, 1, 1)
        exact = 0.299 * red + 0.587 * green + 0.114 * blue
        assert abs(blur.grey_levels(colour).item() - exact) <= 0.51
    assert blur.levels(torch.tensor([-1.0, 1.0, 2.0, NAN])).tolist() == [0, 255, 255, 128]


def test_standard_line_art_is_the_released_clean_paper():
    picture = tiny.picture(60, 44, batch=2)
    torch.testing.assert_close(lineart.standard(picture), literal.even_paper(picture)[:, :1], atol=1.01 / 127.5, rtol=0)


@pytest.mark.parametrize("compute", [lineart.standard, xdog.xdog])
def test_polarity_and_flat_pictures(compute):
    """White lines on black, as models see sketches; a flat picture is blank."""
    picture = torch.full((1, 3, 40, 40), 0.6)
    assert torch.equal(compute(picture), torch.full((1, 1, 40, 40), -1.0))
    picture[..., 20, :] = -0.9
    drawing = compute(picture)
    assert (
        drawing[..., 20, :].min() > -0.1 and drawing[..., :10, :].max() == -1
    )  # standard: a typical line is half white
    for value in (NAN, 1.0, float("inf")):
        assert torch.equal(compute(torch.full((1, 3, 5, 7), value)), torch.full((1, 1, 5, 7), -1.0))


def test_threshold_only_measures():
    """Lines below the threshold do not count for the typical strength, but stay visible."""
    picture = torch.full((1, 3, 60, 60), 1.0)
    picture[..., 15, :] = 0.8  # faint
    picture[..., 45, :] = -1.0
    low, high = lineart.standard(picture, threshold=8.0), lineart.standard(picture, threshold=60.0)
    assert high[..., 15, :].max() < low[..., 15, :].max() or torch.equal(low, high)
    assert low[..., 15, :].min() > -1


def test_median():
    for count in (1, 2, 3, 10, 11):
        values = torch.rand(count, generator=torch.Generator().manual_seed(count))
        assert math.isclose(lineart._median(values), literal.median(values), rel_tol=1e-6)


def test_xdog_branches():
    picture = tiny.picture(50, 40)
    hard = xdog.xdog(picture)
    assert set(hard.unique().tolist()) <= {-1.0, 1.0}  # black and white
    soft = xdog.xdog(picture, xdog.XDoG(phi=0.5))
    assert len(soft.unique()) > 2 and ((soft > -1) <= (hard > -1)).all()
    assert (xdog.xdog(picture, xdog.XDoG(epsilon=0.5)) > 0).float().mean() > (hard > 0).float().mean()
    assert not torch.equal(xdog.xdog(picture, xdog.XDoG(phi=0.5, variant="released")), soft)


@pytest.mark.parametrize(
    ("wrong", "text"), [(dict(sigma=0), "above 0"), (dict(k=-1), "above 0"), (dict(variant="x"), "'x'")]
)
def test_xdog_settings_are_checked(wrong, text):
    with pytest.raises(ValueError, match=text):
        xdog.XDoG(**wrong)


def test_many_sizes_and_batches():
    """Random sizes up to a few hundred pixels, with strips and single pixels among them."""
    draw = random.Random(0)
    for _ in range(25):
        height, width = (draw.choice([1, 2, 3, draw.randint(1, 300)]) for _ in range(2))
        picture = torch.rand(draw.randint(1, 3), 3, height, width) * 2 - 1
        for compute in (lineart.standard, xdog.xdog):
            drawing = compute(picture)
            assert drawing.shape == (len(picture), 1, height, width)
            assert drawing.min() >= -1 and drawing.max() <= 1 and torch.isfinite(drawing).all()
