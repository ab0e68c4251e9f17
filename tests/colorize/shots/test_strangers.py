"""What no key shows has one colour in all frames of a shot."""

import numpy as np
import pytest
import torch

from colorize.pictures.flat_batch import flat_batch
from colorize.pictures.palette import from_text
from colorize.pictures.regions import Regions
from colorize.shots.contact_sheet import FLICKER, OUTLINE, ContactSheet
from colorize.shots.review import told
from colorize.shots.shot_flats import shot_flats
from tests.colorize.shots.test_shot_flats import BALL, COAT, GROUND, SOIL, colour, maps_of, painted
from tests.drawings import box

MORE = from_text("#1e3cc8 ball\n#28b45a leaf")
LEAF = (40, 180, 90)


@pytest.fixture(scope="module")
def visited():
    """A box comes into the picture in frame 1; the model colours it blue, green and blue."""
    maps = maps_of(
        *([GROUND, box(30, 60, 80, 130), *([box(160 - s, 60, 200 - s, 110)] * (s > 0))] for s in (0, 4, 8, 12))
    )
    key = painted(maps[0], {(50, 90): COAT, (120, 170): SOIL})
    wander = [key] + [painted(maps[n], {(170, 85): c, (120, 170): SOIL}) for n, c in ((1, BALL), (2, LEAF), (3, BALL))]
    batch = flat_batch(Regions(tuple(maps)), torch.from_numpy(np.stack(wander)).float(), shading="none")
    return shot_flats(batch, key, more=MORE)


def test_a_stranger_has_the_colour_it_has_most(visited):
    assert [colour(visited, frame, 170, 85) for frame in (1, 2, 3)] == [BALL] * 3 and visited.flicker.max() == 0
    assert {one.thing for one in visited.unsure} == {1} and len(visited.unsure) == 3
    best = max(visited.unsure, key=lambda one: one.share)
    text = f"1: frames 1 to 3, #1e3cc8; in frame {best.frame} at ({best.x}, {best.y}), {100 * best.share:.1f} %"
    assert told(visited.unsure, 4) == text


def test_the_sheet_shows_what_is_unsure(visited):
    sheet = visited.sheet
    assert sheet.dtype == np.uint8 and sheet.shape[2] == 3
    outlined = (sheet == OUTLINE).all(axis=2)
    assert outlined.any() and not (sheet == FLICKER).all(axis=2).any()
    assert not outlined[: 200 if sheet.shape[0] > 300 else None, :240].any()  # frame 0 has nothing


def test_flicker_is_red_on_the_sheet_and_a_long_shot_fits():
    sheet = ContactSheet(500, 512, 512)
    assert max(sheet.picture.shape) <= 4200
    flicker = np.zeros((512, 512), np.float32)
    flicker[100:130, 100:130] = 1
    sheet.add(499, "last", np.full((512, 512, 3), 200, np.uint8), np.zeros((512, 512)), flicker)
    assert (sheet.picture == FLICKER).all(axis=2).sum() > 30
