"""Folders as people keep them: links, kinds that are not read, pictures that were deleted since."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from trainer.__main__ import main
from trainer.commands.doctor import examine
from trainer.commands.prepare import prepare
from trainer.config import ConfigError
from trainer.data.folder import FolderDataset
from trainer.prepare import methods

STANDARD = methods.sketch_method("standard")
links = pytest.mark.skipif(sys.platform == "win32", reason="links need rights on Windows")


def make(root: Path, **options):
    return prepare(root, (STANDARD,), progress=False, **options)


def draw(path: Path, number: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (48, 40), (200, 160 + 5 * number, 120))
    ImageDraw.Draw(image).ellipse((8, 8, 30 + number, 30), fill=(90, 30, 200), outline=(0, 0, 0), width=2)
    image.save(path)


@pytest.fixture
def plain(tmp_path) -> Path:
    """Three pictures in a plain folder, one of them in a folder of it."""
    for number, name in enumerate(("0.png", "1.png", "anna/2.png")):
        draw(tmp_path / "plain" / name, number)
    return tmp_path / "plain"


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


# -- links -------------------------------------------------------------------------------------------------------------


@links
def test_relative_links_are_followed_and_broken_ones_told(plain, tmp_path):
    """Regression: a hard link of a relative link led nowhere, and the picture was gone without a word."""
    draw(tmp_path / "elsewhere" / "a.png", 5)
    draw(tmp_path / "elsewhere" / "folder" / "b.png", 6)
    (plain / "linked.png").symlink_to(Path("..", "elsewhere", "a.png"))
    (plain / "folder").symlink_to(Path("..", "elsewhere", "folder"))
    (plain / "loop").symlink_to(Path("..", "plain"))
    (plain / "broken.png").symlink_to("nowhere.png")
    report = make(plain, output=tmp_path / "set")
    assert report.pictures == {"color": 5} and report.made == {"sketch": 5}
    assert names(tmp_path / "set" / "color") == ["0.png", "1.png", "anna/2.png", "folder/b.png", "linked.png"]
    assert not any(path.is_symlink() for path in (tmp_path / "set" / "color").rglob("*"))
    assert "link to a file that is not there" in report.unreadable[str(plain / "broken.png")]


@links
def test_links_in_color_are_followed_and_broken_ones_told(tmp_path):
    draw(tmp_path / "elsewhere" / "a.png")
    (tmp_path / "set" / "color").mkdir(parents=True)
    (tmp_path / "set" / "color" / "anna").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "color" / "broken.png").symlink_to("nowhere.png")
    report = make(tmp_path / "set")
    assert report.pictures == {"color": 1}
    assert "link to a file" in report.unreadable[str(tmp_path / "set" / "color" / "broken.png")]


@links
def test_a_set_without_a_picture_is_no_success(tmp_path, capsys):
    (tmp_path / "set" / "color").mkdir(parents=True)
    (tmp_path / "set" / "color" / "broken.png").symlink_to("nowhere.png")
    assert main(["prepare", str(tmp_path / "set"), "--workers", "1"]) == 1
    assert "0 pictures in color/" in capsys.readouterr().out


# -- kinds that are not read -------------------------------------------------------------------------------------------


def test_kinds_that_are_not_read_are_told(plain, tmp_path):
    for name in ("scan.tiff", "anna/moving.GIF", "phone.heic"):
        (plain / name).write_bytes(b"some picture")
    report = make(plain, output=tmp_path / "set")
    assert sorted(report.unreadable) == [str(plain / n) for n in ("anna/moving.GIF", "phone.heic", "scan.tiff")]
    assert "save it as PNG or JPEG" in report.unreadable[str(plain / "scan.tiff")]
    (tmp_path / "set" / "color" / "later.tif").write_bytes(b"some picture")
    assert str(tmp_path / "set" / "color" / "later.tif") in make(tmp_path / "set").unreadable
    assert any("later.tif" in finding.examples[0] for finding in examine(tmp_path / "set", progress=False).findings)


def test_training_tells_kinds_that_are_not_read(plain, tmp_path):
    from trainer.config import Data

    make(plain, output=tmp_path / "set")
    (tmp_path / "set" / "color" / "later.tif").write_bytes(b"some picture")
    dataset = FolderDataset(Data(folder=str(tmp_path / "set"), size=64, reference="self"))
    assert any("1 files in color/ are of kinds that are not read" in problem for problem in dataset.problems)


def test_a_folder_of_nothing_else_is_refused_with_the_reason(tmp_path):
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "phone.heic").write_bytes(b"some picture")
    with pytest.raises(ConfigError, match="holds no pictures.*but 1 files such as .*phone.heic.*save it as PNG"):
        make(tmp_path / "plain", output=tmp_path / "set")


# -- deleted pictures --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inside", [False, True])
def test_what_is_deleted_at_the_source_leaves_the_set(plain, tmp_path, inside):
    """Its sketch too; the picture itself is kept aside, for nobody's last copy shall be lost."""
    root = plain if inside else tmp_path / "set"
    options = {} if inside else {"output": root}
    make(plain, **options)
    draw(root / "color" / "own.png", 7)
    (plain / "anna" / "2.png").unlink()
    report = make(plain, **options)
    assert report.gone == ["anna/2.png"] and report.deleted == {"sketch": 1} and report.pictures == {"color": 3}
    assert names(root / "color") == ["0.png", "1.png", "own.png"]
    assert names(root / "sketch") == ["0.png", "1.png", "own.png"]
    assert names(root / ".colorize" / "removed") == ["anna/2.png"]
    assert sorted(json.loads((root / "data_index" / "index.json").read_text())) == ["0.png", "1.png", "own.png"]
    assert "anna/2.png" in "\n".join(report.lines())


def test_a_source_that_is_not_there_takes_nothing_away(plain, tmp_path):
    """A drive that is not mounted is an empty folder."""
    make(plain, output=tmp_path / "set")
    for path in (plain / "0.png", plain / "1.png", plain / "anna" / "2.png"):
        path.unlink()
    report = make(plain, output=tmp_path / "set")
    assert report.gone == [] and report.pictures == {"color": 3}


def test_results_of_deleted_pictures_go_and_your_own_files_stay(tmp_path):
    for number in range(3):
        draw(tmp_path / "color" / f"{number}.png", number)
    make(tmp_path)
    Image.new("L", (48, 40), 7).save(tmp_path / "sketch" / "own.png")
    (tmp_path / "color" / "1.png").unlink()
    report = make(tmp_path)
    assert report.deleted == {"sketch": 1} and report.orphans == {"sketch": 1}
    assert names(tmp_path / "sketch") == ["0.png", "2.png", "own.png"]


def test_sketches_of_a_style_below_others_are_no_orphans(tmp_path):
    for number in range(2):
        draw(tmp_path / "color" / f"{number}.png", number)
        draw(tmp_path / "sketch" / "pencil" / f"{number}.png", number)
    make(tmp_path)
    again = make(tmp_path)
    assert not again.deleted and not again.orphans and again.up_to_date == {"sketch/standard": 2}
