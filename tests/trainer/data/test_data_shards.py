"""Zip shards, and what happens to pictures that cannot be read."""

import io
import json
import multiprocessing
import pickle
import shutil
import zipfile

import numpy as np
import pytest
import torch

from trainer.config import ConfigError, Data
from trainer.data import index, sources
from trainer.data.buckets import PositionSampler
from trainer.data.folder import FolderDataset
from trainer.data.sources import Unreadable

PARTS = ("color", "sketch", "reference", "mask", "reference_mask")


def entry_bytes(image, suffix):
    buffer = io.BytesIO()
    image.save(buffer, {"png": "PNG", "jpg": "JPEG"}[suffix])
    return buffer.getvalue()


def pack(root, target, parts=PARTS, shards=2):
    """The files of a folder as zip shards 0000.zip, 0001.zip of every part."""
    for part in parts:
        (target / part).mkdir(parents=True)
        for number in range(shards):
            with zipfile.ZipFile(target / part / f"{number:04d}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
                for file in sorted((root / part).iterdir())[number::shards]:
                    archive.writestr(f"{number:04d}/{file.name}", file.read_bytes())
    return target


@pytest.fixture
def shards(pictures, tmp_path):
    return pack(pictures, tmp_path / "shards")


def same(ours, theirs):
    return ours.keys() == theirs.keys() and all(
        torch.equal(torch.as_tensor(ours[k]), torch.as_tensor(theirs[k])) for k in ours
    )


def test_shards_give_what_the_unpacked_folder_gives(shards, tmp_path):
    for part in PARTS:
        for file in sorted((shards / part).glob("*.zip")):
            zipfile.ZipFile(file).extractall(tmp_path / "unpacked" / part)
    packed, unpacked = (FolderDataset(Data(folder=str(p), size=64), PARTS) for p in (shards, tmp_path / "unpacked"))
    assert len(packed) == 8 and packed.source.shards and not unpacked.source.shards
    assert packed.items[3].stem == unpacked.items[3].stem == "0000/03_0"
    assert all(same(packed[position], unpacked[position]) for position in range(16))


def test_groups_lie_within_shards(shards):
    dataset = FolderDataset(Data(folder=str(shards), size=64, reference="group", groups="names"))
    expected = {index.hash64(f"{n:04d}/{c:02d}") for n in range(2) for c in range(4)}
    assert {item.group for item in dataset.items} == expected
    assert any("are alone in their group" in problem for problem in dataset.problems)
    assert len(FolderDataset(Data(folder=str(shards), size=64, reference="group")).groups) == 8  # a shard is no group


def test_worker_processes_read_the_same(shards):
    dataset = FolderDataset(Data(folder=str(shards), size=64), seed=1)
    dataset[0]  # the parent has shards open
    sampler = PositionSampler(0, 4, 2)
    plain = [torch.utils.data.default_collate([dataset[p] for p in batch]) for batch in sampler]
    sent = pickle.loads(pickle.dumps(dataset))  # as a spawned worker gets it
    assert all(same(sent[position], dataset[position]) for position in range(8))
    if "fork" in multiprocessing.get_all_start_methods():
        loader = torch.utils.data.DataLoader(
            dataset, batch_sampler=sampler, num_workers=2, multiprocessing_context="fork"
        )
        assert all(same(ours, theirs) for ours, theirs in zip(loader, plain, strict=True))


def test_directories_are_kept_and_never_stale(shards):
    FolderDataset(Data(folder=str(shards), size=64))
    kept = shards / ".colorize" / "shards"
    before = set(kept.iterdir())
    assert len(before) == 4  # sketch and reference; color is listed, and read only when a sample is
    FolderDataset(Data(folder=str(shards), size=64))
    assert set(kept.iterdir()) == before
    pictures = shards / "sketch" / "0000.zip"
    with zipfile.ZipFile(pictures, "a") as archive:
        archive.writestr("0000/another.png", b"")
    again = FolderDataset(Data(folder=str(shards), size=64))
    assert len(again) == 8 and len(set(kept.iterdir()) - before) == 1


def test_a_picture_without_its_sketch_is_left_out_and_told(shards):
    with zipfile.ZipFile(shards / "color" / "0001.zip", "a") as archive:
        archive.writestr("0001/zz_9.png", b"")
        archive.writestr("elsewhere/zz_8.png", b"")
    dataset = FolderDataset(Data(folder=str(shards), size=64, reference="self"))
    assert len(dataset) == 8
    assert any("1 pictures have no file in sketch/, e.g. 0001/zz_9" in problem for problem in dataset.problems)
    assert any("do not lie in 0001/" in problem for problem in dataset.problems)
    again = FolderDataset(Data(folder=str(shards), size=64, reference="self"))
    assert again.problems == dataset.problems  # kept with the index


def test_missing_parts_are_named(shards):
    shutil.rmtree(shards / "mask")
    with pytest.raises(ConfigError, match="mask/ 0.*shards.*white on the figure"):
        FolderDataset(Data(folder=str(shards), size=64, reference="self"), ("color", "sketch", "mask"))


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_member_is_read_as_zipfile_reads_it(tmp_path, method):
    contents = {f"0000/{n}.png": np.random.default_rng(n).bytes(1000 * n) for n in range(5)}
    (tmp_path / "color").mkdir()
    with zipfile.ZipFile(tmp_path / "color" / "0000.zip", "w", method) as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
    source = sources.ShardSource(tmp_path)
    for name, data in contents.items():
        assert source.open("color", index.item_key(name)).read() == data
    with pytest.raises(Unreadable, match="no such member"):
        source.open("color", "0000/9")
    with pytest.raises(Unreadable, match="0007.zip"):
        source.open("color", "0007/1")


def test_damage_inside_a_shard_is_noticed(tmp_path):
    (tmp_path / "color").mkdir()
    file = tmp_path / "color" / "0000.zip"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("0000/a.png", b"0123456789" * 20)
        archive.writestr("0000/b.png", b"abc")
        place = archive.getinfo("0000/a.png").header_offset
    content = bytearray(file.read_bytes())
    content[place + 60] ^= 1
    file.write_bytes(content)
    source = sources.ShardSource(tmp_path)
    with pytest.raises(Unreadable, match="checksum"):
        source.open("color", "0000/a")
    assert source.open("color", "0000/b").read() == b"abc"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("0000/a.png", b"abc")
    with pytest.raises(Unreadable, match="store or deflate"):
        sources.ShardSource(tmp_path).open("color", "0000/a")


def test_a_damaged_shard_is_left_out(shards):
    (shards / "color" / "0001.zip").write_bytes(b"no zip file")
    dataset = FolderDataset(Data(folder=str(shards), size=64))
    assert len(dataset) == 4 and any("0001.zip cannot be read" in problem for problem in dataset.problems)


def test_open_shards_are_limited(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "OPEN_SHARDS", 2)
    (tmp_path / "color").mkdir()
    for number in range(5):
        with zipfile.ZipFile(tmp_path / "color" / f"{number:04d}.zip", "w") as archive:
            archive.writestr(f"{number:04d}/a.png", bytes([number]))
    source = sources.ShardSource(tmp_path)
    assert [source.open("color", f"{n:04d}/a").read()[0] for n in (0, 1, 2, 3, 4, 0, 4)] == [0, 1, 2, 3, 4, 0, 4]
    assert len(source._open) == 2


# -- pictures that cannot be read --------------------------------------------------------------------------------------


def test_what_cannot_be_read_is_replaced_counted_and_listed(pictures, tmp_path, caplog):
    shutil.copytree(pictures, tmp_path / "data")
    broken = tmp_path / "data/color/01_0.png"
    broken.write_bytes(broken.read_bytes()[:60])
    listed = tmp_path / "unreadable.jsonl"
    dataset = FolderDataset(Data(folder=str(tmp_path / "data"), size=64), seed=2, unreadable=listed)
    whole = FolderDataset(Data(folder=str(pictures), size=64), seed=2)
    bad = next(n for n in range(8) if dataset.items[n].stem == "01_0")
    positions = [p for p in range(24) if dataset.index_at(p) == bad]
    assert len(positions) == 3
    for position in range(24):
        ours, again = dataset[position], dataset[position]
        assert same(ours, again)
        if position in positions:
            assert ours["index"] != bad
        else:
            assert same(ours, whole[position])
    lines = [json.loads(line) for line in listed.read_text().splitlines()]
    assert len(lines) == 1 and lines[0]["file"] == str(broken) and lines[0]["position"] == positions[0]
    assert "another picture takes its place" in caplog.text


def test_a_member_that_the_index_only_claims_is_replaced(shards, tmp_path):
    entries = {f"{n:04d}/{c:02d}_{n}.png": {"width": 64, "height": 64} for n in range(2) for c in range(4)}
    entries["0000/ghost.png"] = {"width": 64, "height": 64}
    (shards / "data_index").mkdir()
    (shards / "data_index" / "all.json").write_text(json.dumps(entries))
    dataset = FolderDataset(Data(folder=str(shards), size=64, index=("all",)), unreadable=tmp_path / "list")
    assert len(dataset) == 9
    stems = {dataset.items[dataset[position]["index"]].stem for position in range(9)}
    assert "0000/ghost" not in stems
    assert "0000/ghost" in (tmp_path / "list").read_text()


def test_two_processes_may_keep_the_same_directory(shards, tmp_path, monkeypatch):
    """Regression: Windows refuses to replace a file that another process has mapped."""
    file, cache = shards / "color" / "0000.zip", tmp_path / "kept"
    wanted = sources.ShardSource(shards, cache)._members(file)
    (kept,) = (cache / "shards").iterdir()
    content = kept.read_bytes()
    kept.unlink()

    def refused(self, target):
        target.write_bytes(content)
        raise PermissionError(13, "in use")

    monkeypatch.setattr(type(kept), "replace", refused)
    assert np.array_equal(sources.ShardSource(shards, cache)._members(file), wanted)
    assert [path.name for path in (cache / "shards").iterdir()] == [kept.name]


def test_a_shard_that_was_replaced_is_read_anew(shards, tmp_path):
    """Regression: `prepare` packs shards whose marks it has read; the open file was the old one (Windows: an error)."""
    source, file, other = sources.ShardSource(shards, tmp_path / "kept"), shards / "color" / "0000.zip", b"other bytes"
    with source.open("color", "0000/00_0") as before:
        assert before.read() != other
    with zipfile.ZipFile(tmp_path / "new.zip", "w") as archive:
        archive.writestr("0000/00_0.png", other)
    source.forget(file)
    (tmp_path / "new.zip").replace(file)
    with source.open("color", "0000/00_0") as after:
        assert after.read() == other
    source.forget(shards / "color" / "never-opened.zip")


def test_an_index_that_is_not_there_names_those_that_are(shards):
    with pytest.raises(ConfigError, match="holds none"):
        FolderDataset(Data(folder=str(shards), size=64, index=("all",)))
    (shards / "data_index").mkdir()
    (shards / "data_index" / "landscape.json").write_text("{}")
    with pytest.raises(ConfigError, match="there are landscape.json"):
        FolderDataset(Data(folder=str(shards), size=64, index=("all",)))
    with pytest.raises(ConfigError, match="no usable pictures"):
        FolderDataset(Data(folder=str(shards), size=64, index=("landscape",)))
