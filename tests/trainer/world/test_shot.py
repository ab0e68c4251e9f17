"""Shots of the procedural world: what a seed and a frame decide, what stays the same, and what happens in them."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from trainer.commands import demo_shots
from trainer.config import ConfigError
from trainer.world import pose, shot_frame
from trainer.world.performance import BLINK, Performance, Swing
from trainer.world.shot import PASSER, frame_drawing, performance, thing_map

SIZE = 96
SHOTS = range(40)


def acted(wanted) -> tuple[int, Performance]:
    """The first character whose performance is wanted."""
    return next((index, found) for index in SHOTS if wanted(found := performance(index)))


def area(index: int, frame: int, name: str, size: int = SIZE) -> int:
    drawn = shot_frame(index, frame, size=size)
    return int((drawn.things == drawn.names.index(name)).sum()) if name in drawn.names else 0


def test_a_frame_is_a_function_of_seed_and_number():
    late = shot_frame(3, 17, "heldout", SIZE)
    shot_frame(5, 2, "heldout", SIZE)
    again = shot_frame(3, 17, "heldout", SIZE)
    for field in dataclasses.fields(late):
        assert np.array_equal(getattr(late, field.name), getattr(again, field.name)), field.name
    assert not np.array_equal(late.sketch, shot_frame(3, 18, "heldout", SIZE).sketch)
    assert not np.array_equal(late.sketch, shot_frame(3, 17, "train", SIZE).sketch)


def test_the_first_frame_is_the_character_at_rest():
    silent = (index for index in SHOTS if "hand" not in performance(index).swings and not performance(index).rest.wink)
    for index in list(silent)[:4]:
        assert np.array_equal(shot_frame(index, 0, size=SIZE).picture, pose(index, 0, size=SIZE).picture)


def test_a_thing_has_one_colour_in_all_frames():
    for index in range(4):
        known: dict[str, bytes] = {}
        for frame in (0, 5, 11, 18):
            drawn = shot_frame(index, frame, size=SIZE, lines="clean")
            for number in np.unique(drawn.things):
                inside = (drawn.things == number) & ~drawn.lines
                colours = np.unique(drawn.flats[inside], axis=0)
                if inside.sum() > 8:
                    assert len(colours) == 1
                    assert known.setdefault(drawn.names[number], colours.tobytes()) == colours.tobytes()
        assert len(known) > 15


def test_nearly_all_of_the_first_frame_comes_again():
    for index in range(4):
        first, later = shot_frame(index, 0, size=SIZE), shot_frame(index, 20, size=SIZE)
        again = {later.names[n] for n in np.unique(later.things)}
        stays = np.array([name in again for name in first.names])
        assert stays[first.things].mean() > 0.95


def test_eyes_blink():
    index, one = acted(lambda found: found.blink < 10)
    assert one.gesture(one.blink - 1).lids == 1 and one.gesture(one.blink + 1).lids == 0
    assert one.gesture(one.blink + len(BLINK)).lids == 1
    opened = frame_drawing(one, one.blink - 1, SIZE, SIZE)
    shut = frame_drawing(one, one.blink + 1, SIZE, SIZE)
    eyes = [sum(name.startswith(("eye", "other eye")) for name in thing_map(drawn)[1]) for drawn in (opened, shut)]
    assert eyes[0] >= 10 and eyes[1] == 0


def test_a_hand_hides_the_face():
    index, one = acted(lambda found: "hand" in found.swings)
    top = round(one.swings["hand"].period / 2)
    assert one.gesture(0).hand == 0 and one.gesture(top).hand > 0.95
    assert area(index, top, "head 0") < area(index, 0, "head 0")


def test_somebody_passes_and_leaves():
    index, one = acted(lambda found: found.passer is not None and abs(found.passer.speed) > 0.08)
    seen = [one.passer.place(frame) for frame in range(40)]
    assert seen[0] is None and seen[39] is None and sum(place is not None for place in seen) > 8
    middle = one.passer.first + round((0.5 + one.passer.radius) / abs(one.passer.speed))
    assert area(index, middle, f"{PASSER} 0") > 0.01 * SIZE * SIZE and area(index, 0, f"{PASSER} 0") == 0


def test_the_camera_moves_the_figure_further_than_the_background():
    _, one = acted(lambda found: found.swings["zoom"].amplitude > 0.08)
    plain, seen = frame_drawing(one, 0, SIZE, SIZE), frame_drawing(one, 12, SIZE, SIZE)
    assert len(plain.operations[: plain.figure_start]) == len(seen.operations[: seen.figure_start])
    one = dataclasses.replace(one, swings=one.swings | {"centre_x": Swing(0, 20), "pan_x": Swing(0.08, 48)})
    moved = frame_drawing(dataclasses.replace(one, swings=one.swings | {"zoom": Swing(0, 20)}), 12, SIZE, SIZE)
    ends = [drawn.operations[0].points[:, 0].mean() for drawn in (plain, moved)]
    assert ends[1] - ends[0] == pytest.approx(0.04 * SIZE)  # half of the camera's 0.08
    assert seen.unit > plain.unit


def test_clean_lines_change_the_sketch_only():
    drawn, clean = (shot_frame(2, 3, size=SIZE, lines=lines) for lines in ("drawn", "clean"))
    assert np.array_equal(drawn.picture, clean.picture) and np.array_equal(drawn.things, clean.things)
    assert not np.array_equal(drawn.sketch, clean.sketch)
    with pytest.raises(ValueError, match="choose a frame from 0"):
        shot_frame(0, -1)
    with pytest.raises(ValueError, match="drawn, clean"):
        shot_frame(0, 0, lines="inked")


def test_demo_shots_are_the_frames(tmp_path):
    demo_shots.write_shots(tmp_path, 2, frames=3, size=64, split="heldout", progress=False)
    shot = tmp_path / "00002"
    names = json.loads((shot / "things.json").read_text())
    drawn = shot_frame(1, 2, "heldout", 64)
    assert np.array_equal(np.asarray(Image.open(shot / "sketch" / "0002.png")), drawn.sketch)
    assert np.array_equal(np.asarray(Image.open(shot / "flats" / "0002.png")), drawn.flats)
    things = np.asarray(Image.open(shot / "things" / "0002.png"))
    assert [names[number] for number in np.unique(things)] == sorted(
        {drawn.names[number] for number in np.unique(drawn.things)}, key=names.index
    )


def test_demo_shots_continue_and_refuse_other_settings(tmp_path):
    demo_shots.write_shots(tmp_path, 1, frames=2, size=64, progress=False)
    kept, lost = tmp_path / "00001" / "sketch" / "0000.png", tmp_path / "00001" / "flats" / "0001.png"
    before = lost.read_bytes()
    lost.unlink()
    demo_shots.write_shots(tmp_path, 2, frames=2, size=64, progress=False)
    assert lost.read_bytes() == before and kept.is_file() and (tmp_path / "00002" / "things.json").is_file()
    with pytest.raises(ConfigError, match="other settings"):
        demo_shots.write_shots(tmp_path, 2, frames=3, size=64, progress=False)
    with pytest.raises(ConfigError, match="at most 1000 frames"):
        demo_shots.write_shots(tmp_path, 1, frames=0, size=64, progress=False)
