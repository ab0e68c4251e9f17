"""Pieces of drawings that are drawn here, so that it is known which is which."""

import numpy as np
import pytest
import torch

from colorize.pictures.regions import find_regions
from colorize.shots import matching
from colorize.shots.line_motion import line_maps, motion
from colorize.shots.matching import match
from colorize.shots.shapes import LONGEST, measured, shapes_of
from tests.drawings import box, drawing
from tests.literal import matching as literal


def regions(shapes, **settings):
    return find_regions(drawing(shapes, **settings)).maps[0]


def piece(found, x, y) -> int:
    return int(found.pieces[y, x])


def test_the_motion_of_lines_is_found():
    """A shape moved by (9, -14) pixels: on its lines the motion leads back to where they were."""
    before, after = (line_maps(regions([box(*corners)]).ink) for corners in ((60, 50, 150, 120), (46, 59, 136, 129)))
    found = motion(before, after)
    assert found.shape == (2, 200, 240)
    corners = found[:, [60, 60, 127, 127], [47, 134, 47, 134]]
    assert np.abs(corners - np.array([[-9], [14]])).max() < 2.5


def test_a_still_drawing_does_not_move():
    """On its lines, that is, and hardly along them; what is far from all lines may be thought to move, nobody asks."""
    ink = regions([box(60, 50, 150, 120), [(0, 150), (240, 160)]]).ink
    found = motion(line_maps(ink), line_maps(ink))
    assert np.abs(found[:, 45:125, 55:155][:, ink[45:125, 55:155] > 200]).mean() < 0.8


def test_a_drawing_matches_itself():
    found = regions([box(20, 20, 100, 120), box(130, 20, 210, 90), box(130, 110, 160, 170), [(20, 60), (100, 60)]])
    shapes = shapes_of(found)
    matched = match(shapes, shapes)
    assert np.array_equal(matched.best, np.arange(shapes.count))
    assert matched.likelihood.max(axis=1).min() > 0.7
    assert np.allclose(matched.likelihood.sum(axis=1) + matched.new, 1, atol=1e-6)


def test_moved_pieces_are_found_again():
    boxes = [(20, 20, 90, 120), (130, 20, 210, 80), (130, 110, 160, 170)]
    before = regions([box(*one) for one in boxes])
    after = regions([box(l + 10, t + 6, r + 10, b + 6) for l, t, r, b in boxes])  # noqa: E741
    best = match(shapes_of(before), shapes_of(after)).best
    for left, top, *_ in boxes:
        was, now = piece(before, left + 15, top + 15), piece(after, left + 25, top + 21)
        assert best[now] == was


def test_a_divided_piece_is_twice_the_whole():
    """One to many: a line through a box makes two pieces, which both come from it."""
    whole, divided = regions([box(40, 40, 200, 160)]), regions([box(40, 40, 200, 160), [(110, 40), (120, 160)]])
    best = match(shapes_of(whole), shapes_of(divided)).best
    assert best[piece(divided, 70, 100)] == best[piece(divided, 160, 100)] == piece(whole, 100, 100)


def test_what_comes_into_a_drawing_is_rather_new():
    """A small box in the middle of a large one has none of its outline: the large one is not what it was."""
    before, after = regions([box(20, 20, 220, 180)]), regions([box(20, 20, 220, 180), box(95, 75, 145, 125)])
    matched = match(shapes_of(before), shapes_of(after))
    inner, outer = piece(after, 120, 100), piece(after, 40, 40)
    assert matched.new[inner] > 0.4 > 0.2 > matched.new[outer]
    assert matched.best[outer] == piece(before, 120, 100)


@pytest.mark.parametrize("seed", [0, 1])
def test_it_is_what_the_literal_version_computes(seed):
    """Random pieces, random motion: every number of the fast version against loops over pixels and pairs."""
    random = np.random.default_rng(seed)
    height, width, found = 20, 26, []
    for _ in range(2):
        seeds = random.uniform(0, 1, (5, 2)) * (height, width)
        places = np.stack(np.indices((height, width)), axis=-1)
        labels = ((places[:, :, None] - seeds) ** 2).sum(axis=-1).argmin(axis=-1).astype(np.int32)
        ink = np.where(random.random((height, width)) < 0.2, 255, 0).astype(np.uint8)
        found.append(measured(labels, ink, 5))
    source, target = found
    shift = torch.nn.functional.interpolate(
        torch.from_numpy(random.normal(0, 3, (1, 2, 4, 5))), (height, width), mode="bilinear"
    )[0].numpy()
    fast = matching.likelihood(source, target, shift)
    slow = literal.likelihood(source, target, shift)
    assert slow.max() > 0.5 and np.abs(fast - slow).max() < 1e-5


def test_pieces_compete():
    """Against loops: who is less likely gives way, and nothing is found again much larger than it was."""
    random = np.random.default_rng(3)
    found = random.dirichlet(np.full(5, 0.4), 6)[:, :4]
    source, target = random.uniform(50, 200, 4), random.uniform(20, 400, 6)
    slow = np.zeros_like(found)
    for j in range(6):
        for i in range(4):
            slow[j, i] = found[j, i] * found[j, i] / max(found[k, i] for k in range(6))
        slow[j] /= slow[j].sum() + 1 - found[j].sum()
    taken = [sum(slow[j, i] * target[j] for j in range(6)) / source[i] for i in range(4)]
    usual = max(1, np.median([one for one in taken if one > matching.HALF]))
    for i in range(4):
        slow[:, i] *= min(1, matching.SPARE * usual / taken[i])
    assert np.abs(matching.rivals(found, source, target) - slow).max() < 1e-6


def test_a_drawing_seen_larger_is_found_all_the_same():
    before = shapes_of(regions([box(90, 70, 150, 130), [(0, 160), (240, 160)]]))
    drawn = regions([box(80, 60, 160, 140), [(0, 180), (240, 180)]])
    assert match(before, shapes_of(drawn)).likelihood[piece(drawn, 120, 100)].max() > 0.6


def test_shapes_of_a_large_drawing_are_taken_from_a_small_copy():
    corners = box(100, 100, 700, 500)
    small, large = (shapes_of(regions([corners], size=(600, 800), scale=scale, width=5)) for scale in (1, 2))
    assert max(large.labels.shape) <= LONGEST and large.count == small.count
    assert np.array_equal(match(small, small).best, np.arange(small.count))


def test_a_piece_that_the_small_copy_has_no_pixel_of_is_new_and_hurts_nobody():
    labels = np.zeros((40, 40), np.int32)
    labels[10:30, 10:30] = 1
    shapes = measured(labels, np.zeros((40, 40), np.uint8), 3)
    matched = match(shapes, shapes)
    assert np.isfinite(matched.likelihood).all() and list(matched.best[:2]) == [0, 1]


def test_frames_of_different_sizes_say_so():
    small, large = shapes_of(regions([box(20, 20, 90, 90)])), shapes_of(regions([box(20, 20, 90, 90)], size=(100, 100)))
    with pytest.raises(ValueError, match="240x200 and 100x100.*one size"):
        match(small, large)
