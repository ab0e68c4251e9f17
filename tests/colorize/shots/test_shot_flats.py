"""Flats of a shot: the key's colours where sure, the model's where not, and what a person is told."""

import numpy as np
import pytest
import torch

from colorize.pictures.flat_batch import flat_batch
from colorize.pictures.hints import Hints
from colorize.pictures.palette import from_text
from colorize.pictures.regions import Regions, find_regions
from colorize.shots import shot_flats as shots
from colorize.shots.matching import match
from colorize.shots.review import flicker_map, told
from colorize.shots.shot_flats import key_flats, shot_flats
from tests.drawings import box, drawing

GROUND = [(0, 150), (240, 150)]
SKY, COAT, SOIL, BALL = (200, 220, 250), (180, 40, 60), (90, 120, 40), (30, 60, 200)


def maps_of(*drawings):
    return [find_regions(drawing(shapes)).maps[0] for shapes in drawings]


def painted(found, places) -> np.ndarray:
    """(H, W, 3) 0..1: SKY, and other colours for the regions at some places."""
    picture = np.full((*found.pieces.shape, 3), SKY, np.float32)
    for (x, y), colour in places.items():
        picture[found.labels == found.labels[y, x]] = colour
    return picture / 255


def batch_of(maps, pictures):
    images = torch.from_numpy(np.stack(pictures)).float()
    return flat_batch(Regions(tuple(maps)), images, shading="none")


def colour(made, frame, x, y) -> tuple[int, ...]:
    return tuple(made.batch.flats[frame].picture[y, x].tolist())


@pytest.fixture(scope="module")
def walked():
    """Three frames; the model's colours wander from frame to frame, and in the last one there is a new box."""
    steps = [[GROUND, box(30 + s, 60, 80 + s, 130)] for s in (0, 8, 16)]
    maps = maps_of(steps[0], steps[1], [*steps[2], box(170, 60, 210, 110)])
    key = painted(maps[0], {(50, 90): COAT, (120, 170): SOIL})
    wander = [painted(maps[0], {(50, 90): COAT}), painted(maps[1], {(63, 90): (150, 90, 90)})]
    wander.append(painted(maps[2], {(71, 90): (140, 20, 90), (190, 85): BALL}))
    return maps, key, batch_of(maps, wander)


def test_a_painted_key_s_colours_are_kept_to_the_bit(walked):
    maps, key, _ = walked
    flats = key_flats(maps[0], key)
    assert np.abs(flats.picture / 255 - key).max() < 1e-6
    assert {row.colour for row in flats.palette.entries} == {"#c8dcfa", "#b4283c", "#5a7828"}


def test_every_two_drawings_are_matched_once(walked, monkeypatch):
    """The walk and the flicker map ask for the same neighbours, and get what `match` says of them."""
    maps, key, batch = walked
    asked = []

    def counted(source, target):
        asked.append((id(source), id(target)))
        return match(source, target)

    plain = shot_flats(batch, key)
    monkeypatch.setattr(shots, "match", counted)
    made = shot_flats(batch, key)
    assert len(asked) == len(set(asked)) == 3  # 0 to 1, 0 to 2, 1 to 2
    assert np.array_equal(made.flicker, plain.flicker) and np.array_equal(made.masks, plain.masks)


def test_close_colours_of_a_key_stay_two_colours(walked):
    maps, key, _ = walked
    close = key.copy()
    close[maps[0].labels == maps[0].labels[170, 120]] = (np.array(SKY) - 2) / 255
    assert len(key_flats(maps[0], close).palette.entries) == 3


def test_a_soft_key_is_flattened(walked):
    maps, key, _ = walked
    noise = np.random.default_rng(0).normal(0, 0.02, key.shape)
    soft = key_flats(maps[0], np.clip(key + noise, 0, 1).astype(np.float32))
    assert len(soft.palette.entries) < 8 and np.abs(soft.picture / 255 - key).mean() < 0.02


def test_a_key_of_more_colours_than_a_palette_has_is_flattened_too(monkeypatch, walked):
    maps, key, _ = walked
    monkeypatch.setattr(shots, "MOST_ENTRIES", 2)
    monkeypatch.setattr(shots, "_painted", lambda regions, picture: np.arange(len(regions.region_of)))
    assert {row.colour for row in key_flats(maps[0], key).palette.entries} <= {"#c8dcfa", "#b4283c", "#5a7828"}


def test_all_frames_have_the_key_s_colours_and_nothing_flickers(walked):
    maps, key, batch = walked
    made = shot_flats(batch, key, more=from_text("#1e3cc8 ball"))
    for frame in range(3):
        assert colour(made, frame, 58 + 8 * frame, 90) == COAT
        assert colour(made, frame, 120, 170) == SOIL and colour(made, frame, 8, 20) == SKY
    assert colour(made, 2, 190, 85) == BALL  # the model's, of the shot's colours
    assert made.flicker.max() == 0 and made.masks[:2].max() == 0


def test_what_is_new_is_told(walked):
    maps, key, batch = walked
    made = shot_flats(batch, key, more=from_text("#1e3cc8 ball"))
    (one,) = [found for found in made.unsure if found.frame == 2]
    assert maps[2].labels[one.y, one.x] == maps[2].labels[85, 190] and one.colour == "#1e3cc8"
    assert 0.03 < one.share < 0.06 and made.masks[2, 85, 190] == 1 and made.masks[2, 90, 71] == 0
    assert one.thing == 1
    text = f"1: frame 2, #1e3cc8; in frame 2 at ({one.x}, {one.y}), {100 * one.share:.1f} %"
    assert told(made.unsure, 3) == text
    assert told((), 3) == "All regions of 3 frames have the key's colours."


def test_a_hint_on_one_frame_corrects_the_others(walked):
    """The last frame's new box is hinted there; the coat is hinted in the middle frame, and follows in the last."""
    _, key, batch = walked
    dots = np.zeros((200, 240, 4), np.float32)
    dots[86:92, 60:66] = (0, 1, 0, 1)
    made = shot_flats(batch, key, hints={1: Hints(dots)})
    assert colour(made, 1, 63, 90) == colour(made, 2, 71, 90) == (0, 255, 0)
    assert colour(made, 0, 55, 90) == COAT  # the key stays as it was painted
    assert colour(made, 2, 120, 170) == SOIL


def test_a_key_whose_drawing_is_not_among_the_frames(walked):
    maps, key, batch = walked
    rest = flat_batch(Regions(tuple(maps[1:])), torch.from_numpy(np.stack(batch.pictures[1:])), shading="none")
    made = shot_flats(rest, key, 0, key_regions=maps[0])
    assert len(made.batch.flats) == 2 and made.masks.shape == (2, 200, 240)
    assert colour(made, 0, 63, 90) == colour(made, 1, 71, 90) == COAT


def test_flicker_shows_a_changed_colour_of_a_matched_piece(walked):
    maps, key, batch = walked
    before, now = (key_flats(one, painted(one, {})) for one in maps[:2])
    changed = key_flats(maps[1], painted(maps[1], {(63, 90): COAT}))
    matches = shots.match(*(shots.shapes_of(one) for one in maps[:2]))
    assert flicker_map(before, now, matches).max() == 0
    shown = flicker_map(before, changed, matches)
    assert shown[90, 63] > 0.5 and shown[20, 8] == 0


def test_every_step_is_told_and_wrong_numbers_say_so(walked):
    _, key, batch = walked
    steps = []
    shot_flats(batch, key, 1, on_frame=lambda: steps.append(1))
    assert len(steps) == 2
    with pytest.raises(ValueError, match="key_frame is 3; the shot has frames 0 to 2"):
        shot_flats(batch, key, 3)
    with pytest.raises(ValueError, match="hints are for frame 7"):
        shot_flats(batch, key, hints={7: Hints(np.zeros((200, 240, 4), np.float32))})
    with pytest.raises(ValueError, match="proportions"):
        shot_flats(batch, key[:, :100])
