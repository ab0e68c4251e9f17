"""Regions of drawings that are drawn here, so that the right answer is known."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from colorize.pictures import rooms
from colorize.pictures.ink import ink_of, working_copy
from colorize.pictures.region_borders import borders, without_small
from colorize.pictures.regions import find_regions, region_map
from colorize.pictures.spread import spread
from tests.drawings import box, comfy, drawing


def at(regions, *points) -> list[int]:
    labels = regions.maps[0].labels
    return [int(labels[y, x]) for x, y in points]


def test_two_closed_shapes_and_the_paper_around_them():
    found = find_regions(drawing([box(20, 20, 100, 120), box(130, 20, 210, 120)]))
    one, other, around = at(found, (60, 60), (170, 60), (5, 5))
    assert len({one, other, around}) == 3 and found.maps[0].count == 3


def test_gap_is_bridged_and_the_cut_lies_in_the_line():
    found = find_regions(drawing([box(40, 40, 160, 160, gap=14)]))
    labels = found.maps[0].labels
    inside, outside = at(found, (100, 100), (10, 10))
    assert inside != outside
    truth = np.full(labels.shape, outside)
    truth[40:161, 40:161] = inside
    assert (labels == truth).mean() > 0.985


def test_grey_channel_and_three_equal_channels_are_one_drawing():
    lines = drawing([box(40, 40, 160, 160, gap=14)]) * 0.9  # grey paper
    grey, three = find_regions(lines[..., :1]).maps[0], find_regions(lines).maps[0]
    coloured = lines.clone()
    coloured[0, 0, 0, 2] = 0.89  # no longer grey: the other way through
    other = find_regions(coloured).maps[0]
    assert (grey.pieces == three.pieces).all() and (three.pieces == other.pieces).all()
    assert (grey.ink == three.ink).all() and np.abs(three.ink.astype(int) - other.ink).max() <= 3


def test_wider_gap_than_allowed_stays_open():
    lines = drawing([box(40, 40, 160, 160, gap=14)])
    assert find_regions(lines, gap=6).maps[0].count == 1
    assert find_regions(lines, gap=20).maps[0].count == 2
    pieces = find_regions(lines, gap=6).maps[0].pieces  # the colours may still tell them apart
    assert pieces[100, 100] != pieces[10, 10]


def test_tip_of_a_strand_belongs_to_the_strand():
    strand = [(20, 180), (60, 20), (100, 180)]
    found = find_regions(drawing([strand, [(20, 180), (100, 180)]]))
    assert len(set(at(found, (60, 50), (60, 90), (60, 160)))) == 1


@pytest.mark.parametrize("polarity", ["dark", "light", "alpha", "pencil", "grey paper", "coloured"])
def test_every_kind_of_drawing_gives_the_same_regions(polarity):
    plain = drawing([box(20, 20, 100, 120), box(130, 20, 210, 120)])
    expected, mask = find_regions(plain).maps[0].labels, None
    ink = 1 - plain[..., :1]
    if polarity == "light":
        plain = 1 - plain
    elif polarity == "alpha":
        mask, plain = 1 - ink[..., 0], torch.zeros_like(plain)
    elif polarity == "pencil":
        grain = torch.rand(ink.shape, generator=torch.Generator().manual_seed(0))
        plain = (1 - 0.55 * ink * (0.6 + 0.4 * grain) - 0.03 * grain).expand(-1, -1, -1, 3)
    elif polarity == "grey paper":
        plain = plain * torch.linspace(0.6, 0.9, plain.shape[2])[:, None]
    elif polarity == "coloured":
        plain = 1 - ink * torch.tensor([0.0, 0.2, 0.9])  # yellow trace lines
    labels = find_regions(plain, mask).maps[0].labels
    table = {int(a): int(b) for a, b in zip(expected.ravel()[::7], labels.ravel()[::7])}
    same = np.vectorize(table.get)(expected) == labels
    assert same.mean() > 0.98 and len(set(table.values())) == 3


def test_specks_are_no_lines_and_solid_black_is_a_region():
    image = Image.new("L", (240, 200), 255)
    draw = ImageDraw.Draw(image)
    draw.rectangle((20, 20, 120, 120), outline=0, width=3)
    draw.ellipse((150, 60, 210, 120), fill=0)
    for x in range(10, 240, 12):
        draw.point((x, 180), 0)
    found = find_regions(comfy(image))
    assert found.maps[0].count == 3
    assert len(set(at(found, (180, 90), (60, 60), (5, 5)))) == 3


def test_double_strokes_make_no_regions_of_their_own():
    strokes = [box(20, 20, 150, 150), [(22, 25), (23, 148), (148, 147), (147, 24), (22, 24)]]
    assert find_regions(drawing(strokes, width=2)).maps[0].count == 2


def test_labels_cover_every_pixel_at_full_size_and_agree_with_the_small_drawing():
    shapes = [box(20, 20, 100, 120, gap=8), box(130, 20, 210, 120)]
    small, large = (find_regions(drawing(shapes, scale=scale)).maps[0] for scale in (1, 6))
    assert large.pieces.shape == (1200, 1440) and large.pieces.min() == 0
    assert large.areas.sum() == large.pieces.size
    assert (np.repeat(np.repeat(small.labels, 6, 0), 6, 1) == large.labels).mean() > 0.985


def test_regions_are_made_of_pieces():
    found = find_regions(drawing([box(40, 40, 160, 160, gap=30)])).maps[0]
    assert len(found.region_of) == found.pieces.max() + 1 >= found.count
    assert set(found.region_of.tolist()) == set(range(found.count))


def test_batch_of_drawings():
    one, other = drawing([box(20, 20, 100, 120)]), drawing([box(130, 20, 210, 120), box(20, 20, 100, 120)])
    assert [m.count for m in find_regions(torch.cat([one, other])).maps] == [2, 3]


@pytest.mark.parametrize(
    "picture", [torch.ones(1, 64, 64, 3), torch.zeros(1, 64, 64, 3), torch.zeros(1, 1, 1, 3), torch.ones(1, 1, 90, 3)]
)
def test_blank_drawing_is_said(picture):
    with pytest.raises(ValueError, match="has no lines.*Connect the line drawing"):
        find_regions(picture)


def test_bad_gap_is_said():
    with pytest.raises(ValueError, match="gap is -1"):
        find_regions(drawing([box(20, 20, 100, 120)]), gap=-1)


# -- parts against their plain versions --------------------------------------------------------------------------------


def test_basins_follow_the_steepest_ascent():
    distance = np.random.default_rng(0).random((12, 15)).astype(np.float32)
    paper = np.ones(distance.shape, bool)
    paper[:, 7] = False
    labels, peaks = rooms.basins(distance, paper)
    for y, x in np.ndindex(distance.shape):
        if not paper[y, x]:
            assert labels[y, x] == -1
            continue
        here = (y, x)
        while True:
            around = [
                (here[0] + down, here[1] + right)
                for down in (-1, 0, 1)
                for right in (-1, 0, 1)
                if 0 <= here[0] + down < 12 and 0 <= here[1] + right < 15 and paper[here[0] + down, here[1] + right]
            ]
            best = max(around, key=lambda place: distance[place])
            if distance[best] <= distance[here]:
                break
            here = best
        assert peaks[labels[y, x]] == distance[here]


def test_passes_are_the_highest_contacts():
    rng = np.random.default_rng(1)
    labels, distance = rng.integers(-1, 4, (9, 11)).astype(np.int32), rng.random((9, 11)).astype(np.float32)
    expected = {}
    for y, x in np.ndindex(labels.shape):
        for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
            if y + down < 9 and 0 <= x + right < 11:
                a, b = sorted((int(labels[y, x]), int(labels[y + down, x + right])))
                if 0 <= a < b:
                    height = min(distance[y, x], distance[y + down, x + right])
                    expected[a, b] = max(expected.get((a, b), 0), height)
    pairs, heights = rooms.passes(labels, distance)
    assert {tuple(p): h for p, h in zip(pairs.tolist(), heights)} == expected


def test_joining_asks_for_both_peaks():
    pairs, heights = np.array([[0, 1], [1, 2]]), np.array([3.0, 2.9], np.float32)
    peaks = np.array([20, 3.1, 20], np.float32)  # a neck between two large rooms
    assert rooms.joined(pairs, heights, peaks, rooms.Gaps(0.5, 100)).tolist() in ([0, 0, 1], [0, 1, 1])
    assert len(set(rooms.joined(pairs, heights, peaks, rooms.Gaps(0.5, 4)).tolist())) == 1


def test_spread_meets_on_the_darkest_ink():
    labels = np.full((3, 9), -1, np.int32)
    labels[:, 0], labels[:, -1] = 0, 1
    ink = np.tile(np.array([0, 0, 0, 60, 120, 250, 30, 0, 0], np.uint8), (3, 1))
    assert spread(labels, ink)[1, :5].tolist() == [0, 0, 0, 0, 0] and spread(labels, ink)[1, 6:].tolist() == [1, 1, 1]
    assert (spread(np.full((3, 3), -1, np.int32), ink[:, :3]) == -1).all()


def test_borders_and_small_regions():
    labels = np.array([[0, 0, 1], [0, 2, 1], [3, 3, 3]], np.int32)
    ink = np.zeros((3, 3), np.uint8)
    ink[1, 1] = 255
    found = borders(labels, ink)
    lengths = {tuple(p): (n, o) for p, n, o in zip(found.pairs.tolist(), found.length, found.open)}
    assert lengths == {(0, 1): (1, 1), (0, 2): (2, 0), (0, 3): (1, 1), (1, 2): (1, 0), (1, 3): (1, 1), (2, 3): (1, 0)}
    goal = without_small(np.array([3, 2, 1, 3]), np.array([False, False, True, False]), found)
    assert goal.tolist() == [0, 1, 0, 3]


def test_working_copy_keeps_thin_lines_of_a_large_drawing():
    ink = ink_of(drawing([box(200, 200, 1800, 1200)], size=(1400, 2300), width=2))[0]
    copy = working_copy(ink)
    assert copy.factor == 2 and 1 <= copy.line_width < 3
    assert region_map(ink).count == 2
