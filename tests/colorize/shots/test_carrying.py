"""Colours of a key carried through shots that are drawn here."""

import numpy as np
import pytest

from colorize.pictures.regions import find_regions
from colorize.shots import carrying
from colorize.shots.carrying import SURE, carried, known, surest
from colorize.shots.shapes import shapes_of
from tests.drawings import box, drawing


def frames(*drawings):
    return [find_regions(drawing(shapes)).maps[0] for shapes in drawings]


def at(maps, beliefs, frame, x, y) -> tuple[int, float]:
    """(entry, how sure) of the piece at a place of a frame."""
    row = beliefs[frame][maps[frame].pieces[y, x]]
    return int(row.argmax()), float(row.max())


def walk(step: int):
    """A box that goes to the right in front of a horizon."""
    return [[(0, 150), (240, 150)], box(30 + step, 60, 80 + step, 130)]


def entries(found, places) -> np.ndarray:
    """Colour 1, 2, ... for the pieces at some places, 0 elsewhere."""
    entry = np.zeros(len(found.region_of), int)
    for number, (x, y) in enumerate(places, 1):
        entry[found.pieces[y, x]] = number
    return entry


def test_colours_follow_a_moving_box():
    maps = frames(*(walk(step) for step in (0, 8, 16, 24, 32)))
    key = entries(maps[0], [(50, 90), (120, 170)])
    beliefs = carried([shapes_of(one) for one in maps], {0: key}, 3)
    for frame in range(5):
        assert at(maps, beliefs, frame, 55 + 8 * frame, 90)[0] == 1
        assert at(maps, beliefs, frame, 120, 170)[0] == 2 and at(maps, beliefs, frame, 8, 30)[0] == 0
        assert at(maps, beliefs, frame, 55 + 8 * frame, 90)[1] > SURE


def test_a_key_in_the_middle_serves_both_sides():
    maps = frames(*(walk(step) for step in (0, 8, 16)))
    beliefs = carried([shapes_of(one) for one in maps], {1: entries(maps[1], [(63, 90)])}, 2)
    assert at(maps, beliefs, 0, 55, 90)[0] == at(maps, beliefs, 2, 71, 90)[0] == 1


def test_what_was_hidden_for_a_frame_is_known_again():
    """A blink: the box is not there in the second frame."""
    ground = [(0, 150), (240, 150)]
    maps = frames(walk(0), [ground], walk(4))
    beliefs = carried([shapes_of(one) for one in maps], {0: entries(maps[0], [(50, 90)])}, 2)
    entry, sure = at(maps, beliefs, 2, 58, 90)
    assert entry == 1 and sure > SURE


def test_what_comes_into_a_shot_is_not_sure():
    ground = [(0, 150), (240, 150)]
    maps = frames([ground], [ground, box(100, 60, 140, 110)])
    beliefs = carried([shapes_of(one) for one in maps], {0: entries(maps[0], [(120, 170)])}, 2)
    assert at(maps, beliefs, 1, 120, 85)[1] < SURE < at(maps, beliefs, 1, 20, 30)[1]


def test_a_hint_says_only_what_it_says():
    """A second key that knows one piece: that piece is certain, and the rest still follows the first key."""
    maps = frames(*(walk(step) for step in (0, 8, 16)))
    hint = np.full(len(maps[1].region_of), -1)
    hint[maps[1].pieces[170, 120]] = 3
    keys = {0: entries(maps[0], [(50, 90), (120, 170)]), 1: hint}
    beliefs = carried([shapes_of(one) for one in maps], keys, 4, certain=(1,))
    assert at(maps, beliefs, 1, 120, 170)[0] == at(maps, beliefs, 2, 120, 170)[0] == 3
    assert at(maps, beliefs, 0, 120, 170)[0] == 2 and at(maps, beliefs, 2, 71, 90)[0] == 1


def test_beliefs():
    assert np.array_equal(known(np.array([1, -1, 0]), 2), [[0, 1], [0, 0], [1, 0]])
    first, second = np.array([[0.2, 0.1], [0.5, 0]]), np.array([[0, 0.3], [0, 0.5]])
    assert np.array_equal(surest([first, second]), [[0, 0.3], [0.5, 0]])


def test_answers_are_pooled():
    """Against the formula; what the key and an older frame say outweighs one wrong frame."""
    answers = {1: np.array([[0.1, 0.85], [0.0, 0.0]]), 3: np.array([[0.9, 0.0], [0.0, 0.0]])}
    answers[0] = np.array([[0.95, 0.0], [0.0, 0.0]])
    scores, total = np.zeros(3), 0.0
    for back, rows in answers.items():
        row, matched = rows[0], rows[0].sum()
        every = np.array([*row, 0]) + (1 - matched) / 3
        weight = carrying.WEIGHTS[back] * max(matched, carrying.LEAST)
        doubt = carrying.DOUBTS[back]
        scores, total = scores + weight * np.log((1 - doubt) * every + doubt / 3), total + weight
    likely = np.exp(scores / total * carrying.SHARPNESS)
    found = carrying.pooled(answers)
    assert np.allclose(found[0], (likely / likely.sum())[:2], atol=1e-6) and found[0].argmax() == 0
    assert np.allclose(found[1], 1 / 3, atol=1e-6)


def test_what_is_inherited_does_not_become_certain():
    """A still drawing, and a piece that is 0.6 sure: ten frames later it is no surer."""
    belief = np.array([[0.6, 0.2]], np.float32)
    for _ in range(10):
        belief = carrying.pooled({1: belief, 3: belief, 0: np.array([[0.5, 0.1]])})
    assert belief[0].argmax() == 0 and belief[0].max() <= 0.6 + 1e-6


def test_a_shot_needs_a_key_of_its_own():
    shapes = [shapes_of(one) for one in frames(walk(0))]
    for keys in ({}, {1: np.zeros(3, int)}):
        with pytest.raises(ValueError, match="at least one, counted from 0"):
            carried(shapes, keys, 2)
