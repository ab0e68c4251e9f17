"""`python -m trainer prepare`: sketches, masks and the index of folders and shards; resuming; bad input."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import save_file

from colorize.pictures import images
from colorize.pictures.isnet import STAGES, ISNet
from colorize.sketch.extractors import lineart
from spread.crew import Crew
from tests import tiny_extractors
from tests.tiny import randomised
from trainer.__main__ import main
from trainer.commands.prepare import prepare
from trainer.config import ConfigError, Data
from trainer.data.folder import FolderDataset
from trainer.prepare import layout, methods
from trainer.prepare.journal import Journal

STANDARD = methods.sketch_method("standard")
XDOG = methods.sketch_method("xdog")


def drawn(number: int, size: tuple[int, int] = (48, 40)) -> Image.Image:
    image = Image.new("RGB", size, (200, 160 + 5 * number, 120))
    ImageDraw.Draw(image).ellipse((8, 8, 30 + number, 30), fill=(90, 30, 200), outline=(0, 0, 0), width=2)
    return image


@pytest.fixture
def folder(tmp_path) -> Path:
    """Three pictures in color/."""
    root = tmp_path / "set"
    (root / "color").mkdir(parents=True)
    for number in range(3):
        drawn(number).save(root / "color" / f"{number}.png")
    return root


@pytest.fixture
def shards(tmp_path) -> Path:
    """Two shards of two pictures; one is a JPEG."""
    root = tmp_path / "shards"
    (root / "color").mkdir(parents=True)
    for shard in ("0001", "0002"):
        with zipfile.ZipFile(root / "color" / f"{shard}.zip", "w") as archive:
            for number, suffix in enumerate(("png", "jpg")):
                content = io.BytesIO()
                drawn(number + int(shard)).save(content, format={"png": "PNG", "jpg": "JPEG"}[suffix])
                archive.writestr(f"{shard}/{number}.{suffix}", content.getvalue())
    return root


def make(root: Path, *sketches, **options):
    return prepare(root, sketches or (STANDARD,), progress=False, **options)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


# -- what is written ---------------------------------------------------------------------------------------------------


def test_sketches_are_those_of_the_extractor_dark_on_white(folder):
    report = make(folder)
    assert report.made == {"sketch": 3} and report.pictures == {"color": 3} and report.complete
    for number in range(3):
        sketch = pixels(folder / "sketch" / f"{number}.png")
        values = torch.from_numpy(np.array(drawn(number))).permute(2, 0, 1)[None].float() / 127.5 - 1
        expected = ((images.invert(lineart.standard(values))[0, 0] + 1) * 127.5).round().to(torch.uint8).numpy()
        assert sketch.dtype == np.uint8 and np.array_equal(sketch, expected)
        assert sketch[0, 0] == 255 and sketch.min() < 128


def test_what_is_written_is_a_training_set(folder):
    make(folder, STANDARD, XDOG)
    dataset = FolderDataset(Data(folder=str(folder), size=64, reference="self"))
    assert len(dataset) == 3 and not dataset.problems and dataset.styles == ["sketch", "sketch_xdog"]
    indexed = FolderDataset(Data(folder=str(folder), size=64, reference="self", index=("index",)))
    assert indexed.items[0].size == (48, 40)
    assert indexed[0]["sketch"].shape == (1, 64, 64)


def test_index_with_scores_tags_and_captions(folder, tmp_path):
    (folder / "color" / "2.txt").write_text("1girl,\nsolo", encoding="utf-8")
    make(folder, scores={"0": 6.5}, tags={"1.png": "青い空"})
    index = json.loads((folder / "data_index" / "index.json").read_text(encoding="utf-8"))
    assert index == {
        "0.png": {"width": 48, "height": 40, "exist_sketch": True, "aesthetic_score": 6.5},
        "1.png": {"width": 48, "height": 40, "exist_sketch": True, "tags": "青い空"},
        "2.png": {"width": 48, "height": 40, "exist_sketch": True, "tags": "1girl, solo"},
    }


def test_plain_folders_become_sets_whose_groups_are_the_subfolders(tmp_path):
    plain, output = tmp_path / "pictures", tmp_path / "set"
    for name in ("anna/1", "anna/2", "bob/1"):
        (plain / name).parent.mkdir(parents=True, exist_ok=True)
        drawn(int(name[-1])).save(plain / f"{name}.png")
    (plain / "notes.md").write_text("no picture")
    make(plain, output=output)
    found = sorted(p.relative_to(output / "color").as_posix() for p in (output / "color").rglob("*.png"))
    assert found == ["anna/1.png", "anna/2.png", "bob/1.png"]
    assert len(FolderDataset(Data(folder=str(output), size=64, reference="group")).groups) == 2
    listed = json.loads((output / "data_index" / "index.json").read_text(encoding="utf-8"))
    assert sorted(listed) == found and all(entry["exist_sketch"] for entry in listed.values())
    assert not (plain / "color").exists()
    make(plain)  # in the folder itself: what it writes is not taken for pictures the next time
    drawn(4).save(plain / "anna" / "3.png")
    assert make(plain).pictures == {"color": 4} and len(list((plain / "color").rglob("*.png"))) == 4


def test_two_files_of_one_name_are_reported(tmp_path):
    (tmp_path / "a").mkdir()
    drawn(0).save(tmp_path / "a" / "b.png")
    drawn(1).save(tmp_path / "a" / "b.webp")
    report = make(tmp_path, output=tmp_path / "set")
    assert report.pictures == {"color": 1} and "has the name of" in next(iter(report.unreadable.values()))


# -- shards ------------------------------------------------------------------------------------------------------------


def test_shards_get_shards_with_the_same_members(shards):
    report = make(shards, STANDARD, XDOG)
    assert report.made == {"sketch": 4, "sketch_xdog": 4}
    for part in ("sketch", "sketch_xdog"):
        with zipfile.ZipFile(shards / part / "0002.zip") as archive:
            assert sorted(archive.namelist()) == ["0002/0.png", "0002/1.jpg"] and archive.testzip() is None
            with Image.open(io.BytesIO(archive.read("0002/1.jpg"))) as image:
                assert image.format == "PNG" and image.mode == "L" and image.size == (48, 40)
    assert not (shards / ".colorize" / "spool").exists()
    assert len(FolderDataset(Data(folder=str(shards), size=64, reference="self"))) == 4
    index = json.loads((shards / "data_index" / "index.json").read_text())
    assert list(index) == ["0001/0.png", "0001/1.jpg", "0002/0.png", "0002/1.jpg"]
    assert make(shards, STANDARD, XDOG).up_to_date == {"sketch": 4, "sketch_xdog": 4}


def test_a_shard_that_was_cut_short_goes_on(shards, monkeypatch):
    """After a kill the collected files of the open shard are packed; members that were packed stay."""
    real, calls = layout.write_result, []

    def failing(*arguments):
        calls.append(arguments)
        if len(calls) == 4:
            raise SystemExit("killed")
        real(*arguments)

    monkeypatch.setattr("trainer.prepare.work.write_result", failing)
    monkeypatch.setattr(layout.ShardSet, "close", lambda self: None)
    with pytest.raises(SystemExit):
        make(shards)
    monkeypatch.undo()
    assert (shards / ".colorize" / "spool").exists()
    report = make(shards)
    assert report.made == {"sketch": 1} and report.up_to_date == {"sketch": 3}
    with zipfile.ZipFile(shards / "sketch" / "0002.zip") as archive:
        assert len(archive.namelist()) == 2


def test_damaged_and_misnamed_shards_are_listed(shards):
    (shards / "color" / "0001.zip").write_bytes(b"no zip")
    shutil.copy(shards / "color" / "0002.zip", shards / "color" / "0003.zip")
    report = make(shards)
    assert report.made == {"sketch": 2}
    reasons = {Path(file).name: reason for file, reason in report.unreadable.items()}
    assert "zip" in reasons["0001.zip"] and "do not lie in a folder 0003/" in reasons["0003.zip"]


# -- again -------------------------------------------------------------------------------------------------------------


def test_only_what_changed_is_made_again(folder):
    make(folder)
    assert make(folder).up_to_date == {"sketch": 3}
    drawn(9).save(folder / "color" / "1.png")
    (folder / "sketch" / "2.png").unlink()
    assert make(folder).made == {"sketch": 2}
    finer = methods.sketch_method("standard", side=32)
    assert make(folder, finer).made == {"sketch": 3}  # other options
    assert make(folder, finer).made == {"sketch": 0}


def test_your_own_files_are_kept(folder):
    (folder / "sketch").mkdir()
    Image.new("L", (48, 40), 7).save(folder / "sketch" / "1.png")
    shutil.copy(folder / "sketch" / "1.png", folder / "sketch" / "2.jpg")
    report = make(folder, STANDARD)
    assert "sketch" not in report.made and report.made == {"sketch_standard": 3}  # sketch/ is taken
    with Journal(folder / ".colorize" / "prepare.sqlite") as journal:
        journal.note_folder("xdog", "sketch")
    assert make(folder, XDOG).kept == {"sketch": 2}
    assert pixels(folder / "sketch" / "1.png").max() == 7
    assert make(folder, XDOG, overwrite=True).made == {"sketch": 2}
    assert not (folder / "sketch" / "2.jpg").exists()  # replaced by 2.png


def test_results_are_known_without_the_journal(folder):
    """A kill between a file and its entry must not turn it into somebody else's."""
    make(folder)
    for path in (folder / ".colorize").glob("prepare.sqlite*"):
        path.unlink()
    with Journal(folder / ".colorize" / "prepare.sqlite") as journal:
        journal.note_folder("standard", "sketch")
    assert make(folder).up_to_date == {"sketch": 3}


def test_ctrl_c_keeps_what_is_done(folder, monkeypatch):
    real, calls = layout.write_result, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(*arguments)

    monkeypatch.setattr("trainer.prepare.work.write_result", interrupted)
    report = make(folder)
    assert not report.complete and report.made == {"sketch": 1}
    assert len(json.loads((folder / "data_index" / "index.json").read_text())) == 1
    monkeypatch.undo()
    assert make(folder).made == {"sketch": 2}


def test_two_processes_make_the_same(folder, tmp_path):
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    make(folder)
    assert make(copy, crew=Crew(2)).made == {"sketch": 3}
    for number in range(3):
        name = f"sketch/{number}.png"
        assert np.array_equal(pixels(folder / name), pixels(copy / name))


def test_files_that_cannot_be_read_are_listed_and_looked_at_again_when_they_change(folder):
    broken = folder / "color" / "1.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    (folder / "color" / "9.png").write_bytes(b"")
    report = make(folder)
    assert report.made == {"sketch": 2} and set(report.unreadable) == {str(broken), str(folder / "color" / "9.png")}
    assert len(make(folder).unreadable) == 2
    assert len(json.loads((folder / "prepare_report.json").read_text())["unreadable"]) == 2
    broken.write_bytes(whole)
    assert make(folder).made == {"sketch": 1}


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "I;16"])
@pytest.mark.parametrize("size", [(1, 1), (3, 200)])
def test_any_picture(tmp_path, mode, size):
    (tmp_path / "color").mkdir()
    Image.new(mode, size).save(tmp_path / "color" / "a.png")
    assert make(tmp_path).made == {"sketch": 1}
    assert pixels(tmp_path / "sketch" / "a.png").shape == size[::-1]


# -- networks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", tiny_extractors.NAMES)
def test_networks_are_found_by_file_and_by_folder(folder, tmp_path, name):
    stem = Path(methods.NETWORK_FILES[name]).stem
    weights = tmp_path / "weights" / f"{stem}.safetensors"
    weights.parent.mkdir()
    save_file(tiny_extractors.weights(name), weights)
    by_folder = methods.sketch_method(name, [str(weights.parent)], side=64)
    by_file = methods.sketch_method(name, [str(weights)], side=64)
    assert by_folder == by_file and make(folder, by_file).made == {"sketch": 3}
    moved = Path(shutil.copy(weights, tmp_path / weights.name))
    assert methods.sketch_method(name, [str(moved)], side=64).fingerprint == by_file.fingerprint
    torch.save(tiny_extractors.weights(name, seed=1), tmp_path / f"{stem}.pth")
    other = methods.sketch_method(name, [str(tmp_path / f"{stem}.pth")], side=64)
    assert other.fingerprint != by_file.fingerprint and make(folder, other).made == {"sketch": 3}


@pytest.fixture
def segmenter(tmp_path) -> str:
    weights = randomised(ISNet({stage: (2, 4) for stage in STAGES}, stem=4))
    weights = {name: v.abs() + 0.5 if name.endswith("running_var") else v for name, v in weights.items()}
    save_file(weights, tmp_path / "isnetis.safetensors")
    return str(tmp_path / "isnetis.safetensors")


def test_masks_of_pictures_and_references(folder, segmenter):
    shutil.copytree(folder / "color", folder / "reference")
    soft = methods.mask_method("isnet", [segmenter], size=64, threshold=0.0)
    report = make(folder, mask=soft)
    assert report.made == {"sketch": 3, "mask": 3, "reference_mask": 3} and report.pictures["reference"] == 3
    values = pixels(folder / "mask" / "0.png")
    assert values.shape == (40, 48) and len(np.unique(values)) > 2
    hard = methods.mask_method("isnet", [segmenter], size=64, threshold=float(values.mean()) / 255)
    assert make(folder, mask=hard).made == {"sketch": 0, "mask": 3, "reference_mask": 3}
    assert set(np.unique(pixels(folder / "mask" / "0.png"))) == {0, 255}


def test_missing_and_wrong_weights_say_file_place_and_address(segmenter, tmp_path):
    with pytest.raises(ConfigError, match=r"model\.pth.*not given.*--weights.*https://.*standard and xdog work"):
        methods.sketch_method("sketchkeras")
    with pytest.raises(ConfigError, match=r"netG\.pth.*not in .*isnetis"):
        methods.sketch_method("anime2sketch", [segmenter])
    with pytest.raises(ConfigError, match=r"isnetis\.safetensors.*https://"):
        methods.mask_method("isnet")
    with pytest.raises(ConfigError, match="nowhere does not exist"):
        methods.sketch_method("sketchkeras", [str(tmp_path / "nowhere")])
    with pytest.raises(ConfigError, match="choose among standard, xdog"):
        methods.sketch_method("canny")
    torch.save({"a": object()}, tmp_path / "model.pth")
    with pytest.raises(ConfigError, match="not a plain tensor file"):
        methods.sketch_method("sketchkeras", [str(tmp_path)])


# -- the command and bad input -----------------------------------------------------------------------------------------


def test_command(folder, tmp_path, capsys):
    (tmp_path / "scores.csv").write_text("file,score\n0,6.1\n2.png,5\n")
    command = ["prepare", str(folder), "--sketch", "standard", "xdog", "--xdog-sigma", "0.8", "--workers", "1"]
    assert main([*command, "--scores", str(tmp_path / "scores.csv")]) == 0
    out = capsys.readouterr().out
    assert "3 pictures in color/" in out and "sketch_xdog/: 3 made" in out
    index = json.loads((folder / "data_index" / "index.json").read_text())
    assert [entry.get("aesthetic_score") for entry in index.values()] == [6.1, None, 5.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "is no folder"),
        (["empty"], "holds no pictures"),
        (["set", "--output", "other"], "training set already"),
        (["set", "--workers", "-1"], "choose 1 or more"),
        (["set", "--mask-threshold", "1"], "--mask-threshold"),
        (["set", "--scores", "bad.json"], "which is no number"),
        (["set", "--scores", "missing.csv"], "cannot be read"),
        (["set", "--sketch", "canny"], "Unknown sketch method 'canny'"),
    ],
)
def test_bad_input(folder, tmp_path, monkeypatch, capsys, arguments, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.json").write_text('{"0": "good"}')
    monkeypatch.chdir(tmp_path)
    assert main(["prepare", *arguments]) == 2
    assert message in capsys.readouterr().err
