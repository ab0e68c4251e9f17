"""`show`: one page that holds everything, of runs that are whole, half written, or compared."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from trainer.__main__ import main
from trainer.commands.show import evenly, read_run
from trainer.config import ConfigError
from trainer.run.curves import Curve, chart, thinned, ticks


@pytest.fixture
def runs(tmp_path) -> list[Path]:
    """Two runs of 40 steps with validations and sheets, and another seed."""
    made = []
    for seed, name in enumerate(("first", "second <b>")):
        folder = tmp_path / name
        (folder / "samples").mkdir(parents=True)
        config = {"run": {"stage": "v1", "steps": 40, "seed": seed}, "data": {"folder": "/media/somebody/pictures"}}
        (folder / "config.json").write_text(json.dumps(config))
        speed = {"lr": 1e-4, "grad_norm": 0.5, "images_per_s": 3.0, "s_per_step": 1}
        lines = [{"step": step, "denoising": 1 / step} | speed for step in range(1, 41)]
        (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 41, "den')
        validation = [
            {"step": step, "validation": 2.0 - step / 40, "entanglement": 0.1}
            | {f"validation_t{level}": level * 0.1 + 1 / (step + 1) for level in range(10)}
            for step in (0, 20, 40)
        ]
        (folder / "validation.jsonl").write_text("".join(json.dumps(line) + "\n" for line in validation))
        (folder / "best.json").write_text(json.dumps({"checkpoint": "step-00000020", "step": 20, "validation": 1.5}))
        for step in (0, 20, 40):
            Image.new("RGB", (1500, 300), (step, 0, 0)).save(folder / "samples" / f"step-{step:08d}.png")
        made.append(folder)
    return made


class Page(HTMLParser):
    """Checks that tags are closed in order, and collects addresses."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.sources += [value for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_page_holds_everything(runs, capsys):
    assert main(["show", str(runs[0])]) == 0
    assert "show.html" in capsys.readouterr().out
    text = (runs[0] / "show.html").read_text(encoding="utf-8")
    page = Page(text)
    assert len(page.sources) == 3 and all(source.startswith("data:image/webp;base64,") for source in page.sources)
    image = Image.open(io.BytesIO(base64.b64decode(page.sources[0].partition(",")[2])))
    assert image.size == (1200, 240)
    for word in (
        "denoising",
        "noise level",
        "entanglement",
        "before the first step",
        "40 of 40",
        "1 at step 40",
        "run.seed",
    ):
        assert word in text
    assert "first, step 0" in text and "first, step 20" in text  # by noise level: the first validation and the best
    assert "/media/somebody" not in text and "http" not in text.replace("http-equiv", "")


def test_two_runs_are_compared(runs, tmp_path):
    assert main(["show", *map(str, runs), "--output", str(tmp_path / "page.html")]) == 0
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    Page(text)
    assert "<b>" not in re.sub(r"<figcaption><b>", "", text) and "second &lt;b&gt;" in text
    differ = text.partition("Those that differ:")[2].partition("</table>")[0]
    assert "run.seed" in differ and "run.stage" not in differ


def test_a_sheet_that_cannot_be_read_is_named(runs):
    sheet = sorted((runs[0] / "samples").iterdir())[0]
    sheet.write_bytes(b"half a picture")
    assert main(["show", str(runs[0])]) == 0
    text = (runs[0] / "show.html").read_text(encoding="utf-8")
    assert f"{sheet.name}: it is empty, or no picture" in text and len(Page(text).sources) == 2


def test_a_run_that_has_just_begun_is_shown(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert main(["show", str(tmp_path)]) == 0
    Page((tmp_path / "show.html").read_text(encoding="utf-8"))


def test_another_folder_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no config.json.*runs/NAME"):
        read_run(tmp_path)


def test_curves_of_any_numbers():
    assert chart("nothing", [Curve("a", [], "red")]) == ""
    for points in ([(1, 5.0)], [(1, 0.0), (2, 0.0)], [(0, -1e9), (1e6, 1e9)], [(1, float("nan")), (2, 1.0)]):
        text = chart("a < b", [Curve("a", points, "red")])
        Page(text)
        assert "nan" not in text and "inf" not in text
    assert len(thinned([(x, 1.0) for x in range(10_000)])) <= 300
    assert ticks(0, 10) == [0, 2, 4, 6, 8, 10] and ticks(3, 3) == [3]
    assert evenly(list(range(100)), 3) == [0, 50, 99] and evenly([1, 2]) == [1, 2]
