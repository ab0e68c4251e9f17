"""Segment Character on stand-ins: routes, transparency, repairs, cut-outs, and networks of other packs."""

import logging
from types import SimpleNamespace

import pytest
import torch

from tests import tiny


def square(batch=1, height=64, width=64):
    """A dark square on white, Comfy pictures."""
    image = torch.ones(batch, height, width, 3)
    image[:, height // 4 : -height // 4, width // 4 : -width // 4] = 0.1
    return image


def dark(picture):
    """A stand-in network: what is dark is figure."""
    return (picture.mean(dim=1, keepdim=True) < 0.5).float()


@pytest.fixture
def segment(pack):
    module = pack.module("model_patches.inputs.segment")

    def run(image, network=dark, route="pictures", size=64, mask=None, **widgets):
        segmenter = module.LoadedSegmenter(network, None, "stub.onnx", route, size)
        values = dict(edges="soft", threshold=0.5, keep_largest=0, fill_holes=0.0, grow=0, feather=0) | widgets
        return pack.run("ColorizeSegmentCharacter", segmenter=segmenter, image=image, mask=mask, **values)

    return run


def test_mask_and_cut_out(segment):
    image = square()
    figure, cut = segment(image)
    expected = torch.zeros(1, 64, 64)
    expected[:, 16:48, 16:48] = 1
    assert torch.equal(figure, expected) and torch.allclose(cut, image)
    assert segment(image, ground="black")[1][0, 0, 0].eq(0).all()
    see_through = segment(image, ground="transparent")[1]
    assert see_through.shape == (1, 64, 64, 4) and torch.equal(see_through[..., 3], figure)


def test_every_repair_reaches_the_mask(segment):
    image = square()
    image[:, 2:5, 2:5] = 0  # a stray spot
    image[:, 30:33, 30:33] = 1  # a hole
    plain, _ = segment(image)
    assert plain[0, 3, 3] == 1 and plain[0, 31, 31] == 0
    mended, _ = segment(image, keep_largest=1, fill_holes=1.0)
    assert mended[0, 3, 3] == 0 and mended[0, 31, 31] == 1
    assert segment(image, grow=2)[0].sum() > plain.sum() > segment(image, grow=-2)[0].sum()
    assert 0.2 < segment(image, feather=8)[0][0, 24, 16] < 0.8
    faint = lambda picture: 0.4 * dark(picture)  # noqa: E731
    assert segment(image, faint)[0].max() < 0.5
    assert set(segment(image, faint, edges="hard", threshold=0.3)[0].unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize(
    ("route", "paper"), [("pictures", 1.0), ("pictures (released)", 0.0), ("drawings", 1.0)]
)  # what white paper is for the network
def test_routes(segment, route, paper):
    fed = []

    def network(picture):
        fed.append(picture)
        return dark(picture)

    segment(square(), network, route)
    assert fed[0].shape == (1, 3, 64, 64) and fed[0][0, 0, 2, 2].item() == pytest.approx(paper, abs=1e-6)


@pytest.mark.parametrize("image", [tiny.drawing(64, 64), 1 - tiny.drawing(64, 64)])
def test_drawings_of_any_polarity(segment, image):
    fed = []
    segment(image, lambda picture: fed.append(picture) or dark(picture), "drawings")
    assert fed[0].mean() > 0.5  # mostly white paper


def test_transparency(segment):
    """Lies on white, and is never figure in pictures; in a drawing the opacity is the lines."""
    image = torch.zeros(1, 64, 64, 3)
    transparent = torch.ones(1, 64, 64)
    transparent[:, 20:40] = 0
    figure, _ = segment(image, mask=transparent)
    assert torch.equal(figure, 1 - transparent)
    whole, _ = segment(image, lambda picture: torch.ones_like(picture[:, :1]), mask=transparent)
    assert torch.equal(whole, 1 - transparent)
    whole, _ = segment(image, lambda picture: torch.ones_like(picture[:, :1]), "drawings", mask=transparent)
    assert whole.eq(1).all()


def test_batches_run_one_by_one(segment):
    sizes = []
    images = torch.cat([square(), 1 - square()])
    figures, cuts = segment(images, lambda picture: sizes.append(len(picture)) or dark(picture))
    assert sizes == [1, 1] and figures.shape == (2, 64, 64) and cuts.shape == (2, 64, 64, 3)
    assert torch.equal(figures[1:], segment(images[1:])[0])


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (1, 1, 70, 3), (2, 90, 3, 4), (1, 33, 20, 3)])
@pytest.mark.parametrize("route", ["pictures", "pictures (released)", "drawings"])
def test_any_picture(segment, shape, route):
    for image in (torch.rand(shape), torch.zeros(shape), torch.full(shape, float("nan"))):
        figure, cut = segment(image, route=route, edges="hard", keep_largest=1, fill_holes=100.0, grow=3, feather=2)
        assert figure.shape == shape[:3] and torch.isfinite(figure).all() and torch.isfinite(cut).all()


def test_a_network_that_answers_nan(segment):
    figure, _ = segment(square(), lambda picture: torch.full_like(picture[:, :1], float("nan")))
    assert figure.eq(0).all()


def test_no_figure_is_said(segment, caplog):
    with caplog.at_level(logging.WARNING):
        segment(torch.ones(1, 64, 64, 3))
    assert "found no figure in picture 1 of 1 (largest value 0.00). For a drawing use sketch-segment" in caplog.text


def test_cores_models_are_run_too(pack):
    """A BACKGROUND_REMOVAL model of ComfyUI, such as BiRefNet, reads RGB on white."""
    seen = []

    def encode_image(image):
        seen.append(image)
        return (image.mean(dim=-1) < 0.5).half()

    values = dict(edges="soft", threshold=0.5, keep_largest=0, fill_holes=0.0, grow=0, feather=0)
    image = torch.cat([square(), torch.ones(1, 64, 64, 1)], dim=-1)
    image[:, :20, :, 3] = 0
    segmenter = SimpleNamespace(encode_image=encode_image)
    figure, _ = pack.run("ColorizeSegmentCharacter", segmenter=segmenter, image=image, **values)
    assert seen[0].shape == (1, 64, 64, 3) and seen[0][0, 18, 30].eq(1).all()
    assert figure.dtype == torch.float32 and figure[0, 18, 30] == 0 and figure[0, 30, 30] == 1


def test_messages(pack, segment):
    with pytest.raises(ValueError, match="image has the shape .*Connect an IMAGE output"):
        segment(torch.rand(8, 8, 3))
    with pytest.raises(ValueError, match="The mask of image is 8x16 pixels, the picture 64x64"):
        segment(square(), mask=torch.ones(1, 16, 8))
    with pytest.raises(ValueError, match="segmenter is a str. Connect Load Segmenter"):
        values = dict(edges="soft", threshold=0.5, keep_largest=0, fill_holes=0.0, grow=0, feather=0)
        pack.run("ColorizeSegmentCharacter", segmenter="x", image=square(), **values)
    with pytest.raises(ValueError, match="threshold is 2.0; it lies between 0 and 1"):
        segment(square(), threshold=2.0)
