"""Figure masks: growing them, and the frame around a segmentation network (source: colorize/pictures/masks.py)."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from colorize.pictures import masks


def spot(height, width, *places):
    mask = torch.zeros(1, 1, height, width)
    for y, x in places:
        mask[..., y, x] = 1
    return mask


def test_binary_gives_ties_to_the_background():
    assert masks.binary(torch.tensor([0.0, 0.5, 0.51, 1.0]), 0.5).tolist() == [0, 0, 1, 1]


def test_dilate():
    assert masks.dilate(spot(15, 15, (7, 7))).sum() == 11 * 11
    assert masks.dilate(spot(15, 15, (0, 0)), 3).sum() == 4  # nothing comes in over the edge
    soft = torch.rand(2, 1, 6, 5)
    assert torch.equal(masks.dilate(soft, 1), soft)
    soft -= 0.5
    for side in (3, 5, 7, 9, 17):  # by rows and columns, and by doubled windows: the same, in less time
        square = torch.nn.functional.max_pool2d(F.pad(soft, [side // 2] * 4, value=-torch.inf), side, stride=1)
        assert torch.equal(masks.dilate(soft, side), square)


@pytest.mark.parametrize(("height", "width"), [(120, 80), (125, 95), (50, 30), (60, 41), (1, 1)])
@pytest.mark.parametrize("variant", masks.VARIANTS)
def test_grow_to_grid(height, width, variant):
    """Against the sentence in its description, pixel by pixel; every size works."""
    mask = torch.rand(1, 1, height, width, generator=torch.Generator().manual_seed(0))
    mask = torch.where(mask > 0.9995, mask, 0.1 * mask)
    grown = masks.grow_to_grid(mask, variant=variant)
    expected = torch.zeros_like(mask)
    for top in range(0, height, 60):
        for left in range(0, width, 40):
            cell = mask[..., top : top + 60, left : left + 40]
            if variant == "paper" or cell.shape[-2:] == (60, 40):
                expected[..., top : top + 60, left : left + 40] = cell.max()
    assert torch.equal(grown, expected)
    assert torch.equal(masks.grow_to_grid(mask[:, 0], variant=variant), expected[:, 0])
    if variant == "paper":
        assert (grown >= mask).all()


def test_grow_to_grid_leaves_its_input_alone():
    mask = torch.ones(1, 1, 70, 50)
    assert masks.grow_to_grid(mask, variant="released").mean() < 1 and mask.min() == 1
    with pytest.raises(ValueError, match="'other' is unknown; choose one of paper, released"):
        masks.grow_to_grid(mask, variant="other")


@pytest.mark.parametrize(("height", "width"), [(48, 36), (36, 48), (40, 40), (1, 300), (300, 1), (130, 97)])
def test_figure_mask_finds_its_way_back(height, width):
    """A network that answers with the brightness it reads: black is 1, and the margins are not part of the answer."""
    seen = []

    def network(square):
        seen.append(square)
        return square.mean(1, keepdim=True)

    picture = torch.full((2, 3, height, width), 1.0)  # white: inverted, the network reads 0
    found = masks.figure_mask(network, picture, size=64)
    assert found.shape == (2, 1, height, width) and found.abs().max() < 1e-6
    assert seen[0].shape == (2, 3, 64, 64)
    margin = seen[0].max()
    assert margin == (0.0 if height == width else 1.0)  # black margins are 1 for the network
    assert masks.figure_mask(network, -picture, size=64).min() > 1 - 1e-6


def test_figure_mask_dilates_last():
    picture = torch.full((1, 3, 33, 33), 1.0)
    picture[..., 16, 16] = -1.0
    plain, grown = (masks.figure_mask(lambda x: x.mean(1, keepdim=True), picture, 33, side) for side in (1, 5))
    assert torch.equal(grown, masks.dilate(plain, 5)) and grown.sum() > 20 * plain.sum()


def test_sketch_figure_mask_reads_the_drawing_as_it_is():
    drawing = torch.rand(1, 3, 40, 56) * 2 - 1
    seen = []

    def network(square):
        seen.append(square)
        return square.mean(1, keepdim=True)

    found = masks.sketch_figure_mask(network, drawing, 24, 32, size=64)
    torch.testing.assert_close(seen[0], masks.squash(drawing, 64, 64))
    assert found.shape == (1, 1, 24, 32) and found.min() >= 0 and found.max() <= 1


def test_cut_and_resize():
    """The top left of what does not fit is kept, the proportions too."""
    picture = torch.arange(40.0).view(1, 1, 40, 1).expand(1, 3, 40, 20)
    assert masks.shown_part((40, 20), (20, 20)) == (0.5, 1.0)
    cut = masks.cut_and_resize(picture, 10, 10)
    assert cut.shape == (1, 3, 10, 10) and cut.max() < 20 and cut.min() < 1.5
    wide = masks.cut_and_resize(picture.transpose(2, 3), 30, 30)
    assert wide.shape == (1, 3, 30, 30) and wide.max() <= 20
