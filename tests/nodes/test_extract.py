"""Extract Sketch by the methods that need no weights, and how it fits Prepare Sketch."""

import random

import pytest
import torch

from tests import tiny


@pytest.fixture
def extract(pack):
    def run(image, **kwargs):
        return pack.run("ColorizeExtractSketch", image=image, **kwargs)[0]

    return run


def coloured(height=64, width=80, batch=1, seed=0):
    """A smooth coloured picture with the tiny drawing's lines on top."""
    small = torch.rand(batch, 3, 3, 3, generator=torch.Generator().manual_seed(seed)) * 0.5 + 0.4
    colours = torch.nn.functional.interpolate(small, (height, width), mode="bilinear").movedim(1, -1)
    return colours * tiny.drawing(height, width, batch, seed)


@pytest.mark.parametrize("method", ["auto", "standard", "xdog"])
def test_dark_lines_on_white_of_the_same_size(extract, method):
    image = coloured(batch=2)
    drawing = extract(image, method=method)
    assert drawing.shape == (2, 64, 80, 3) and drawing.min() >= 0 and drawing.max() <= 1
    assert drawing.median() > 0.9 and drawing[image < 0.05].mean() < 0.6
    assert (drawing[..., 0] == drawing[..., 2]).all()


def test_without_an_extractor_auto_is_standard(extract):
    image = coloured()
    assert torch.equal(extract(image), extract(image, method="standard"))
    assert not torch.equal(extract(image), extract(image, method="xdog"))


@pytest.mark.parametrize("method", ["standard", "xdog"])
def test_plugs_into_prepare_sketch(pack, extract, method):
    image = coloured()
    sketch = pack.run("ColorizePrepareSketch", image=extract(image, method=method), width=64, height=64, fit="stretch")[
        0
    ]
    assert sketch.median() < 0.1 and sketch.max() > 0.4  # white lines on black


def test_parameters_reach_the_methods(extract):
    image = coloured()
    standard, xdog = extract(image, method="standard"), extract(image, method="xdog")
    for name, value in (("standard_sigma", 1.0), ("standard_threshold", 120.0)):
        assert not torch.equal(extract(image, method="standard", **{name: value}), standard), name
        assert torch.equal(extract(image, method="xdog", **{name: value}), xdog)
    changes = dict(xdog_sigma=1.5, xdog_k=1.5, xdog_p=1.0, xdog_epsilon=0.5, xdog_phi=0.6, variant="released")
    soft = extract(image, method="xdog", xdog_phi=0.5)
    for name, value in changes.items():
        assert not torch.equal(extract(image, method="xdog", **{"xdog_phi": 0.5, name: value}), soft), name
        assert torch.equal(extract(image, method="standard", **{name: value}), standard)


def test_resolution_is_the_working_size(extract):
    image = coloured()
    for method in ("standard", "xdog"):
        coarse = extract(image, method=method, resolution=32)
        assert coarse.shape == image.shape and not torch.equal(coarse, extract(image, method=method))
    flat = torch.full((1, 30, 500, 3), 0.5)
    assert extract(flat, resolution=1024).shape == flat.shape and extract(flat, resolution=1024).min() > 0.999


def test_transparent_parts_are_paper(extract):
    image, mask = coloured(), torch.zeros(1, 64, 80)
    mask[:, :, 40:] = 1
    drawing = extract(image, mask=mask)
    assert drawing[:, :, 50:].min() == 1
    see_through = torch.cat([image, 1 - mask[..., None]], dim=-1)
    assert torch.equal(extract(see_through), drawing)


def test_every_picture(extract):
    """Random sizes, 1, 3 or 4 channels, any batch, NaN and flat ones among them."""
    draw = random.Random(1)
    for round_ in range(20):
        height, width = (draw.choice([1, 2, draw.randint(1, 200)]) for _ in range(2))
        image = torch.rand(draw.randint(1, 3), height, width, draw.choice([1, 3, 4]))
        if round_ % 5 == 0:
            image[:] = draw.choice([0.0, 0.5, 1.0, float("nan")])
        for method in ("standard", "xdog"):
            drawing = extract(image, method=method)
            assert drawing.shape == (*image.shape[:3], 3) and torch.isfinite(drawing).all()


def test_messages(extract):
    with pytest.raises(ValueError, match="image has the shape .*Connect an IMAGE output"):
        extract(torch.rand(4, 4, 3))
    with pytest.raises(ValueError, match="Method 'canny' is unknown; choose one of auto, standard, xdog"):
        extract(coloured(), method="canny")
    with pytest.raises(ValueError, match="Variant 'old' is unknown; choose one of paper, released"):
        extract(coloured(), variant="old")
    with pytest.raises(ValueError, match="mask of image is 9x9 pixels, the picture 80x64"):
        extract(coloured(), mask=torch.ones(1, 9, 9))
