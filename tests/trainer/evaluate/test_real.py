"""`evaluate --set real` without its packages: a set of tiny pictures stands in for the benchmark."""

from __future__ import annotations

import json

import pytest
import torch

from trainer.__main__ import main
from trainer.art import benchmark
from trainer.evaluate import real
from trainer.metrics.features import feature_similarity


def test_the_command_measures_every_set(pictures, v1_file, frozen, tmp_path, monkeypatch, capsys):
    (tmp_path / "benchmark").mkdir()
    for name in ("real", "micah"):
        (tmp_path / "benchmark" / name).symlink_to(pictures, target_is_directory=True)
    monkeypatch.setattr(benchmark, "SETS", ("real", "micah"))
    monkeypatch.setattr(real, "prepared", lambda folder, packages: folder)
    arguments = ["--checkpoint", v1_file, "--encoder", frozen["encoder"], "--packages", str(tmp_path / "packages")]
    arguments += ["--output", str(tmp_path / "out"), "--steps", "1", "--count", "4", "--batch", "2"]
    assert main(["evaluate", "--set", "real", *arguments]) == 0
    printed = capsys.readouterr().out
    assert "real, vanilla at 2" in printed and "micah, vanilla at 2" in printed
    found = json.loads((tmp_path / "out/report.json").read_text())["real"]
    numbers = found["real"]["vanilla at 2"]
    assert set(found) == {"real", "micah"} and numbers["pairs"] == 4
    assert "feature_similarity" not in numbers  # neither a file nor an encoder that has the features
    low, high = numbers["psnr_95"]
    assert low <= numbers["psnr"] <= high
    assert numbers["ratio"] == pytest.approx(numbers["region_error"] / numbers["region_error_without_reference"])
    assert (tmp_path / "out/real.png").is_file() and (tmp_path / "out/micah.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to measure on"),
        (["--set", "real", "--mode", "masked"], "no masks"),
        (["--set", "real", "--data", "nowhere"], "data.folder 'nowhere' does not exist"),  # not after the real sets
    ],
)
def test_mistakes_are_told(arguments, message, capsys):
    assert main(["evaluate", "--checkpoint", "a", "--encoder", "b", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_similarity_is_the_cosine_of_pooled_features():
    """With the colours themselves for features: red (1, -1, -1) and blue (-1, -1, 1) have the cosine -1/3."""
    similarity = feature_similarity(lambda pictures: [pictures])
    red, blue = (torch.tensor(c).view(1, 3, 1, 1).expand(1, 3, 40, 30) for c in ([1.0, -1, -1], [-1.0, -1, 1]))
    assert similarity(red, red).item() == pytest.approx(1, abs=1e-5)
    assert similarity(red, blue).item() == pytest.approx(-1 / 3, abs=1e-5)
