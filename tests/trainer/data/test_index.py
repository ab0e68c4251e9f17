"""Index files: what they give and how they are read, kept, filtered and refused."""

import json
import pickle
import shutil

import numpy as np
import pytest

from trainer.config import ConfigError, Data
from trainer.data import index, index_files
from trainer.data.folder import FolderDataset

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
