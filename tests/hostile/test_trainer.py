"""Hostile files given to the commands of the trainer: no code run, nothing outside, no run ended, each is told."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.hostile import files
from trainer.__main__ import main


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """An empty working directory with a stand-in `gs` first on PATH; afterwards nothing was started or run."""
    outer = tmp_path / "a" / "b" / "c"
    outer.mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "gs").write_text(f'#!/bin/sh\necho "$@" >> "{tmp_path}/started"\nexit 1\n')
    (tmp_path / "bin" / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(outer)
    yield outer
    assert not (tmp_path / "started").exists() and not list(tmp_path.rglob(files.RAN))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "bin"]
    assert not list(tmp_path.rglob("out.png"))


def data_set(root: Path) -> Path:
    """Good pictures and hostile ones, their sketches alike, and an index of nonsense."""
    for part in ("color", "sketch", "mask"):
        (root / part).mkdir(parents=True)
        for number in range(3):
            (root / part / f"good{number}.png").write_bytes(files.png())
        for name, content in files.pictures().items():
            (root / part / name).write_bytes(content)
    (root / "data_index").mkdir()
    (root / "data_index" / "deep.json").write_text('{"a": ' + files.DEEP)
    return root


def test_prepare_and_doctor_list_every_picture(here, capsys):
    root = data_set(here / "set")
    assert main(["prepare", str(root), "--workers", "1", "--overwrite", "--sketch", "standard"]) == 0
    said = capsys.readouterr().out
    assert f"{len(files.pictures())} files cannot be used" in said and "3 pictures in color/" in said
    assert main(["doctor", str(root), "--workers", "1"]) == 1
    said = capsys.readouterr().out
    assert f"PROBLEM color: {len(files.pictures())} files cannot be read" in said and "deep.json" in said


def test_shards_are_listed_and_nothing_is_written_outside(here, capsys):
    root = here / "shards"
    (root / "color").mkdir(parents=True)
    files.shard(root / "color" / "0001.zip", "0001")
    (root / "color" / "0002.zip").write_bytes(b"PK\x05\x06" + b"\xff" * 18)
    assert main(["prepare", str(root), "--workers", "1", "--overwrite"]) == 0
    said = capsys.readouterr().out
    assert "1 pictures in color/" in said and "sketch/: 1 made" in said
    assert main(["doctor", str(root), "--workers", "1"]) == 1


def test_a_run_takes_other_pictures(here, capsys):
    root = data_set(here / "set")
    arguments = ["train", "--config", "demo-vae", "--data.folder", str(root), "--run.output", str(here / "run")]
    arguments += ["--run.steps", "2", "--optimizer.batch", "2", "--data.size", "64", "--data.workers", "0"]
    arguments += ["--system.precision", "fp32", "--report.sample_every", "0", "--data.crop", "0"]
    assert main(arguments) == 0, capsys.readouterr().err
    assert (here / "run" / "run.safetensors").is_file() and (here / "run" / "unreadable.jsonl").is_file()


def test_weight_files_are_told(here, capsys):
    names = files.weights(here / "weights")
    (here / "a.png").write_bytes(files.png())
    pictures = ["--sketch", "a.png", "--reference", "a.png", "--output", "b.png", "--size", "64"]
    for name in names:
        weights = str(here / "weights" / name)
        for arguments in (
            ["sample", "--checkpoint", weights, "--encoder", weights, *pictures],
            ["prepare", str(here), "--sketch", "manga_line", "--weights", weights, "--output", str(here / "set")],
            ["prepare", str(here), "--sketch", "--mask", "isnet", "--weights", weights, "--output", str(here / "set")],
            ["convert", weights, "--output", str(here / "c.safetensors")],
        ):
            assert main(arguments) == 2, (name, arguments)
            assert capsys.readouterr().err.startswith("error: "), (name, arguments)
    assert not (here / "b.png").exists() and not (here / "c.safetensors").exists()
