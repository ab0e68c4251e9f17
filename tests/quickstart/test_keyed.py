"""--key: which drawing a key colours, what is asked of the environment's Python, and what the report says."""

import json
import os
from pathlib import Path

import pytest

from quickstart_lib import keyed, options
from quickstart_lib.environment import Environment
from quickstart_lib.errors import QuickstartError
from quickstart_lib.frames import listed
from quickstart_lib.record import DONE, Entry, Record
from quickstart_lib.terminal import Status
from tests.quickstart.test_shots import cut, png, report  # noqa: F401  (cut is a fixture)

posix_only = pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
STAND_IN = """#!/usr/bin/env python3
import json, pathlib, sys
job, told = sys.argv[-2:]
job = json.loads(pathlib.Path(job).read_text())
with open(told, "w") as out:
    for number, row in enumerate(job["frames"]):
        target = pathlib.Path(row["target"])
        target.parent.mkdir(parents=True, exist_ok=True)
        key = job["keys"][0]
        target.write_text(f"{pathlib.Path(key['file']).name} {key['frame']} {pathlib.Path(row['picture']).name}")
        unsure = {"frame": number, "x": 3, "y": 4, "share": 0.01, "colour": "#102030", "thing": 1}
        event = {"frame": number, "unsure": [unsure] if number == 2 else [], "flicker": 0.1 * (number == 1)}
        out.write(json.dumps(event) + "\\n" + json.dumps({"done": number + 1, "of": 3}) + "\\n")
        if row.get("layers"):
            pathlib.Path(row["layers"]).write_text("layers")
"""

LOOK = "assert (pathlib.Path(sys.argv[-2]).parent / 'found').exists()\nwith open"


@pytest.fixture
def made(tmp_path, cut):  # noqa: F811
    """A finished run: (drawings, record, environment whose Python only writes down what it is asked)."""
    drawings, record = listed(cut), Record(tmp_path / "out", {})
    for drawing in drawings:
        target = tmp_path / "out" / drawing.target
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(b"picture")
        record.entries[drawing.label] = Entry(drawing.label, "k" + drawing.label, DONE, drawing.target)
    python = tmp_path / "python"
    python.write_text(STAND_IN)
    python.chmod(0o755)
    (tmp_path / "keys").mkdir()
    key = tmp_path / "keys" / "a2.png"
    key.write_bytes(png(64, 64, "key"))
    return drawings, record, Environment(python, "cpu", "0"), keyed.Keys((keyed.Key(key, "a2"),))


def chosen(*arguments):
    return options.read([*map(str, arguments)])[0]


def test_a_key_colours_the_drawing_of_its_name(made, cut):  # noqa: F811
    drawings, _, _, key = made
    (painted,) = key.painted
    found = keyed.keys_of(chosen("--sketch", cut, "--key", painted.file))
    assert found == key and keyed.frame_of(painted, drawings) == 1
    assert keyed.keys_of(chosen("--sketch", cut)) is None
    (painted.file.parent / "a10.png").write_bytes(png(64, 64, "another"))
    found = keyed.keys_of(chosen("--sketch", cut, "--key", painted.file, "--hints", painted.file.parent))
    assert found.painted == key.painted and [hint.name for hint in found.hints] == ["a2", "a10"]


def test_a_key_without_a_drawing_or_a_shot_is_told(made, cut, tmp_path):  # noqa: F811
    drawings, _, _, key = made
    with pytest.raises(QuickstartError, match="no drawing has that name.*a1.png, a2.png, a10.png"):
        keyed.frame_of(keyed.Key(key.painted[0].file, "hero"), drawings)
    with pytest.raises(QuickstartError, match="Give the shot's folder"):
        keyed.keys_of(chosen("--sketch", cut / "a1.png", "--key", key.painted[0].file))
    with pytest.raises(QuickstartError, match="no such file"):
        keyed.keys_of(chosen("--sketch", cut, "--key", tmp_path / "none.png"))
    with pytest.raises(QuickstartError, match="--key"):
        keyed.keys_of(chosen("--sketch", cut, "--key", cut / "notes.txt"))
    with pytest.raises(QuickstartError, match="Give that as --key"):
        keyed.keys_of(chosen("--sketch", cut, "--hints", cut))
    with pytest.raises(QuickstartError, match="--hints is hero.png, and no drawing"):
        keyed.check(keyed.Keys(key.painted, (keyed.Key(tmp_path / "hero.png", "hero"),)), drawings)


@posix_only
def test_pictures_go_to_a_folder_of_their_own_and_the_report_says_what_was_unsure(made, tmp_path, capsys):
    drawings, record, env, key = made
    files = keyed.carry(key, drawings, record, env, Status())
    assert files == [tmp_path / "out" / "keyed" / f"a{number}.png" for number in (1, 2, 10)]
    assert [file.read_text() for file in files] == ["a2.png 1 a1.png", "a2.png 1 a2.png", "a2.png 1 a10.png"]
    rows = report(tmp_path / "out")["drawings"]
    assert [len(row["unsure"]) for row in rows] == [0, 0, 1] and rows[2]["unsure"][0]["x"] == 3
    out = capsys.readouterr().out
    assert rows[0]["keyed"] == "keyed/a1.png" and "1 regions of 1 things were not sure" in out
    assert rows[1]["flicker"] == 0.1 and "drawings match at a2.png." in out and "review.png" in out
    assert not (tmp_path / "out" / ".keyed").exists()


@posix_only
def test_the_same_key_is_carried_once_and_another_writes_over_nothing(made, tmp_path):
    drawings, record, env, key = made
    first = keyed.carry(key, drawings, record, env, Status())
    again = Record(tmp_path / "out", {})
    assert keyed.carry(key, drawings, again, Environment(Path("/nowhere"), "cpu", "0"), Status()) == first
    key.painted[0].file.write_bytes(png(64, 64, "painted anew"))
    second = keyed.carry(key, drawings, again, env, Status())
    assert [file.name for file in second] == ["a1-2.png", "a2-2.png", "a10-2.png"] and first[0].is_file()


@posix_only
def test_a_failure_is_told_with_its_reason(made, tmp_path):
    drawings, record, env, key = made
    env.python.write_text("#!/bin/sh\necho 'ValueError: Drawings of different sizes' >&2\nexit 1\n")
    with pytest.raises(QuickstartError, match="could not be carried: ValueError: Drawings of different sizes"):
        keyed.carry(key, drawings, record, env, Status())
    assert all(entry.keyed_with.endswith("?") for entry in record.entries.values())


@posix_only
def test_a_stopped_pass_goes_on_with_the_same_files(made, tmp_path):
    """The names are in the report before the files: what was written stays, under its name."""
    drawings, record, env, key = made
    stand_in = env.python.read_text()
    env.python.write_text(stand_in + "sys.exit(1)\n")
    with pytest.raises(QuickstartError, match="could not be carried"):
        keyed.carry(key, drawings, record, env, Status())
    (work,) = (tmp_path / "out" / ".keyed").iterdir()
    (work / "found").touch()
    env.python.write_text(stand_in.replace("with open", LOOK, 1))
    files = keyed.carry(key, drawings, Record(tmp_path / "out", {}), env, Status())
    assert [file.name for file in files] == ["a1.png", "a2.png", "a10.png"]
    assert len(list((tmp_path / "out" / "keyed").iterdir())) == 3


@posix_only
def test_layered_documents_lie_beside(made, tmp_path):
    drawings, record, env, key = made
    keyed.carry(keyed.Keys(key.painted, layers="psd"), drawings, record, env, Status())
    assert (tmp_path / "out" / "keyed" / "a10.psd").read_text() == "layers"


@posix_only
def test_a_document_of_other_colours_is_not_taken_for_the_new_one(made, tmp_path):
    drawings, record, env, key = made
    old = tmp_path / "out" / "keyed" / "a2.psd"
    old.parent.mkdir()
    old.write_text("old")
    keyed.carry(keyed.Keys(key.painted, layers="psd"), drawings, record, env, Status())
    assert report(tmp_path / "out")["drawings"][1]["keyed_layers"] == "keyed/a2-2.psd" and old.read_text() == "old"
    assert (old.parent / "a2-2.psd").read_text() == "layers"


@posix_only
def test_a_report_that_names_files_elsewhere_is_not_believed(made, tmp_path):
    drawings, record, env, key = made
    keyed.carry(key, drawings, record, env, Status())
    record.entries["a2.png"].keyed = "../keys/a2.png"
    with pytest.raises(QuickstartError, match="outside its folder"):
        keyed.carry(key, drawings, record, env, Status())
    for entry in record.entries.values():  # a pass that was stopped
        entry.keyed_with += "?"
    before = key.painted[0].file.read_bytes()
    with pytest.raises(QuickstartError, match="outside its folder"):
        keyed.carry(key, drawings, record, env, Status())
    assert key.painted[0].file.read_bytes() == before


@posix_only
def test_a_real_key_pass(start, tmp_path):
    """The whole command with the pretended ComfyUI: its pictures are none, so the pass says so and keeps the others."""
    folder = tmp_path / "cut"
    folder.mkdir()
    (folder / "a1.png").write_bytes(png(64, 64, "drawing"))
    (tmp_path / "a1.png").write_bytes(png(64, 64, "key"))
    code, out, err = start("finish", "--sketch", "cut", "--output", "out", "--key", "a1.png").end()
    assert code == 1 and "1 of 1: a1.png" in out and "has no lines" in err
    assert json.loads((tmp_path / "out" / "report.json").read_text())["counts"]["done"] == 1
