"""`python -m trainer demo-data`: what it writes, how it goes on, and what it refuses."""

import argparse
import json

import numpy as np
import pytest
from PIL import Image

from spread.crew import Crew
from trainer.commands import demo_data
from trainer.config import ConfigError
from trainer.world import (
    REGION_NAMES,
    pair,
    pose,
)


def read(path):
    with Image.open(path) as image:
        return np.array(image)


def test_demo_data_is_the_pairs(tmp_path):
    demo_data.write_demo_data(tmp_path / "set", 2, 64, seed=3, split="heldout", progress=False)
    item = pair(3_000_001, "heldout", 64)
    for key in item:
        folder = "color" if key == "picture" else key
        assert np.array_equal(read(tmp_path / "set" / folder / "00002.png"), item[key])
    manifest = json.loads((tmp_path / "set" / "manifest.json").read_text())
    assert manifest["count"] == 2 and manifest["split"] == "heldout" and manifest["regions"] == list(REGION_NAMES)


def test_demo_data_continues_and_grows(tmp_path):
    demo_data.write_demo_data(tmp_path, 3, 64, progress=False)
    kept, lost = tmp_path / "color" / "00001.png", tmp_path / "sketch" / "00002.png"
    before, content = kept.stat().st_mtime_ns, lost.read_bytes()
    lost.unlink()
    (tmp_path / "color" / "00009.part").write_bytes(b"half a picture")
    demo_data.write_demo_data(tmp_path, 4, 64, progress=False)
    assert kept.stat().st_mtime_ns == before
    assert lost.read_bytes() == content
    assert sorted(p.name for p in (tmp_path / "color").iterdir()) == [f"0000{i}.png" for i in (1, 2, 3, 4)]
    assert json.loads((tmp_path / "manifest.json").read_text())["count"] == 4


@pytest.mark.parametrize("poses", [1, 2])
def test_a_set_without_masks_gets_them_and_nothing_else(tmp_path, poses, monkeypatch):
    demo_data.write_demo_data(tmp_path, 2, 64, poses=poses, progress=False)
    old = [path for path in sorted(tmp_path.rglob("*.png")) if path.parent.name in ("color", "sketch", "regions")]
    new = [path for path in sorted(tmp_path.rglob("*.png")) if path.parent.name in demo_data.LABELS]
    assert len(new) == (6 if poses == 1 else 4)
    before, contents = [path.stat().st_mtime_ns for path in old], [path.read_bytes() for path in new]
    for path in new:
        path.unlink()
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    del manifest["background"]  # as sets of earlier versions
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    monkeypatch.setattr(demo_data, "_pictures", None)  # would be called to draw a picture
    demo_data.write_demo_data(tmp_path, 2, 64, poses=poses, progress=False)
    assert [path.stat().st_mtime_ns for path in old] == before
    assert [path.read_bytes() for path in new] == contents


def test_demo_data_of_one_kind_of_background(tmp_path):
    demo_data.write_demo_data(tmp_path / "busy", 1, 64, background="busy", progress=False)
    assert json.loads((tmp_path / "busy" / "manifest.json").read_text())["background"] == "busy"
    drawn = pair(0, "train", 64, background="busy")
    assert np.array_equal(read(tmp_path / "busy" / "color" / "00001.png"), drawn["picture"])
    with pytest.raises(ConfigError, match="background 'busy' there, 'mixed' asked for"):
        demo_data.write_demo_data(tmp_path / "busy", 1, 64, progress=False)
    with pytest.raises(ConfigError, match="Unknown background style"):
        demo_data.write_demo_data(tmp_path / "other", 1, 64, background="loud", progress=False)


@pytest.mark.parametrize("poses", [1, 2])
def test_drawings_of_the_figure_alone(tmp_path, poses):
    """The same set but for the lines of the background; drawn anew after a loss they are the same again."""
    for lines in ("all", "figure"):
        demo_data.write_demo_data(tmp_path / lines, 3, 96, poses=poses, progress=False, lines=lines)
    fewer = 0
    for path in sorted((tmp_path / "figure" / "sketch").iterdir()):
        files = (path, *(tmp_path / "all" / folder / path.name for folder in ("sketch", "mask")))
        bare, whole, mask = (np.asarray(Image.open(file)) for file in files)
        assert np.array_equal(bare[mask > 0], whole[mask > 0]) and (bare >= whole).all()
        fewer += (bare > whole).sum()
        color = (tmp_path / "all" / "color" / path.name).read_bytes()
        assert (tmp_path / "figure" / "color" / path.name).read_bytes() == color
        path.unlink()
        demo_data.write_demo_data(tmp_path / "figure", 3, 96, poses=poses, progress=False, lines="figure")
        assert np.array_equal(np.asarray(Image.open(path)), bare)
    assert fewer > 100
    with pytest.raises(ConfigError, match="lines 'figure' there, 'all' asked for"):
        demo_data.write_demo_data(tmp_path / "figure", 3, 96, poses=poses, progress=False)


def test_demo_data_poses_share_an_appearance(tmp_path):
    demo_data.write_demo_data(tmp_path, 1, (96, 64), poses=3, progress=False)
    assert sorted(p.name for p in (tmp_path / "color").iterdir()) == ["00001_0.png", "00001_1.png", "00001_2.png"]
    assert not (tmp_path / "reference").exists()
    assert read(tmp_path / "color" / "00001_2.png").shape == (96, 64, 3)
    assert np.array_equal(read(tmp_path / "sketch" / "00001_1.png"), pose(0, 1, "train", (96, 64)).sketch)


def test_demo_data_with_several_processes(tmp_path):
    demo_data.write_demo_data(tmp_path, 3, 64, crew=Crew(2), progress=False)
    assert np.array_equal(read(tmp_path / "color" / "00003.png"), pair(2, "train", 64)["picture"])


@pytest.mark.parametrize(
    "change, message",
    [
        ({"seed": 1}, "other settings.*seed 0 there, 1 asked for"),
        ({"size": 80}, "height 64 there, 80 asked for"),
        ({"split": "heldout"}, "'train' there"),
        ({"split": "test"}, "Unknown split"),
        ({"size": 4000}, "outside 32..2048"),
        ({"count": 0}, "count is 0"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_demo_data_refuses_what_does_not_fit(tmp_path, change, message):
    demo_data.write_demo_data(tmp_path, 1, 64, progress=False)
    with pytest.raises(ConfigError, match=message):
        demo_data.write_demo_data(**({"folder": tmp_path, "count": 1, "size": 64, "progress": False} | change))


def test_demo_data_never_mixes_with_other_pictures(tmp_path):
    (tmp_path / "color").mkdir()
    (tmp_path / "color" / "mine.png").write_bytes(b"")
    with pytest.raises(ConfigError, match="empty folder"):
        demo_data.write_demo_data(tmp_path, 1, 64, progress=False)


def test_demo_data_command(tmp_path, capsys):
    parser = argparse.ArgumentParser()
    demo_data.add_arguments(parser)
    arguments = ["--output", str(tmp_path / "set"), "--count", "1", "--size", "96x64", "--workers", "1"]
    demo_data.run(parser.parse_args(arguments))
    assert "1 characters" in capsys.readouterr().out
    assert read(tmp_path / "set" / "color" / "00001.png").shape == (96, 64, 3)
    with pytest.raises(SystemExit):
        parser.parse_args(["--output", "x", "--count", "1", "--size", "big"])


def test_demo_data_with_crowded_references(tmp_path):
    crowd = {"bystanders": 2, "shapes": 3, "crowded_share": 0.5}
    demo_data.write_demo_data(tmp_path, 2, 64, progress=False, **crowd)
    lost = [tmp_path / name / "00002.png" for name in ("reference_mask", "reference_regions")]
    contents = [path.read_bytes() for path in lost]
    for path in lost:
        path.unlink()
    demo_data.write_demo_data(tmp_path, 2, 64, progress=False, **crowd)
    assert [path.read_bytes() for path in lost] == contents
    assert np.array_equal(read(tmp_path / "reference/00002.png"), pair(1, "train", 64, **crowd)["reference"])
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert {key: manifest[key] for key in crowd} == crowd
    with pytest.raises(ConfigError, match="bystanders 2 there, 0 asked for"):
        demo_data.write_demo_data(tmp_path, 2, 64, progress=False)
    with pytest.raises(ConfigError, match="leave --poses at 1"):
        demo_data.write_demo_data(tmp_path / "other", 2, 64, poses=2, progress=False, **crowd)
    with pytest.raises(ConfigError, match="shapes is 9"):
        demo_data.write_demo_data(tmp_path / "other", 2, 64, progress=False, shapes=9)
