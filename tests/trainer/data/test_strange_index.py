"""Index files and tables of strangers: bounded in time, and every nonsense has a sentence."""

from __future__ import annotations

import json
import os
import sys
import time
from types import SimpleNamespace

import pytest

from spread.crew import ALONE
from trainer.config import ConfigError, Data
from trainer.data import index_files, sources
from trainer.data.folder import FolderDataset
from trainer.prepare.tables import read_table

DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    "entry, message",
    [
        ('{"width": 1' + "0" * 20 + "}", "pair of numbers of pixels"),
        ('{"width": -3, "height": 4}', "pair of numbers of pixels"),
        ('{"width": Infinity}', "pair of numbers of pixels"),
        ('{"width": NaN}', "pair of numbers of pixels"),
        ('{"resolution": [1e400, 2]}', "pair of numbers of pixels"),
        ('{"resolution": [1, 2, 3]}', "pair of numbers of pixels"),
        ('{"width": {"a": 1}}', "pair of numbers of pixels"),
        ('{"aesthetic_score": "good"}', "aesthetic_score 'good'"),
        ('{"aesthetic_score": Infinity}', "aesthetic_score inf"),
        ('{"aesthetic_score": [1]}', "aesthetic_score"),
        ('{"aesthetic_score": 1' + "0" * 400 + "}", "aesthetic_score"),
        ('{"tags": "\\ud800"}', "tags that are no text"),
        ('{"tags": ["a", "\\udfff"]}', "tags that are no text"),
        ('{"reference_list": [1]}', "reference_list"),
        ('{"reference_list": ["\\ud800"]}', "reference_list"),
        ('{"reference_list": ' + json.dumps(DEEP) + "}", "reference_list"),
        ('{"reference_list": 3}', "reference_list"),
        ("3", "an entry is a table"),
        (DEEP, "nested too deep|no whole JSON"),
        ("1" * 5000, "no whole JSON"),
    ],
)
def test_entries_of_nonsense_are_told(tmp_path, entry, message):
    (tmp_path / "a.json").write_text('{"0001/a.png": ' + entry + "}")
    with pytest.raises(ConfigError, match=message):
        index_files.from_files([tmp_path / "a.json"], tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*"))  # nothing half made stays


def test_half_a_surrogate_pair_is_no_path(tmp_path):
    (tmp_path / "a.json").write_text('{"0001/\\ud800.png": {}}')
    with pytest.raises(ConfigError, match="names a picture '0001/.*which is no text"):
        index_files.from_files([tmp_path / "a.json"], tmp_path / "cache")


def test_entries_in_entries_take_no_half_minute(tmp_path, monkeypatch):
    monkeypatch.setattr(index_files, "_BLOCK", 2**17)
    monkeypatch.setattr(index_files, "_LONGEST_ENTRY", 2**22)
    monkeypatch.setattr(index_files, "_FAILED_BYTES", 2**23)
    (tmp_path / "a.json").write_text(
        '{"a": {' + ",".join(f'"{n}": {{"x": {{"y": 1}}, "z": 2}}' for n in range(200_000))
    )
    started = time.process_time()
    with pytest.raises(ConfigError, match="nested in each other"):
        list(index_files.read_json(tmp_path / "a.json"))
    assert time.process_time() - started < 5


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_files_whose_names_are_no_text_are_left_out(pictures, tmp_path, caplog):
    for part in ("color", "sketch"):
        (tmp_path / part).mkdir()
        for name in (b"a.png", b"\xff\xfe.png"):
            target = os.fsencode(tmp_path / part) + b"/" + name
            with open(target, "wb") as file:
                file.write((pictures / part / "00_0.png").read_bytes())
    dataset = FolderDataset(Data(folder=str(tmp_path), size=64, reference="self"), ("color", "sketch"))
    assert len(dataset) == 1 and "not UTF-8" in caplog.text
    assert sources.FolderSource(tmp_path).keys("color") == ["a"]


@pytest.mark.parametrize(
    "name, text",
    [
        ("a.json", DEEP), ("a.json", "[1]"), ("a.json", '{"a": NaN}'), ("a.json", '{"a": 1e400}'),
        ("a.json", '{"a": 1' + "0" * 400 + "}"), ("a.json", '{"a": "inf"}'), ("a.json", '{"a": [1]}'),
        ("a.csv", "picture,score\na," + "9" * 200_000), ("a.csv", 'x,1\n"' + "a" * 200_000 + '",2\n'),
        ("a.csv", "a,1\nb,nan\n"), ("a.csv", "a,1\nb,1e999\n"), ("a.csv", "\x00\xff"),
    ],
)  # fmt: skip
def test_tables_of_nonsense_are_told(tmp_path, name, text):
    (tmp_path / name).write_bytes(text.encode("latin-1"))
    if text == "\x00\xff":
        with pytest.raises(ConfigError, match="cannot be read"):
            read_table(str(tmp_path / name), "score")
        return
    with pytest.raises(ConfigError, match="cannot be read|is no number|is no JSON object"):
        read_table(str(tmp_path / name), "score")


# -- manifests of sets -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["{", "[]", "[" * 100_000, '{"count": 1e999}', '{"seed": "\\ud800", "packages": 3}', "NaN"]
)
def test_manifests_of_strangers_are_told(tmp_path, text):
    """Of a folder that a command is to go on with."""
    from trainer.commands import art_data, demo_data, demo_faces

    (tmp_path / "manifest.json").write_text(text)
    plan = SimpleNamespace(folder=tmp_path, packages=tmp_path, seed=0, split="train")
    with pytest.raises(ConfigError, match="another --output"):
        demo_data._start(tmp_path, {"split": "train"}, 4)
    with pytest.raises(ConfigError, match="another --output"):
        demo_faces.write_faces(tmp_path, 1)
    with pytest.raises(ConfigError, match="another --output"):
        art_data.write_art_data(plan, {}, ALONE)
