"""Figures found from the lines alone."""

import pytest
import torch

from colorize.pictures.drawn_figure import drawn_figures, likely_places, without_islands_and_holes

SIZE = 192


def line(image, rows, columns):
    image[:, rows, columns] = 0


def person(gap=0):
    """A head and a body that leaves the picture at the bottom, with an opening of `gap` pixels in the outline."""
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    head = ((x - 96) ** 2 + (y - 60) ** 2).float().sqrt()
    body = ((x - 96).abs() < 60) & (y > 100)
    inside = (head < 45) | body
    grown = torch.nn.functional.max_pool2d(inside[None, None].float(), 5, 1, 2)[0, 0] > 0
    image = torch.ones(1, SIZE, SIZE, 3)
    outline = grown & ~inside
    if gap:
        outline[140 : 140 + gap, :96] = False
    image[0, outline] = 0
    return image, inside


def agreement(mask, inside):
    """Intersection over union."""
    found = mask[0] > 0.5
    return ((found & inside).sum() / (found | inside).sum()).item()


@pytest.mark.parametrize("gap", [0, 6])
def test_a_figure_on_plain_paper(gap):
    image, inside = person(gap)
    for picture in (image, 1 - image):  # any polarity
        mask = drawn_figures(picture)
        assert mask.shape == (1, SIZE, SIZE) and set(mask.unique().tolist()) == {0.0, 1.0}
        assert agreement(mask, inside) > 0.93


def test_what_it_cannot_know_and_how_a_rough_mask_says_it():
    """A closed shape that touches the figure looks like a part of it."""
    image, inside = person()
    image[:, 120:180, 152:154] = 0  # a box at the right side of the body
    image[:, 120:122, 152:190] = 0
    image[:, 178:180, 152:190] = 0
    image[:, 120:180, 188:190] = 0
    alone = drawn_figures(image)
    assert alone[0, 150, 170] == 1
    rough = torch.zeros(1, SIZE // 4, SIZE // 4)
    rough[:, 7:48, 14:35] = 1  # a rectangle over head and body
    painted = drawn_figures(image, rough=rough)
    assert painted[0, 150, 170] == 0 and agreement(painted, inside) > 0.9


@pytest.mark.parametrize("distance", [0, 12])
def test_a_shoulder_that_the_picture_cuts(distance):
    """A close-up whose shoulder leaves at the left side. Its outline may end before the edge: then a gap is given."""
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    head = ((x - 110) ** 2 + (y - 70) ** 2).float().sqrt() < 62
    shoulder = (x < 70) & (y > 112)
    inside = head | ((x >= 70) & (x < 160) & (y > 110)) | shoulder
    padded = torch.nn.functional.pad(inside[None, None].float(), (2, 2, 2, 2), mode="replicate")
    outline = (torch.nn.functional.max_pool2d(padded, 5, 1)[0, 0] > 0) & ~inside
    outline |= (x == 70) & (y > 110) & ~head  # the sleeve's seam
    outline[:, :distance] = False
    image = 1 - outline.float()[None, ..., None].expand(-1, -1, -1, 3)
    found = drawn_figures(image, gap=float(distance) or None)
    assert found[0, 160, 20] == 1 and agreement(found, inside) > 0.93
    if distance:
        assert drawn_figures(image)[0, 160, 20] == 0  # what the automatic gap does not know


def test_batches_and_their_messages():
    image, _ = person()
    both = torch.cat([image, image.flip(2)])
    masks = drawn_figures(both)
    assert masks.shape == (2, SIZE, SIZE)
    assert agreement(masks[:1], masks[1].flip(1) > 0.5) > 0.97
    with pytest.raises(ValueError, match="3 rough masks for 2 drawings"):
        drawn_figures(both, rough=torch.ones(3, 8, 8))
    with pytest.raises(ValueError, match="has no lines"):
        drawn_figures(torch.ones(1, 64, 64, 3))


def test_islands_go_and_holes_close():
    figure = torch.zeros(60, 60, dtype=torch.bool).numpy()
    figure[20:, 15:45] = True
    figure[30:40, 25:35] = False  # a hole
    figure[2:5, 50:53] = True  # an island
    cleaned = without_islands_and_holes(figure)
    assert cleaned[35, 30] and not cleaned[3, 51] and not cleaned[10, 30] and cleaned[59, 30]
    assert not without_islands_and_holes(figure & False).any()


def test_places_are_shares():
    places = likely_places(40, 30)
    assert places.shape == (40, 30) and 0 <= places.min() and places.max() <= 1
    assert places[30, 15] > 0.9 > 0.1 > places[2, 0]
