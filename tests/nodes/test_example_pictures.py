"""The templates' pictures in ComfyUI's input folder."""

import logging
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def offer(pack):
    return pack.module("nodes.example_pictures").offer


def test_pictures_are_offered_once_and_nothing_is_overwritten(offer, tmp_path):
    source, target = tmp_path / "examples", tmp_path / "input"
    source.mkdir()
    for name in ("sketch.png", "reference.png", "shot.mp4", "notes.txt"):
        (source / name).write_bytes(name.encode())
    target.mkdir()
    (target / "colorize_sketch.png").write_bytes(b"the user's own")
    assert offer(str(source), str(target)) == ["colorize_reference.png", "colorize_shot.mp4"]
    assert (target / "colorize_sketch.png").read_bytes() == b"the user's own"
    assert (target / "colorize_reference.png").read_bytes() == b"reference.png"
    assert offer(str(source), str(target)) == []
    names = sorted(file.name for file in target.iterdir())
    assert names == ["colorize_reference.png", "colorize_shot.mp4", "colorize_sketch.png"]


def test_a_folder_that_cannot_be_written_costs_only_the_pictures(offer, tmp_path, caplog):
    (tmp_path / "input").write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING):
        assert offer(str(ROOT / "workflows" / "examples"), str(tmp_path / "input")) == []
    assert "Copy them by hand" in caplog.text


def test_loading_the_pack_offers_every_picture_of_the_templates(pack):
    import folder_paths

    there = {file.name for file in Path(folder_paths.get_input_directory()).iterdir()}
    assert {"colorize_" + file.name for file in (ROOT / "workflows" / "examples").iterdir()} <= there
