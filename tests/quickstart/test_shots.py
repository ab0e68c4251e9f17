"""Many drawings by one command, against a pretended ComfyUI: order, report, going on after a stop, bad drawings."""

import json
import os
import signal
import struct
import zlib
from pathlib import Path

import pytest

from quickstart_lib import frames, videos
from quickstart_lib.errors import QuickstartError
from quickstart_lib.record import DONE, FAILED, Record, digest

posix_only = pytest.mark.skipif(os.name == "nt", reason="POSIX signals")


def png(width: int, height: int, remark: str = "") -> bytes:
    """A white drawing with a remark inside."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress((b"\0" + b"\xff" * width) * height)
    text = chunk(b"tEXt", b"Comment\0" + remark.encode())
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + text + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.fixture
def cut(tmp_path):
    """A folder of three drawings whose names do not sort by letters."""
    folder = tmp_path / "cut"
    folder.mkdir()
    for number in (1, 2, 10):
        (folder / f"a{number}.png").write_bytes(png(64, 64, f"<drawing {number}>"))
    (folder / "notes.txt").write_text("no picture", encoding="utf-8")
    return folder


def report(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


def test_natural_order_and_what_is_a_drawing(cut):
    (cut / ".a3.png").write_bytes(b"")
    assert [drawing.label for drawing in frames.listed(cut)] == ["a1.png", "a2.png", "a10.png"]
    assert [drawing.label for drawing in frames.listed(cut / "*0.png")] == ["a10.png"]


def test_pictures_keep_the_folders_and_names_of_their_drawings(cut):
    (cut / "b").mkdir()
    for name in ("a1.jpg", "b/a1.png"):
        (cut / name).write_bytes(b"x")
    found = frames.listed(cut / "**" / "*")
    assert {drawing.label: drawing.target for drawing in found} == {
        "a1.jpg": "a1_jpg.png",
        "a1.png": "a1_png.png",
        "a2.png": "a2.png",
        "a10.png": "a10.png",
        "b/a1.png": "b/a1.png",
    }


@pytest.mark.parametrize("name, many", [("cut", True), ("cut/a*.png", True), ("x.mp4", True), ("a.png", False)])
def test_what_names_many(cut, name, many):
    assert frames.is_many(cut.parent / name) is many and not frames.is_many(None)


def test_a_file_with_a_star_in_its_name_is_one_drawing(tmp_path):
    (tmp_path / "[1].png").write_bytes(b"x")
    assert not frames.is_many(tmp_path / "[1].png")


def test_a_folder_without_pictures_is_told(tmp_path):
    with pytest.raises(QuickstartError, match="holds no picture"):
        frames.listed(tmp_path)


def test_a_video_gets_its_pictures_beside_it(tmp_path):
    target = videos.Target.of(tmp_path / "out.mp4")
    assert target.frames == tmp_path / "out_frames" and target.video == tmp_path / "out.mp4"


@posix_only
def test_a_folder_in_a_folder_out(start, cut, tmp_path):
    run = start("finish", "--sketch", "cut", "--output", "out")
    code, out, err = run.end()
    assert code == 0, err
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["a1.png", "a10.png", "a2.png", "report.json"]
    known = report(tmp_path / "out")
    assert known["counts"] == {"done": 3, "failed": 0, "all": 3}
    assert [entry["sketch"] for entry in known["drawings"]] == ["a1.png", "a2.png", "a10.png"]
    assert "3 of 3: a10.png" in out and f"Pictures: 3 of 3 in {tmp_path / 'out'}" in out
    assert known["drawings"][0]["findings"] == ["PROBLEM (sketch): The sketch is blank."]
    assert len(run.pids_file.read_text().split()) == 3  # one server
    assert run.still_running() == [] and run.leftovers() == []


@posix_only
def test_the_same_command_does_nothing_twice(start, cut, tmp_path):
    start("finish", "--sketch", "cut").end()
    (cut / "a2.png").write_bytes(png(64, 64, "drawn anew"))
    run = start("finish", "--sketch", "cut")
    prompts = Path(f"{run.pids_file}.prompts")
    prompts.unlink()
    code, out, _ = run.end()
    assert code == 0 and "2 of them coloured already" in out and "they stay" in out
    assert prompts.read_text().split() == ["frame_000002.png"]
    assert (tmp_path / "colorized" / "a2-2.png").is_file()  # nobody's picture is written over


@posix_only
def test_a_bad_drawing_does_not_end_the_others(start, cut, tmp_path):
    (cut / "a3.png").write_bytes(png(64, 64)[:40])
    run = start("fail", "--sketch", "cut", FAKE_AT="<drawing 2>")
    code, out, _ = run.end()
    entries = {entry["sketch"]: entry for entry in report(tmp_path / "colorized")["drawings"]}
    assert code == 1 and "Pictures: 2 of 4" in out
    assert {name: entry["state"] for name, entry in entries.items()} == {
        "a1.png": DONE,
        "a2.png": FAILED,
        "a3.png": FAILED,
        "a10.png": DONE,
    }
    assert "bad picture" in entries["a2.png"]["why"] and "cut off" in entries["a3.png"]["why"]


@posix_only
def test_a_drawing_that_ends_the_server_is_given_up_and_the_others_are_coloured(start, cut, tmp_path):
    run = start("die", "--sketch", "cut", FAKE_AT="<drawing 2>")
    code, out, _ = run.end()
    states = {entry["sketch"]: entry["state"] for entry in report(tmp_path / "colorized")["drawings"]}
    assert code == 1 and states == {"a1.png": DONE, "a2.png": FAILED, "a10.png": DONE}
    assert out.count("Starting it again") == 2 and run.still_running() == []


@posix_only
def test_a_killed_run_goes_on(start, cut, tmp_path):
    run = start("finish", "--sketch", "cut")
    run.until(tmp_path / "colorized" / "a1.png")
    run.process.send_signal(signal.SIGKILL)
    run.process.communicate()
    before = (tmp_path / "colorized" / "a1.png").stat().st_mtime_ns
    code, _, err = start("finish", "--sketch", "cut").end()
    assert code == 0, err
    assert (tmp_path / "colorized" / "a1.png").stat().st_mtime_ns == before
    assert report(tmp_path / "colorized")["counts"]["done"] == 3
    assert not list((tmp_path / "colorized").glob("*-2.png"))


@posix_only
def test_two_runs_in_one_folder(start, cut, tmp_path):
    first = start("hang", "--sketch", "cut")
    first.until(tmp_path / "colorized" / "report.json")
    code, _, err = start("finish", "--sketch", "cut").end()
    assert code == 1 and "Another quickstart is writing" in err


def test_a_picture_that_appeared_before_a_kill_counts(tmp_path):
    record = Record(tmp_path, {})
    entry = record.take("a.png", "k")
    entry.state, entry.picture = "writing", "a.png"
    record.save()
    assert Record(tmp_path, {}).take("a.png", "k").state == "to do"
    (tmp_path / "a.png").write_bytes(b"x")
    assert Record(tmp_path, {}).take("a.png", "k").state == DONE
    assert Record(tmp_path, {}).take("a.png", "other").state == "to do"


ODD_ENTRIES = ['{"sketch": 5}', '{"sketch": "a", "key": "k", "keyed": 5}']
ODD_REPORTS = [f'{{"version": 1, "drawings": [{entry}]}}' for entry in ODD_ENTRIES]


@pytest.mark.parametrize("text", ["", "[]", '{"version": 9}', *ODD_REPORTS, "[" * 99999])
def test_a_file_that_is_no_report_is_told(tmp_path, text):
    (tmp_path / "report.json").write_text(text, encoding="utf-8")
    with pytest.raises(QuickstartError, match="no report of quickstart"):
        Record(tmp_path, {})


def test_a_strangers_report_points_nowhere_else(tmp_path):
    entry = {"sketch": "a", "key": "k", "state": DONE, "picture": "../../x.png"}
    (tmp_path / "report.json").write_text(json.dumps({"version": 1, "drawings": [entry]}), encoding="utf-8")
    with pytest.raises(QuickstartError, match="outside its folder"):
        Record(tmp_path, {}).take("a", "k")


def test_parts_of_a_key_do_not_run_together():
    assert digest("ab", "c") != digest("a", "bc")


def test_video_there_and_back(tmp_path):
    av = pytest.importorskip("av")
    from PIL import Image

    from quickstart_lib import video_frames

    (tmp_path / "in").mkdir()
    for number in range(1, 6):
        Image.new("RGB", (65, 48), (40 * number, 0, 0)).save(tmp_path / "in" / f"{number}.png")
    (tmp_path / "list").write_text("\n".join(str(tmp_path / "in" / f"{n}.png") for n in range(1, 6)), encoding="utf-8")
    video_frames.join(str(tmp_path / "v.mp4"), "25/2", str(tmp_path / "list"))
    with av.open(str(tmp_path / "v.mp4")) as container:
        assert container.streams.video[0].average_rate == 12.5 and container.streams.video[0].frames == 5
    (tmp_path / "out").mkdir()
    video_frames.split(str(tmp_path / "v.mp4"), str(tmp_path / "out"))
    reds = [Image.open(file).getpixel((10, 10))[0] for file in sorted((tmp_path / "out").iterdir())]
    assert len(reds) == 5 and all(abs(red - 40 * number) < 12 for number, red in enumerate(reds, 1))


@posix_only
def test_every_drawing_of_a_folder_gets_a_layered_document(start, cut, tmp_path):
    code, _, err = start("finish", "--sketch", "cut", "--output", "out", "--layers", "psd").end()
    assert code == 0, err
    assert (tmp_path / "out" / "a10.psd").read_bytes() == b"8BPS layers" and (tmp_path / "out" / "a10.png").is_file()
    known = report(tmp_path / "out")
    assert known["drawings"][2]["layers"] == "a10.psd" and known["about"]["layers"] == "psd"
    (tmp_path / "out" / "a10.psd").unlink()
    assert Record(tmp_path / "out", {}).take("a10.png", known["drawings"][2]["key"]).state == "to do"
    (tmp_path / "out" / "a1.png").unlink()  # its document stays, and a new one gets a number
    code, _, err = start("finish", "--sketch", "cut", "--output", "out", "--layers", "psd").end()
    named = {entry["sketch"]: entry["layers"] for entry in report(tmp_path / "out")["drawings"]}
    assert code == 0 and named == {"a1.png": "a1-2.psd", "a2.png": "a2.psd", "a10.png": "a10-2.psd"}, err
    assert (tmp_path / "out" / "a1-2.psd").is_file()
