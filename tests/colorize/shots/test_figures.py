"""Figures named on one frame, followed through the others."""

import numpy as np
import pytest

from colorize.shots.figures import followed
from tests.colorize.shots.test_shot_flats import GROUND, maps_of
from tests.drawings import box


@pytest.fixture(scope="module")
def maps():
    """Two boxes, one going right and one going left; in the last frame the first one holds something new."""
    steps = [[GROUND, box(20 + s, 50, 80 + s, 140), box(160 - s, 70, 210 - s, 140)] for s in (0, 5, 10)]
    return maps_of(steps[0], steps[1], [*steps[2], box(50, 80, 70, 110)])


def mask(found, x, y) -> np.ndarray:
    return (found.labels == found.labels[y, x]).astype(np.float32)


def test_two_figures_are_followed_and_do_not_overlap(maps):
    masks = np.stack([mask(maps[0], 40, 90), mask(maps[0], 185, 100)])
    found = followed(maps, masks)
    assert found.masks.shape == (3, 2, 200, 240) and found.masks.sum(axis=1).max() == 1
    assert np.array_equal(found.masks[0], masks)
    for frame, step in ((1, 5), (2, 10)):
        assert found.masks[frame, 0, 60, 40 + step] == found.masks[frame, 1, 100, 185 - step] == 1
        assert found.masks[frame, :, 20, 120].max() == found.masks[frame, :, 180, 120].max() == 0
    assert found.unsure[0].max() == 0


def test_what_is_new_belongs_with_what_surrounds_it(maps):
    found = followed(maps, mask(maps[0], 40, 90)[None])
    assert found.masks[2, 0, 95, 60] == 1


def test_of_masks_that_overlap_the_last_has_the_piece_and_wrong_ones_are_told(maps):
    whole = np.ones((200, 240), np.float32)
    found = followed(maps, np.stack([whole, mask(maps[0], 185, 100)]), 0)
    assert found.masks[0, 1, 100, 185] == 1 and found.masks[0, 0, 100, 185] == 0 and found.masks[0, 0, 20, 20] == 1
    with pytest.raises(ValueError, match="masks are 120x100 pixels, the drawings 240x200"):
        followed(maps, whole[None, :100, :120])
    with pytest.raises(ValueError, match="frames 0 to 2"):
        followed(maps, whole[None], 3)
