"""Zip shards, index files and what happens to pictures that cannot be read."""

import io
import json
import multiprocessing
import pickle
import shutil
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from trainer.config import ConfigError, Data
from trainer.data import index, index_files, sources
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


# -- index files -------------------------------------------------------------------------------------------------------

ENTRIES = {
    "0000/a_1.png": {
        "exist_sketch": True,
        "aesthetic_score": 6.25,
        "width": 800,
        "height": 1200,
        "tags": ["1girl", "青"],
    },
    "0000/b_1.png": {"exist_sketch": False, "aesthetic_score": 7, "width": 900, "height": 900},
    "0000/c }, {.png": {"resolution": [700, 640], "reference_list": ["0000/a_1.png", "0000/gone.png"]},
    "0001/d.v2.png": {"tags": 'quote " and }, {"x": {', "nested": {"a": {"b": [1, {"c": 2}]}}},
}


@pytest.fixture
def listed(tmp_path):
    file = tmp_path / "all.json"
    file.write_text(json.dumps(ENTRIES, ensure_ascii=False), encoding="utf-8")
    return index_files.from_files([file], tmp_path / "cache")


def test_a_loader_process_maps_the_index_instead_of_getting_a_copy(tmp_path):
    """Regression: a mapped column is pickled as all its values, for every process anew."""
    entries = ((f"0000/{number:05d}.png", {}) for number in range(5000))
    made = index.build(tmp_path, "f" * 64, entries, ["one line"])
    sent = pickle.dumps(made)
    there = pickle.loads(sent)
    assert len(sent) < 1000 and len(there) == 5000 and there.name(4999) == "0000/04999"
    assert isinstance(there["key"], np.memmap) and there.problems == ("one line",)
    writer = index.Writer()
    writer.add("a.png", {"width": 3, "height": 4})
    assert pickle.loads(pickle.dumps(writer.index(""))).name(0) == "a"  # of one in memory the values travel


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


def test_an_index_keeps_what_its_file_says(listed):
    assert [listed.name(row) for row in range(4)] == ["0000/a_1", "0000/b_1", "0000/c }, {", "0001/d.v2"]
    assert listed["width"].tolist() == [800, 900, 700, 0] and listed["height"].tolist() == [1200, 900, 640, 0]
    assert [listed.score(row) for row in range(4)] == [6.25, 7.0, 6.0, 6.0]
    assert listed.extra(0) == {"tags": "1girl, 青"} and listed.extra(1) == {}
    assert listed.extra(2) == {"references": ["0000/a_1.png", "0000/gone.png"]}
    assert listed.extra(3) == {"tags": ENTRIES["0001/d.v2.png"]["tags"]}
    assert int(listed["name_group"][0]) == index.hash64("0000/a") and int(listed["key"][3]) == index.hash64("0001/d.v2")


def test_rows_are_filtered_as_the_released_loader_does(listed):
    assert listed.rows().tolist() == [0, 2, 3]  # b has no sketch
    assert listed.rows(min_score=5.5).tolist() == [0, 2, 3]  # 5.51 where there is no score
    assert listed.rows(min_score=6).tolist() == [0]
    assert listed.rows(min_side=650).tolist() == [0, 3]  # the size of d is not known


@pytest.mark.parametrize("block", [64, 100, 257])
def test_blocks_cut_anywhere_give_the_same_entries(tmp_path, monkeypatch, block):
    """Strings that look like the end of an entry, nested values and long entries at every place of a cut."""
    many = {f"{n}/{name}": entry for n in range(20) for name, entry in ENTRIES.items()}
    file = tmp_path / "all.json"
    for indent in (None, 2):
        file.write_text(json.dumps(many, indent=indent), encoding="utf-8")
        monkeypatch.setattr(index_files, "_BLOCK", block)
        monkeypatch.setattr(index_files, "_LONGEST_ENTRY", 10**6)
        assert dict(index_files.read_json(file)) == many


def test_of_equal_paths_the_first_counts(tmp_path):
    for number, width in enumerate((10, 20)):
        (tmp_path / f"{number}.json").write_text(json.dumps({"0/a.png": {"width": width}, f"0/{number}.png": {}}))
    listed = index_files.from_files([tmp_path / "0.json", tmp_path / "1.json"], tmp_path / "cache")
    assert [listed.name(row) for row in listed.rows()] == ["0/a", "0/0", "0/1"] and listed["width"][0] == 10


def test_an_index_is_made_once_and_again_when_its_file_changes(tmp_path, monkeypatch):
    file, cache = tmp_path / "all.json", tmp_path / "cache"
    file.write_text(json.dumps(ENTRIES))
    index_files.from_files([file], cache)
    folders = set(cache.iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(index_files, "read_json", lambda path: pytest.fail("read again"))
        assert len(index_files.from_files([file], cache)) == 4
    file.write_text(json.dumps({**ENTRIES, "0001/e.png": {}}))
    assert len(index_files.from_files([file], cache)) == 5
    assert len(set(cache.iterdir()) - folders) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "not a JSON object"),
        ('{"a.png": {"width": 1}, "b.png"', "no whole JSON file"),
        ('{"a.png": 3}', "an entry is a table"),
        ('{"a.png": {"resolution": "large"}}', "no pair of numbers"),
        ('{"a.png": {"reference_list": "no list"}}', "write a list of paths"),
    ],
)
def test_a_bad_index_is_refused_and_leaves_nothing(tmp_path, text, message):
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(ConfigError, match=message):
        index_files.from_files([tmp_path / "bad.json"], tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_damage_in_the_middle_of_a_large_index_ends_early(tmp_path, monkeypatch):
    monkeypatch.setattr(index_files, "_BLOCK", 1000)
    entries = json.dumps({f"{n}.png": {"width": n} for n in range(2000)})
    (tmp_path / "bad.json").write_text(entries.replace('"100.png"', '"100.png'))
    with pytest.raises(ConfigError, match="behind byte"):
        list(index_files.read_json(tmp_path / "bad.json"))


def test_an_index_that_is_not_there_names_those_that_are(shards):
    with pytest.raises(ConfigError, match="holds none"):
        FolderDataset(Data(folder=str(shards), size=64, index=("all",)))
    (shards / "data_index").mkdir()
    (shards / "data_index" / "landscape.json").write_text("{}")
    with pytest.raises(ConfigError, match="there are landscape.json"):
        FolderDataset(Data(folder=str(shards), size=64, index=("all",)))
    with pytest.raises(ConfigError, match="no usable pictures"):
        FolderDataset(Data(folder=str(shards), size=64, index=("landscape",)))


def test_parquet_gives_what_json_gives(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="parquet needs pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table(
        {
            "image_path": ["0/a.png", "0/b.png"],
            "aesthetic_score": [5.5, None],
            "width": [10, 20],
            "height": [30, 40],
            "exist_sketch": [True, False],
            "reference_list": ['["0/b.png"]', None],
            "caption": [None, "1girl"],
        }
    )
    parquet.write_table(table, tmp_path / "all.parquet")
    listed = index_files.from_files([tmp_path / "all.parquet"], tmp_path / "cache")
    assert listed["width"].tolist() == [10, 20] and listed["usable"].tolist() == [1, 0]
    assert listed.extra(0) == {"references": ["0/b.png"]} and listed.extra(1) == {"tags": "1girl"}
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no table")
    with pytest.raises(ConfigError, match="no whole parquet file"):
        index_files.from_files([tmp_path / "bad.parquet"], tmp_path / "cache")
    parquet.write_table(pyarrow.table({"path": ["a"]}), tmp_path / "other.parquet")
    with pytest.raises(ConfigError, match="no column image_path"):
        index_files.from_files([tmp_path / "other.parquet"], tmp_path / "cache")


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    (tmp_path / "all.parquet").write_bytes(b"")
    with pytest.raises(ConfigError, match="pip install pyarrow"):
        index_files.from_files([tmp_path / "all.parquet"], tmp_path / "cache")


def test_listed_references_are_drawn_from_the_index(pictures, tmp_path):
    shutil.copytree(pictures, tmp_path / "data")
    stems = sorted(p.name for p in (pictures / "color").iterdir())
    entries = {stem: {} for stem in stems}
    entries[stems[0]] = {"reference_list": [stems[3], stems[5], "nowhere.png"]}
    (tmp_path / "data/list.json").write_text(json.dumps(entries))
    dataset = FolderDataset(Data(folder=str(tmp_path / "data"), size=64, reference="listed", index=("list",)))
    drawn = {0: set(), 1: set()}
    for position in range(8 * 12):
        sample = dataset[position]
        drawn.get(sample["index"], set()).add(sample["reference_index"])
    assert drawn == {0: {3, 5}, 1: {1}}


def test_a_read_only_set_keeps_its_index_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    assert index.cache_folder(tmp_path / "gone").is_relative_to(tmp_path / "home")


# -- styles ------------------------------------------------------------------------------------------------------------


def test_one_style_is_drawn_per_picture(pictures, tmp_path):
    shutil.copytree(pictures / "color", tmp_path / "color")
    for number, style in enumerate(("sketch/pencil", "sketch/clean", "sketch_trace")):
        (tmp_path / style).mkdir(parents=True)
        for file in list((pictures / "color").iterdir())[: 8 if number else 4]:
            Image.new("L", (64, 64), 50 * number).save(tmp_path / style / file.name)
    dataset = FolderDataset(Data(folder=str(tmp_path), size=64, reference="self"))
    assert dataset.styles == ["sketch/clean", "sketch/pencil", "sketch_trace"] and len(dataset) == 8
    drawn = {dataset[position]["sketch"][0, 0, 0].item() for position in range(64)}
    assert drawn == {0, 50, 100}
    only = FolderDataset(Data(folder=str(tmp_path), size=64, reference="self", sketch_styles=("pencil",)))
    assert len(only) == 4 and {only[p]["sketch"][0, 0, 0].item() for p in range(8)} == {0}
    both = FolderDataset(Data(folder=str(tmp_path), size=64, reference="self", sketch_styles=("pencil", "trace")))
    assert len(both) == 8 and {both[p]["sketch"][0, 0, 0].item() for p in range(64)} == {0, 100}
    with pytest.raises(ConfigError, match="has the styles clean, pencil, trace"):
        FolderDataset(Data(folder=str(tmp_path), size=64, reference="self", sketch_styles=("ink",)))
