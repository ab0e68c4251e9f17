"""Pictures and shards of strangers: nothing is run, nothing is written outside, one bad file ends no run."""

from __future__ import annotations

import io
import os
import stat
import struct
import subprocess
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from trainer.commands.doctor import examine
from trainer.commands.prepare import prepare
from trainer.config import ConfigError, Data
from trainer.data import decode, sources
from trainer.data.folder import FolderDataset
from trainer.prepare import methods, work

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\nshowpage\n%%EOF\n"
STANDARD = methods.sketch_method("standard")


def png(size: tuple[int, int] = (32, 32), mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, "PNG")
    return buffer.getvalue()


def huge_png(side: int) -> bytes:
    """A one-bit PNG of side x side black pixels, in a few kilobytes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    row = b"\0" * (1 + (side + 7) // 8)
    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.fixture
def pictures(tmp_path) -> Path:
    root = tmp_path / "set"
    for part in ("color", "sketch"):
        (root / part).mkdir(parents=True)
        (root / part / "good.png").write_bytes(png())
    return root


@pytest.fixture
def ghostscript(tmp_path, monkeypatch) -> Path:
    """A stand-in `gs` first on PATH; the file it leaves when somebody starts it."""
    started = tmp_path / "started"
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "gs").write_text(f'#!/bin/sh\n[ "$1" = --version ] && exit 0\necho "$@" >> "{started}"\nexit 1\n')
    (folder / "gs").chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return started


@pytest.mark.skipif(os.name == "nt", reason="the stand-in is a shell script")
def test_no_program_is_started_for_a_file_that_calls_itself_png(pictures, ghostscript, monkeypatch):
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # looked for again
    with pytest.raises((OSError, subprocess.CalledProcessError)), Image.open(io.BytesIO(EPS)) as image:
        image.load()
    assert ghostscript.is_file()  # the stand-in would have been found
    ghostscript.unlink()
    for part in ("color", "sketch"):
        (pictures / part / "evil.png").write_bytes(EPS)
    report = prepare(pictures, (STANDARD,), overwrite=True, progress=False)
    assert [Path(file).name for file in report.unreadable] == ["evil.png"]
    assert "no picture of a known kind" in next(iter(report.unreadable.values()))
    assert not examine(pictures, progress=False).healthy
    dataset = FolderDataset(Data(folder=str(pictures), size=64, reference="self"), ("color", "sketch"))
    assert {dataset[n]["index"] for n in range(6)} == {1}  # the other picture took its place
    with pytest.raises(OSError):
        decode.read_rgb(io.BytesIO(EPS))
    assert not ghostscript.exists()


def test_pictures_have_one_way_in():
    """Only `decode.open_picture` calls Pillow's open: it alone names the formats."""
    root = Path(decode.__file__).resolve().parents[1]
    assert [file.name for file in root.rglob("*.py") if "Image.open(" in file.read_text()] == ["decode.py"]


def test_a_huge_picture_is_one_pictures_failure(pictures):
    (pictures / "color" / "huge.png").write_bytes(huge_png(13000))
    report = prepare(pictures, (STANDARD,), overwrite=True, progress=False)
    assert report.made == {"sketch_standard": 1}
    ((file, reason),) = report.unreadable.items()
    assert file.endswith("huge.png") and "13000x13000 pixels are more than the 89 million" in reason


def test_a_picture_one_pixel_wide_does_not_become_millions_of_rows():
    with pytest.raises(ValueError, match="pixels are more than"):
        decode.read_resized(io.BytesIO(png((1, 60000))), lambda size: decode.covering(size, (512, 512)), decode.LANCZOS)
    with pytest.raises(ValueError, match="pixels are more than"):
        decode.cover(Image.new("L", (1, 60000)), 512)


def test_a_picture_that_the_user_names_is_told(tmp_path):
    (tmp_path / "a.png").write_bytes(EPS)
    with pytest.raises(ConfigError, match="a.png cannot be read as a picture .*save it again as PNG"):
        decode.read_given(tmp_path / "a.png", 64)


def test_a_method_that_fails_on_one_picture_goes_on_with_the_next_and_tries_again(pictures, monkeypatch):
    (pictures / "color" / "other.png").write_bytes(png((48, 32)))
    real = methods.load

    def load(method, device):
        apply = real(method, device)

        def failing(image):
            if image.width == 48:
                raise RuntimeError("[enforce fail at alloc_cpu.cpp] not enough memory\nsecond line")
            return apply(image)

        return failing

    monkeypatch.setattr(work.methods, "load", load)
    report = prepare(pictures, (STANDARD,), overwrite=True, progress=False)
    assert report.made == {"sketch_standard": 1} and report.pictures == {"color": 2}
    ((file, reason),) = report.unreadable.items()
    assert file.endswith("other.png -> sketch_standard/")
    assert reason == "standard failed on its 48x32 pixels ([enforce fail at alloc_cpu.cpp] not enough memory)"
    monkeypatch.undo()
    assert prepare(pictures, (STANDARD,), progress=False).made == {"sketch_standard": 1}


# -- shards ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["0001/../../../out.png", "/0001/out.png", "0001//out.png", "0001/./out.png", "0001/..\\..\\out.png",
             "C:/out.png", "0001/a\nb.png"]
)  # fmt: skip
def test_members_that_lead_outside_are_refused_and_listed(tmp_path, name):
    root = tmp_path / "a" / "b" / "set"
    (root / "color").mkdir(parents=True)
    outside = [tmp_path / "a" / "b" / "out.png", tmp_path / "a" / "out.png", root / "out.png", tmp_path / "out.png"]
    for file in outside:
        file.write_bytes(b"somebody's")
    with zipfile.ZipFile(root / "color" / "0001.zip", "w") as archive:
        archive.writestr("0001/good.png", png())
        info = zipfile.ZipInfo("x")
        info.filename = name  # the constructor would tidy it
        archive.writestr(info, png())
    before = {path for path in tmp_path.rglob("*") if not path.is_relative_to(root)}
    report = prepare(root, (STANDARD,), overwrite=True, progress=False)
    assert report.made == {"sketch": 1}
    ((file, reason),) = report.unreadable.items()
    assert file.endswith("0001.zip") and "do not lie in a folder 0001/" in reason
    assert all(file.read_bytes() == b"somebody's" for file in outside)
    assert {path for path in tmp_path.rglob("*") if not path.is_relative_to(root)} == before
    assert not list(root.rglob("out.png*"))[1:]  # the one that was there
    assert sources.ShardSource(root).keys_of(root / "color" / "0001.zip") == ["0001/good"]
    assert not examine(root, progress=False).healthy


def test_names_in_any_language_are_taken():
    assert not sources.leads_outside("0001/線画\u3000その1..png")


def shard(tmp_path: Path, content: bytes = b"", **changed: int) -> sources.ShardSource:
    """A shard with a member a.png, and what its directory says of it changed."""
    (tmp_path / "color").mkdir()
    file = tmp_path / "color" / "0000.zip"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("0000/a.png", content or png())
        for name, value in changed.items():
            setattr(archive.getinfo("0000/a.png"), name, value)
    return sources.ShardSource(tmp_path)


@pytest.mark.parametrize("size", [2**30, 2**40, 2**63 - 1])
@pytest.mark.parametrize("field", ["file_size", "compress_size"])
def test_a_lie_about_sizes_is_one_unreadable_picture(tmp_path, field, size):
    with pytest.raises(sources.Unreadable, match="bytes|checksum|unpack"):
        shard(tmp_path, **{field: size}).open("color", "0000/a")


def test_a_member_that_unpacks_a_thousandfold_stops_at_what_its_directory_says(tmp_path):
    content = bytes(50 * 2**20)
    with pytest.raises(sources.Unreadable, match="does not unpack to the 100 bytes"):
        shard(tmp_path, content, file_size=100).open("color", "0000/a")


def test_a_member_larger_than_any_picture_is_refused_before_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "MAX_MEMBER", 2**20)
    with pytest.raises(sources.Unreadable, match="a picture here has 1048576 at most"):
        shard(tmp_path, bytes(2**20 + 1)).open("color", "0000/a")


def test_encrypted_members_are_told(tmp_path):
    source = shard(tmp_path)
    file = tmp_path / "color" / "0000.zip"
    content = bytearray(file.read_bytes())
    content[6] |= 1  # flags of the local header
    file.write_bytes(content)
    with pytest.raises(sources.Unreadable, match="encrypted"):
        source.open("color", "0000/a")


def test_a_directory_of_nonsense_is_one_unreadable_shard(tmp_path):
    source = shard(tmp_path)
    file = tmp_path / "color" / "0000.zip"
    whole = file.read_bytes()
    random = np.random.default_rng(0)
    for _ in range(300):
        content = bytearray(whole)
        for place in random.integers(len(whole) - 120, len(whole), 3):
            content[place] = random.integers(256)
        file.write_bytes(content)
        try:
            source = sources.ShardSource(tmp_path)
            source.keys_of(file)
            source.open("color", "0000/a")
        except sources.Unreadable:
            pass


def test_a_forged_shard_beside_the_pictures_ends_nothing(tmp_path):
    root = tmp_path
    for part in ("color", "sketch"):
        (root / part).mkdir()
    with zipfile.ZipFile(root / "color" / "0001.zip", "w") as archive:
        archive.writestr("0001/a.png", png())
    with zipfile.ZipFile(root / "sketch" / "0001.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("0001/mine.png", png())
        archive.writestr("0001/bomb.png", png())
        archive.getinfo("0001/bomb.png").file_size = 2**40
    report = prepare(root, (STANDARD,), progress=False)
    assert report.made == {"sketch_standard": 1}


def test_what_a_shard_of_results_held_stays_and_what_cannot_be_read_is_told(tmp_path):
    (tmp_path / "color").mkdir()
    for size in ((32, 32), (40, 32)):
        with zipfile.ZipFile(tmp_path / "color" / "0001.zip", "w") as archive:
            archive.writestr("0001/a.png", png(size))
        report = prepare(tmp_path, (STANDARD,), progress=False)
        assert report.made == {"sketch": 1}
        if size == (32, 32):
            with zipfile.ZipFile(tmp_path / "sketch" / "0001.zip", "a", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr("0001/mine.png", png())
                archive.writestr("0001/bomb.png", png())
                archive.getinfo("0001/bomb.png").file_size = 2**40
    with zipfile.ZipFile(tmp_path / "sketch" / "0001.zip") as archive:
        assert archive.namelist() == ["0001/mine.png", "0001/a.png"]
    ((file, reason),) = report.unreadable.items()
    assert file.endswith("0001.zip:0001/bomb.png") and str(2**40) in reason
