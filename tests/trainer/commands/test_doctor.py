"""`python -m trainer doctor`: every finding on sets that have it, none on a good one."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from spread.crew import Crew
from trainer.__main__ import main
from trainer.commands import doctor
from trainer.config import ConfigError

GROUPS = ("folders", "names")


def painted(number: int, size: tuple[int, int] = (64, 64)) -> Image.Image:
    """Pictures that look different from each other."""
    random = np.random.default_rng(number)
    blocks = Image.fromarray(random.integers(0, 256, (9, 9, 3), dtype=np.uint8))
    return blocks.resize(size, Image.Resampling.BICUBIC)


def sketch(ground: int = 255, line: int = 0) -> Image.Image:
    image = Image.new("L", (64, 64), ground)
    ImageDraw.Draw(image).ellipse((12, 12, 50, 50), outline=line, width=2)
    return image


def mask(inside: int = 255, outside: int = 0) -> Image.Image:
    image = Image.new("L", (64, 64), outside)
    ImageDraw.Draw(image).rectangle((14, 14, 50, 50), fill=inside)
    return image


@pytest.fixture
def good(tmp_path) -> Path:
    root = tmp_path / "set"
    for part in ("color", "sketch", "mask", "data_index"):
        (root / part).mkdir(parents=True)
    for number in range(4):
        painted(number).save(root / "color" / f"{number}.png")
        sketch().save(root / "sketch" / f"{number}.png")
        mask().save(root / "mask" / f"{number}.png")
    entries = {f"{number}.png": {"width": 64, "height": 64} for number in range(4)}
    (root / "data_index" / "index.json").write_text(json.dumps(entries))
    return root


def examine(root: Path, **options) -> doctor.Diagnosis:
    return doctor.examine(root, 64, progress=False, **options)


def found(root: Path, **options) -> dict[tuple[str, str], doctor.Complaint]:
    """(level, part) -> finding; the tests make one of each."""
    return {(f.level, f.part): f for f in examine(root, **options).findings}


def test_a_good_set_has_no_findings(good):
    diagnosis = examine(good)
    assert diagnosis.findings == [] and diagnosis.healthy and diagnosis.lines()[-1] == "no findings"
    assert diagnosis.counts == {"color": 4, "sketch": 4, "mask": 4}
    assert diagnosis.short_side["min"] == 64 and diagnosis.aspects["1:1"] == 4


def test_groups_are_told(good):
    diagnosis = examine(good)
    assert diagnosis.groups == {by: "4 groups, the largest of 1 pictures (e.g. 0), 4 pictures alone" for by in GROUPS}
    assert any(line.startswith('data.groups = "folders": 4 groups') for line in diagnosis.lines())
    for part in ("color", "sketch", "mask"):
        for path in list((good / part).iterdir()):
            path.rename(path.with_name(f"danbooru_{path.name}"))
    assert "one group by the endings of their names" in found(good)["note", "color"].text
    for part in ("color", "sketch", "mask"):
        (good / part / "anna").mkdir()
        for number in "01":
            (good / part / f"danbooru_{number}.png").rename(good / part / "anna" / f"{number}.png")
    assert examine(good).groups["folders"] == "3 groups, the largest of 2 pictures (e.g. anna/0), 2 pictures alone"
    assert "alone in their folder's group" in found(good)["note", "color"].text


def test_shards_are_examined_alike(good, tmp_path):
    root = tmp_path / "shards"
    for part in ("color", "sketch", "mask"):
        (root / part).mkdir(parents=True)
        with zipfile.ZipFile(root / part / "0001.zip", "w") as archive:
            for path in (good / part).iterdir():
                archive.write(path, f"0001/{path.name}")
    assert examine(root).findings == []
    (root / "color" / "0002.zip").write_bytes(b"torn")
    finding = found(root)["problem", "color"]
    assert "shard cannot be used" in finding.text


def test_unreadable_files_and_missing_counterparts(good):
    path = good / "color" / "0.png"
    path.write_bytes(path.read_bytes()[:300])
    (good / "sketch" / "1.png").unlink()
    (good / "mask" / "2.png").unlink()
    sketch().save(good / "sketch" / "stray.png")
    findings = found(good)
    assert findings["problem", "color"].examples[0].startswith("0 (")
    assert findings["warning", "sketch"].examples == ("1",) and findings["warning", "mask"].examples == ("2",)
    assert findings["note", "sketch"].examples == ("stray",)


def test_a_set_without_any_sketch_breaks_a_run(good):
    for path in (good / "sketch").iterdir():
        path.unlink()
    finding = found(good)["problem", "sketch"]
    assert finding.count == 4 and "prepare" in finding.fix


@pytest.mark.parametrize(
    ("image", "level", "text"),
    [
        (sketch(0, 255), "problem", "light lines on dark paper"),
        (sketch(255, 255), "warning", "blank"),
        (painted(1), "warning", "colours"),
        (sketch().resize((96, 64)), "problem", "other proportions"),
    ],
)
def test_sketches(good, image, level, text):
    image.save(good / "sketch" / "1.png")
    found = [f for f in examine(good).findings if f.part == "sketch" and text in f.text]
    assert [f.level for f in found] == [level] and found[0].examples[0].startswith("1")


@pytest.mark.parametrize(
    ("image", "level", "text"),
    [
        (mask(0, 0), "warning", "empty"),
        (mask(255, 255), "warning", "cover everything"),
        (mask(0, 255), "warning", "leave the middle out"),
        (mask(120, 0), "note", "soft areas"),
    ],
)
def test_masks(good, image, level, text):
    image.save(good / "mask" / "1.png")
    findings = [f for f in examine(good).findings if text in f.text]
    assert [(f.level, f.examples) for f in findings] == [(level, ("1",))]


def test_masks_that_are_mostly_inverted_are_a_problem(good):
    for number in range(3):
        mask(0, 255).save(good / "mask" / f"{number}.png")
    assert found(good)["problem", "mask"].count == 3


def test_duplicates_and_near_duplicates(good):
    (good / "color" / "1.png").write_bytes((good / "color" / "0.png").read_bytes())
    painted(2).resize((128, 128)).save(good / "color" / "3.png")
    findings = found(good)
    assert findings["warning", "color"].examples == ("0 = 1",)
    assert findings["note", "color"].examples == ("2 ~ 3",)


def test_near_duplicates_are_those_of_a_plain_comparison():
    random = np.random.default_rng(0)
    looks = random.integers(1, 2**63, 60, dtype=np.uint64)
    for row in range(20, 60):  # variants of the first ones, 0 to 5 bits apart
        looks[row] = looks[row % 20]
        for bit in random.choice(64, row % 6, replace=False):
            looks[row] ^= np.uint64(1) << np.uint64(bit)
    plain = [
        (a, b)
        for a in range(60)
        for b in range(a + 1, 60)
        if bin(int(looks[a] ^ looks[b])).count("1") <= 3 and looks[a] and looks[b]
    ]
    assert doctor.near_duplicates(looks) == (plain, 0) and len(plain) > 20


def test_small_pictures_and_sample(good):
    painted(7, (40, 80)).save(good / "color" / "1.png")
    sketch().resize((40, 80)).save(good / "sketch" / "1.png")
    mask().resize((40, 80)).save(good / "mask" / "1.png")
    finding = found(good)["warning", "color"]
    assert finding.examples == ("1",) and "enlarged" in finding.text
    assert found(good, sample=2)["note", "color"].count == 2


def test_index_entries(good):
    path = good / "data_index" / "index.json"
    path.write_text(json.dumps({"0.png": {}, "0.jpg": {}, "gone.png": {}}))
    texts = [f.text for f in examine(good).findings if f.part == "data_index/index.json"]
    assert len(texts) == 2 and "no picture" in texts[0] and "twice" in texts[1]
    path.write_text('{"0.png": {')
    assert "cannot be read" in found(good)["problem", "data_index/index.json"].text


def test_two_processes_find_the_same(good):
    sketch(0, 255).save(good / "sketch" / "1.png")
    assert examine(good, crew=Crew(2)) == examine(good)


def test_json_stands_alone_on_standard_output(good, capsys, monkeypatch):
    """What others print meanwhile, as Ray does of a machine that is lost, goes beside it."""
    seen = doctor.examine

    def noisy(*given, **named):
        print("a node was lost")
        return seen(*given, **named)

    monkeypatch.setattr(doctor, "examine", noisy)
    assert main(["doctor", str(good), "--workers", "1", "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["healthy"] and "a node was lost" in told.err


def test_command_prints_a_table_or_json_and_its_status(good, tmp_path, capsys):
    command = ["doctor", str(good), "--size", "64", "--workers", "1"]
    assert main(command) == 0 and "no findings" in capsys.readouterr().out
    sketch(0, 255).save(good / "sketch" / "1.png")
    assert main([*command, "--json"]) == 1
    described = json.loads(capsys.readouterr().out)
    assert described["healthy"] is False and described["findings"][0]["level"] == "problem"
    assert main(["doctor", str(tmp_path)]) == 2
    assert "trainer prepare" in capsys.readouterr().err
    with pytest.raises(ConfigError):
        doctor.examine(tmp_path / "nowhere")
