"""What evaluate-shots measures, on shots whose marks are known."""

import argparse
import json

import numpy as np
import pytest

from trainer.commands import evaluate_shots
from trainer.config import ConfigError
from trainer.metrics.shots import FrameTruth, by_overlap, flicker, lost, right

PIECES = np.array([[0, 0, 1, 1]] * 4)
AWAY = np.ones((4, 4), bool)


def truth(materials, things=PIECES) -> FrameTruth:
    return FrameTruth(PIECES, np.array([materials] * 4), things, AWAY)


def test_marks_of_one_frame():
    answer = truth([5, 5, 7, 5])
    assert right(np.array([5, 7]), answer) == 0.75
    assert right(np.array([5, -1]), answer) == 0.5
    assert right(np.array([5, 7]), answer, PIECES == 1) == 0.5
    assert np.isnan(right(np.array([5, 7]), answer, PIECES == 9))
    assert answer.entries()[0] == 5 and answer.table().max(axis=1).sum() == 12


def test_flicker_is_what_changes_on_the_same_thing():
    answers = [truth([5, 5, 7, 7])] * 3
    steady, wavering = np.array([1, 2]), np.array([1, 3])
    assert flicker([steady] * 3, answers) == 0
    assert flicker([steady, wavering, steady], answers) == 0.5
    assert flicker([steady, np.array([1, -1]), steady], answers) == 0  # what nobody coloured does not flicker
    new = FrameTruth(PIECES, answers[0].materials, PIECES + 10, AWAY)
    assert np.isnan(flicker([steady, wavering], [answers[0], new]))


def test_what_is_lost_is_told_by_its_cause():
    key, right_ones = truth([5, 5, 7, 7]), np.array([5, 7])
    same = lost([right_ones] * 3, [key] * 3)
    assert same == {"lost: pieces": 0, "lost: not in the key": 0, "lost: here": 0, "lost: before": 0}
    new = FrameTruth(PIECES, truth([5, 5, 9, 9]).materials, PIECES + 10 * (PIECES == 1), AWAY)
    assert lost([right_ones] * 2, [key, new])["lost: not in the key"] == 0.5
    spotted = key.materials.copy()
    spotted[0, 3] = 5
    mixed = lost([right_ones] * 2, [key, FrameTruth(PIECES, spotted, PIECES, AWAY)])
    assert mixed["lost: pieces"] == sum(mixed.values()) == 1 / 16
    wrong = lost([right_ones, np.array([5, 5]), np.array([5, 5])], [key] * 3)
    assert wrong["lost: here"] == wrong["lost: before"] == 0.25  # of two frames, half of the area each


def test_the_plainest_transfer_is_by_place():
    moved = np.array([[0, 1, 1, 1]] * 4)
    assert by_overlap(moved, PIECES, np.array([4, 6])).tolist() == [4, 6]
    assert by_overlap(np.array([[0, 0, 0, 0]] * 4), np.array([[0, 1, 1, 1]] * 4), np.array([4, 6])).tolist() == [6]


def arguments(**changed) -> argparse.Namespace:
    values = {"count": 1, "frames": 3, "size": 96, "split": "train", "lines": "clean", "results": None, "json": None}
    return argparse.Namespace(**values | changed)


def test_the_command_measures_and_goes_on(tmp_path, capsys):
    file = str(tmp_path / "rows.json")
    evaluate_shots.run(arguments(json=file))
    row = json.loads((tmp_path / "rows.json").read_text())["rows"][0]
    assert 0.8 < row["carried"] <= row["pieces"] <= 1 and 0 <= row["flicker"] < 0.2 and row["sure"] > 0.5
    assert abs(1 - row["carried"] - sum(row[name] for name in row if name.startswith("lost: "))) < 1e-6
    assert "1 shots of 3 frames" in capsys.readouterr().out
    kept = dict(row, carried=0.125)
    (tmp_path / "rows.json").write_text(json.dumps(json.loads((tmp_path / "rows.json").read_text()) | {"rows": [kept]}))
    evaluate_shots.run(arguments(json=file))
    assert "0.1250" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="other settings"):
        evaluate_shots.run(arguments(json=file, frames=4))


def test_what_cannot_be_measured_says_so(tmp_path):
    with pytest.raises(ConfigError, match="2 frames, or more"):
        evaluate_shots.run(arguments(frames=1))
    with pytest.raises(ConfigError, match="choose"):
        evaluate_shots.run(arguments(size=8))
    with pytest.raises(ConfigError, match="picture of every frame"):
        evaluate_shots.run(arguments(results=str(tmp_path)))
