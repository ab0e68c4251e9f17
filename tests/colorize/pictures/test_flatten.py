"""Flats, shading and hints on drawings whose colours are known."""

import numpy as np
import pytest
import torch

from colorize.pictures import oklab
from colorize.pictures.flatten import flatten
from colorize.pictures.hints import Hints
from colorize.pictures.palette import Entry, Palette
from colorize.pictures.region_borders import Borders
from colorize.pictures.region_colours import modes, samples
from colorize.pictures.region_labelling import _links, choose, costs
from colorize.pictures.regions import RegionMap, find_regions
from colorize.pictures.shade import shade
from tests.drawings import box, drawing

RED, BLUE, WHITE = (200, 40, 60), (40, 60, 200), (250, 245, 240)


@pytest.fixture(scope="module")
def regions():
    """Two boxes on paper, the left one with a gap, the right one cut by a strand."""
    lines = drawing([box(20, 20, 100, 120, gap=8), box(130, 20, 210, 120), [(170, 20), (172, 118)]])
    return find_regions(lines).maps[0]


@pytest.fixture(scope="module")
def truth(regions):
    picture = np.full((*regions.pieces.shape, 3), WHITE, np.uint8)
    picture[20:121, 20:101], picture[20:121, 130:211] = RED, BLUE
    return picture


def soft(truth, seed=0):
    """What a model makes of it: a shadow, noise, blur over the lines."""
    from scipy import ndimage

    picture = truth.astype(np.float32) / 255
    picture[80:121, 20:101] *= 0.75
    picture += np.random.default_rng(seed).normal(0, 0.03, picture.shape)
    return np.clip(ndimage.gaussian_filter(picture, (2, 2, 0)), 0, 1).astype(np.float32)


def test_flats_are_the_colours_of_the_things(regions, truth):
    flats = flatten(regions, soft(truth))
    assert flats.picture.shape == truth.shape and flats.picture.dtype == np.uint8
    for point in ((60, 60), (60, 150), (60, 195), (160, 10)):
        assert np.abs(flats.picture[point].astype(int) - truth[point]).max() <= 8
    assert len(np.unique(flats.picture.reshape(-1, 3), axis=0)) == 3  # the strand does not part the blue box
    assert np.abs(flats.picture[100, 60].astype(int) - RED).max() <= 8  # the shadow is no colour


def test_palette_is_kept_to_the_bit_on_every_drawing(regions, truth):
    palette = Palette(
        (Entry("coat", "#c02840"), Entry("sea", "#2030c0"), Entry("paper", "#ffffff"), Entry("x", "#00ff00"))
    )
    for seed in (0, 1):
        flats = flatten(regions, soft(truth, seed), palette)
        used = np.unique(flats.picture.reshape(-1, 3), axis=0).tolist()
        assert sorted(used) == sorted([[0xC0, 0x28, 0x40], [0x20, 0x30, 0xC0], [255, 255, 255]])
        assert flats.palette is palette


def test_number_of_colours(regions, truth):
    assert len(flatten(regions, soft(truth), colours=2).palette.entries) == 2


def test_small_result_gives_large_flats(regions, truth):
    small = soft(truth)[::4, ::4]
    assert flatten(regions, small).picture.shape == truth.shape


def test_wrong_proportions_are_said(regions, truth):
    with pytest.raises(ValueError, match="120x200.*240x200.*Restore Size"):
        flatten(regions, soft(truth)[:, :120])
    with pytest.raises(ValueError, match="0 colours"):
        flatten(regions, soft(truth), colours=0)


def test_mode_is_not_pulled_by_a_shadow(regions, truth):
    picture = soft(truth)
    found = samples(regions, picture)
    colours, weights, spreads = modes(found)
    piece = regions.pieces[60, 60]
    assert np.linalg.norm(colours[piece] - oklab.from_srgb(np.array(RED) / 255)) < 0.03
    assert (weights > 0).all() and spreads[piece] > spreads[regions.pieces[160, 10]]


def test_thinned_samples_say_what_all_say(regions, truth):
    few, every = (samples(regions, soft(truth), most) for most in (256, 10**9))
    assert len(few.piece) < len(every.piece) / 4 and (np.bincount(few.piece) <= 512).all()
    entries = oklab.from_srgb(np.array([RED, BLUE, WHITE, (120, 50, 130)]) / 255)
    one, other = costs(few, entries), costs(every, entries)
    assert (one.argmin(axis=1) == other.argmin(axis=1)).all() and np.abs(one - other).max() < 0.1 * other.max()
    assert np.abs(modes(few)[0] - modes(every)[0]).max() < 0.02
    assert np.allclose(modes(few)[1], modes(every)[1], rtol=0.1)


def test_choice_has_an_energy_that_no_single_piece_can_lower(regions, truth):
    found = samples(regions, soft(truth))
    entries = oklab.from_srgb(np.array([RED, BLUE, WHITE, (120, 50, 130)]) / 255)
    table = costs(found, entries)
    entry, links = choose(table, regions), _links(regions.borders, regions.region_of).toarray()

    def energy(choice):
        return table[np.arange(len(choice)), choice].sum() + (links * (choice[:, None] != choice)).sum() / 2

    least = energy(entry)
    for piece in range(len(entry)):
        for other in range(4):
            changed = entry.copy()
            changed[piece] = other
            assert energy(changed) >= least - 1e-6


RED_AND_BLUE = Palette((Entry("coat", "#c8283c"), Entry("sea", "#283cc8"), Entry("paper", "#faf5f0")))


def painted_over(truth, colour):
    """A result that has the right box's place in another colour."""
    wrong = truth.copy()
    wrong[20:121, 130:211] = colour
    return soft(wrong)


def test_results_vote_and_the_one_that_is_wrong_loses(regions, truth):
    right, wrong = soft(truth), painted_over(truth, RED)
    assert flatten(regions, wrong, RED_AND_BLUE).picture[60, 150].tolist() == list(RED)
    for order in ([wrong, right, soft(truth, 1)], [right, wrong, soft(truth, 1)]):
        assert flatten(regions, np.stack(order), RED_AND_BLUE).picture[60, 150].tolist() == list(BLUE)
    assert flatten(regions, np.stack([wrong, right, wrong]), RED_AND_BLUE).picture[60, 150].tolist() == list(RED)
    own = flatten(regions, np.stack([right, wrong, soft(truth, 1)]))
    assert np.abs(own.picture[60, 150].astype(int) - BLUE).max() <= 8


def test_votes_are_not_the_mean_of_the_colours(regions, truth):
    """Two of three results are a little nearer to one entry, the third far on the other's side."""
    near, far, other = (120, 120, 120), (200, 200, 200), (0, 0, 0)
    palette = Palette((Entry("near", "#787878"), Entry("far", "#c8c8c8"), Entry("paper", "#faf5f0")))
    results = np.stack([painted_over(truth, near), painted_over(truth, near), painted_over(truth, (255, 255, 255))])
    mean = results.mean(axis=0)
    assert flatten(regions, mean, palette).picture[60, 150].tolist() == list(far)
    assert flatten(regions, results, palette).picture[60, 150].tolist() == list(near)
    assert other not in {tuple(row) for row in flatten(regions, results, palette).picture.reshape(-1, 3).tolist()}


def test_one_result_in_a_stack_is_that_result(regions, truth):
    one, stacked = soft(truth), soft(truth)[None]
    entries = oklab.from_srgb(np.array([RED, BLUE, WHITE]) / 255)
    assert (costs(samples(regions, one), entries) == costs(samples(regions, stacked), entries)).all()
    table = costs(samples(regions, np.concatenate([stacked, stacked])), entries)
    assert (table.argmin(axis=1) == costs(samples(regions, one), entries).argmin(axis=1)).all()


def test_shading_of_results_that_vote_is_that_of_their_mean(regions, truth):
    results = np.stack([soft(truth), soft(truth, 1)])
    flats = flatten(regions, results, RED_AND_BLUE)
    assert (shade(flats, results).multiply == shade(flats, results.mean(axis=0)).multiply).all()


def open_paper(pairs, length, count):
    """A region of `count` pieces with borders without ink."""
    between = Borders(np.array(pairs, np.int32), np.float32(length), np.float32(length))
    ink, pieces = np.zeros((1, count), np.uint8), np.arange(count, dtype=np.int32)[None]
    return RegionMap(pieces, np.zeros(count, np.int32), ink, between, np.ones(count, np.int64), 1.0)


def test_pieces_change_together_where_one_alone_could_not():
    row = open_paper([[0, 1], [1, 2], [2, 3]], [9, 9, 9], 4)
    table = np.array([[0, 4], [0, 4], [0, 4], [20, 0]], float)  # all 1 costs 12, all 0 costs 20
    assert choose(table, row).tolist() == [1, 1, 1, 1]
    assert choose(table, row, np.array([-1, 0, -1, -1])).tolist() == [0, 0, 0, 0]


def test_choice_between_two_entries_is_the_best_of_all():
    rng = np.random.default_rng(0)
    for _ in range(20):
        pairs = [(a, b) for a in range(7) for b in range(a + 1, 7) if rng.random() < 0.5]
        regions = open_paper(pairs, rng.uniform(0, 0.4, len(pairs)), 7)
        table, links = rng.uniform(0, 10, (7, 2)), _links(regions.borders, regions.region_of).toarray()
        costs_of = [
            table[np.arange(7), choice].sum() + (links * (choice[:, None] != choice)).sum() / 2
            for choice in (*(np.array(choice) for choice in np.ndindex(*(2,) * 7)), choose(table, regions))
        ]
        assert costs_of[-1] <= min(costs_of[:-1]) + 1e-6


def test_hint_sets_its_region_and_the_rest_of_its_colour(regions, truth):
    dots = np.zeros((*truth.shape[:2], 4), np.float32)
    dots[60:66, 150:156] = (0.1, 0.8, 0.2, 1)
    green = [round(0.1 * 255), round(0.8 * 255), round(0.2 * 255)]
    one = flatten(regions, soft(truth), hints=Hints(dots)).picture
    assert one[60, 150].tolist() == green and one[60, 60].tolist() != green
    every = flatten(regions, soft(truth), hints=Hints(dots, everywhere=True)).picture
    assert every[60, 150].tolist() == green and every[60, 195].tolist() == green and every[60, 60].tolist() != green


def test_hint_of_a_palette_colour_stays_in_the_palette(regions, truth):
    palette = Palette((Entry("coat", "#c02840"), Entry("sea", "#2030c0"), Entry("paper", "#ffffff")))
    dots = np.zeros((*truth.shape[:2], 4), np.float32)
    dots[60:66, 50:56] = (0x20 / 255, 0x30 / 255, 0xC1 / 255, 1)
    flats = flatten(regions, soft(truth), palette, hints=Hints(dots))
    assert flats.palette is palette and flats.picture[60, 60].tolist() == [0x20, 0x30, 0xC0]


def test_hints_of_another_size_are_said(regions, truth):
    with pytest.raises(ValueError, match="hints are 10x10.*drawing 240x200"):
        flatten(regions, soft(truth), hints=Hints(np.ones((10, 10, 4), np.float32)))


def test_no_hints_change_nothing(regions, truth):
    none = Hints(np.zeros((*truth.shape[:2], 4), np.float32))
    assert (flatten(regions, soft(truth), hints=none).picture == flatten(regions, soft(truth)).picture).all()


@pytest.mark.parametrize("levels", [0, 1, 2])
def test_shade_darkens_the_shadow_and_nothing_else(regions, truth, levels):
    flats = flatten(regions, soft(truth))
    found = shade(flats, soft(truth), levels)
    assert found.multiply.shape == truth.shape[:2] and found.multiply.min() > 0.3 and np.median(found.screen) < 0.05
    assert found.multiply[100, 60] < 0.85 and found.multiply[50, 60] > 0.95
    assert found.multiply[20, 150] > 0.88  # the line above the blue box is no shadow
    if levels:
        assert (np.isclose(found.multiply, 1) | (found.multiply < 0.85)).mean() > 0.95


@pytest.mark.parametrize("levels", [1, 2])
def test_cel_shading_has_no_specks(regions, truth, levels):
    flats, picture = flatten(regions, soft(truth)), soft(truth)
    picture[40:44, 60:64] *= 0.3
    picture[44:48, 160:164] = 1
    assert shade(flats, picture).multiply[42, 62] < 0.8  # smooth shading keeps what the result has
    found = shade(flats, picture, levels)
    assert found.multiply[38:46, 58:66].min() == 1 and found.screen[42:50, 158:166].max() == 0
    assert found.multiply[100, 60] < 0.85  # the shadow itself stays


@pytest.mark.parametrize("size", [(200, 1), (1, 200)])
def test_a_picture_of_one_column_has_tones(size):
    """Found by the fuzz harness, --stand-ins --seed 1 --only 1048: no gradient of less than two pixels."""
    strip = torch.ones(1, *size, 3)
    strip.view(200, 3)[60:140] = 0
    picture = np.full((*size, 3), 0.5, np.float32)
    assert shade(flatten(find_regions(strip).maps[0], picture), picture, 1).multiply.shape == size


def test_bad_levels_are_said(regions, truth):
    with pytest.raises(ValueError, match="3 shadow tones"):
        shade(flatten(regions, soft(truth)), soft(truth), 3)
