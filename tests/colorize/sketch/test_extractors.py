"""Line extractor networks: names and shapes of the released files, any size, tiles (source: networks/extractors)."""

from __future__ import annotations

import pytest
import torch

from colorize.sketch import extractors
from colorize.sketch.extractors import working
from colorize.sketch.extractors.anime2sketch import Anime2Sketch
from colorize.sketch.extractors.folding import for_inference
from colorize.sketch.extractors.lineart_sk import LineartSk
from colorize.sketch.extractors.manga_line import MangaLine
from colorize.sketch.extractors.sketchkeras import SketchKeras
from tests import tiny_extractors as tiny
from tests.golden.cases.extractors import pillow_squash
from tests.golden.files import key_list

FULL = {
    "sketchkeras": SketchKeras,
    "anime2sketch": Anime2Sketch,
    "manga_line": MangaLine,
    "lineart_sk": LineartSk,
}


@pytest.mark.parametrize("name", FULL)
def test_names_and_shapes_are_the_released_ones(name):
    try:
        released = key_list(f"{name}.json")
    except ValueError:
        pytest.skip("the key list is part of the full golden set only")
    with torch.device("meta"):
        ours = FULL[name]()
    assert {key: list(value.shape) for key, value in ours.state_dict().items()} == released


@pytest.mark.parametrize("name", tiny.NAMES)
def test_sizes_come_from_the_tensors(name):
    weights = tiny.weights(name)
    network = extractors.load_network({f"module.{key}": value for key, value in weights.items()})
    assert isinstance(network, FULL[name]) and not network.training
    assert all(torch.equal(value, weights[key]) for key, value in network.state_dict().items())
    assert not any(parameter.requires_grad for parameter in network.parameters())
    old = {key: value for key, value in weights.items() if not key.endswith("num_batches_tracked")}
    extractors.load_network(old)


@pytest.mark.parametrize("name", tiny.NAMES)
def test_wrong_tensors_are_named(name):
    weights = tiny.weights(name)
    last = sorted(key for key in weights if key.endswith("bias"))[-1]
    with pytest.raises(ValueError, match=f"lacks 1 tensors of .*{last}"):
        extractors.load_network({key: value for key, value in weights.items() if key != last})
    with pytest.raises(ValueError, match="1 tensors that .* does not have, for example stranger"):
        extractors.load_network(weights | {"stranger": torch.zeros(1)})
    with pytest.raises(ValueError, match=rf"{last} has the shape \(77,\)"):
        extractors.load_network(weights | {last: torch.zeros(77)})
    mark = FULL[name].mark
    with pytest.raises(ValueError):
        extractors.load_network({mark: weights[mark]})


@torch.no_grad()
@pytest.mark.parametrize(("name", "left"), [("sketchkeras", 0.0), ("manga_line", 0.5), ("anime2sketch", 0.0)])
def test_folded_networks_answer_the_same(name, left):
    """left: share of the batch norms that follow no convolution and stay."""
    plain, network = (extractors.load_network(tiny.weights(name)) for _ in range(2))
    x = plain.prepare(tiny.picture(256, 256))
    network = for_inference(network, x.device)
    norms = [sum(isinstance(m, torch.nn.BatchNorm2d) for m in n.modules()) for n in (plain, network)]
    assert norms[1] <= left * norms[0] + 1 and (norms[0] == 0 or norms[1] < norms[0])
    expected = plain(x)
    torch.testing.assert_close(network(x), expected, atol=1e-5 * expected.abs().max().item(), rtol=0)
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_unknown_files_are_explained():
    with pytest.raises(ValueError, match="fit none of SketchKeras, Anime2Sketch, MangaLine, .*First names: a, b"):
        extractors.load_network({"a": torch.zeros(1), "b": torch.zeros(1)})
    with pytest.raises(ValueError, match="First names: none"):
        extractors.load_network({})


@torch.no_grad()
@pytest.mark.parametrize("name", tiny.NAMES)
@pytest.mark.parametrize("variant", ["paper", "released"])
@pytest.mark.parametrize("size", [(1, 1), (1, 300), (33, 47), (70, 9)])
def test_any_size(name, variant, size):
    network = extractors.load_network(tiny.weights(name))
    found = working.extract(network, tiny.picture(*size, batch=2), 64, variant)
    assert found.shape == (2, 1, *size) and torch.isfinite(found).all()


@torch.no_grad()
@pytest.mark.parametrize("name", tiny.NAMES)
def test_flat_and_broken_pictures(name):
    network = extractors.load_network(tiny.weights(name))
    for value in (-1.0, 0.3, 1.0, float("nan"), float("inf")):
        found = working.extract(network, torch.full((1, 3, 40, 24), value), 32)
        assert torch.isfinite(found).all(), value


@torch.no_grad()
@pytest.mark.parametrize("name", tiny.NAMES)
def test_rows_do_not_depend_on_the_batch(name):
    network = extractors.load_network(tiny.weights(name))
    batch = tiny.picture(48, 32, batch=3)
    together = working.extract(network, batch, 64)
    for row in range(3):
        alone = working.extract(network, batch[row : row + 1], 64)
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-4, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize(("name", "tolerance"), [("sketchkeras", 1e-5), ("manga_line", 1e-3)])
def test_tiles_equal_the_whole(name, tolerance):
    """SketchKeras: the margin covers all that a place depends on. MangaLine (0..255): nearly all."""
    network = extractors.load_network(tiny.weights(name))
    tile = 2 * network.margin + 64
    x = network.prepare(tiny.picture(tile + 160, 32))
    parts = []

    def forward(part):
        parts.append(part.shape[-2:])
        return network(part)

    answer = working.tiled(forward, x, network.margin, tile)
    assert len(parts) > 1
    assert (answer - network(x)).abs().max() < tolerance


def test_tiles_answer_every_place_once():
    for height, width in ((100, 700), (1600, 16), (640, 640), (130, 1024)):
        seen = torch.zeros(height, width)
        for rows, columns, up, across in working.tiles(height, width, 32, 128):
            seen[rows, columns][up, across] += 1
            assert rows.stop - rows.start <= 128 and columns.stop - columns.start <= 128
        assert (seen == 1).all(), (height, width)
    assert len(working.tiles(5000, 5000, None, 128)) == 1
    with pytest.raises(ValueError, match="Tiles of 64 pixels leave nothing between margins of 32"):
        working.tiles(5000, 5000, 32, 64)


def test_networks_that_measure_the_whole_picture_are_never_cut():
    assert Anime2Sketch.margin is None and LineartSk.margin is None


def test_working_size():
    assert working.working_size(600, 600, 768) == (768, 768)
    height, width = working.working_size(1080, 1920, 768)
    assert abs(height * width / 768**2 - 1) < 0.01 and abs(width / height - 16 / 9) < 0.01
    assert working.working_size(1080, 1920, 512, squash=True) == (512, 512)
    assert working.working_size(1, 2048, 768) == (1, 2304)  # a strip does not become 34755 pixels long
    assert working.working_size(1, 1, 768) == (768, 768)


@pytest.mark.parametrize(("source", "target"), [((48, 40), (96, 96)), ((90, 130), (64, 64)), ((1, 9), (32, 32))])
def test_released_squash_is_pillows(source, target):
    """Equal levels, but for one level in a few places out of a thousand, where Pillow rounds otherwise."""
    picture = torch.randint(0, 256, (*source, 3), generator=torch.Generator().manual_seed(0)).byte()
    ours = working.resize_in_levels(picture.movedim(-1, 0)[None].float() / 127.5 - 1, *target)
    error = (ours - pillow_squash(picture, *target)).abs() * 127.5
    assert error.max() < 1.01 and (error > 0.5).float().mean() < 5e-3


def test_padding_mirrors():
    picture = torch.arange(6.0).view(1, 1, 2, 3)
    padded = working.pad_to_multiple(picture, 4, 4)
    assert padded.shape == (1, 1, 4, 4) and padded[0, 0, 0].tolist() == [0, 1, 2, 1]
    assert padded[0, 0, :, 0].tolist() == [0, 3, 0, 3]
    assert working.pad_to_multiple(picture, 1, 1) is picture
    assert working.pad_to_multiple(picture[..., :1, :1], 16, 32).shape == (1, 1, 32, 32)


@torch.no_grad()
def test_released_quirks():
    """Half the contrast of lineart_sk, red for grey in MangaLine; elsewhere the variants agree."""
    for name in tiny.NAMES:
        network = extractors.load_network(tiny.weights(name))
        picture = tiny.picture(64, 64)
        paper, released = (extractors.lines(network, picture, variant) for variant in ("paper", "released"))
        same = torch.allclose(paper, released, atol=1e-4)
        assert same == (name in ("sketchkeras", "anime2sketch")), name
        if name == "lineart_sk":
            assert -1 <= released.min() and released.max() <= 0
            assert (paper - (1 + 2 * released)).abs().max() < 1e-3
        if name == "manga_line":
            grey = picture[:, :1].expand(-1, 3, -1, -1)
            assert torch.allclose(extractors.lines(network, grey), released, atol=1e-4)
