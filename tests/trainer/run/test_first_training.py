"""The first training of docs/TRAINING.md, with bundled files only: pictures, lines, masks, steps, a model."""

from __future__ import annotations

from pathlib import Path

import torch

from colorize import families
from trainer import config as configuration
from trainer.__main__ import main
from trainer.models import checkpoint
from trainer.run import loop
from trainer.stages import table

ROOT = Path(__file__).parents[3]


def test_from_pictures_to_a_model(tmp_path, monkeypatch):
    """Two steps of the preset my-character-small on four pictures; nothing but the repository and its commands."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").symlink_to(ROOT / "models")
    drawn = ["demo-data", "--output", "data/drawn", "--count", "1", "--poses", "4", "--size", "64", "--workers", "1"]
    assert main([*drawn, "--background", "plain"]) == 0
    assert (
        main(["prepare", "data/drawn/color", "--output", "data/my-character", "--mask", "drawing", "--workers", "1"])
        == 0
    )
    small = ["--data.size", "64", "--run.steps", "2", "--optimizer.batch", "2", "--report.sample_steps", "1"]
    command = ["train", "--config", "my-character-small", *small, "--report.sample_count", "1"]
    assert main(command) == 0
    run = tmp_path / "runs" / "my-character-small"
    assert [path.name for path in sorted((run / "samples").iterdir())] == ["step-00000000.png", "step-00000002.png"]
    assert main(["convert", str(run), "--output", "my_character.safetensors"]) == 0
    assert families.detect(*checkpoint.read_tensors(Path("my_character.safetensors"))).name == "v1.5"


def test_the_preset_wants_no_file_that_is_not_bundled():
    config = table.load("my-character-small")
    named = [getattr(config.model, key) for key in ("init", "init_from", "vae", "encoder", "tagger")]
    assert all((ROOT / path).is_file() for path in named if path)


def test_a_look_before_the_first_step_changes_nothing(values, pictures, tmp_path):
    values["data"] |= {"holdout": str(pictures), "cache": True}
    values["run"]["steps"] = 2
    values["report"] |= {"validate_every": 2, "validate_count": 2, "validate_bins": 2, "sample_count": 1}
    files = []
    for name, look in (("without", False), ("with", True)):
        values["run"]["output"] = str(tmp_path / name)
        files.append(loop.train(configuration.build(values | {"report": values["report"] | {"sample_at_start": look}})))
    ours, theirs = (checkpoint.read_tensors(file)[0] for file in files)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    told = (tmp_path / "with" / "validation.jsonl").read_text().splitlines()
    assert len(told) == 2 and '"step": 0' in told[0]
    assert (tmp_path / "with" / "samples" / "step-00000000.png").is_file()
    assert checkpoint.best(tmp_path / "with").name == "step-00000002"
