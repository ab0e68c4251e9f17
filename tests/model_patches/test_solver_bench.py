"""`python -m tests.bench solvers`: the same pairs and noise for every setting, counted passes, and what is kept."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from tests import tiny
from tests.bench.solvers import name_of, table


@pytest.fixture
def job(folders, tmp_path, tiny_file, encoder):
    """The file of a job over two pairs of 64 pixels; its `plan` is empty."""
    for number in range(2):
        for kind, values in (("sketch", tiny.drawing(64, 64, seed=number)), ("reference", tiny.picture(1, 64, 64))):
            file = tmp_path / "pairs" / kind / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((values[0].clamp(0, 1).numpy() * 255).astype("uint8")).save(file)
    content = {
        "plan": [], "pairs": str(tmp_path / "pairs"), "results": str(tmp_path / "results"), "batch": 1, "seed": 3,
        "checkpoint": str(folders.checkpoints / tiny_file), "threads": 0,
        "encoder": str(folders.clip_vision / "tiny_vision.safetensors"),
    }  # fmt: skip
    file = tmp_path / "job.json"

    def write(*settings, **changed):
        plan = [
            dict(zip(("sampler", "scheduler", "steps", "guidance"), each), name=name_of(*each)) for each in settings
        ]
        file.write_text(json.dumps({**content, "plan": plan, **changed}), encoding="utf-8")
        return file

    return write


def test_passes_are_counted_and_what_is_there_is_kept(pack, job, tmp_path, monkeypatch):
    module = pack.module("tests.bench.solvers_run")
    settings = [("euler", "normal", 2, 2.0), ("heun", "karras", 2, 1.0)]
    module.main([str(job(*settings))])
    results = tmp_path / "results"
    counted = {path.name: int((path / "passes.json").read_text()) for path in results.iterdir()}
    assert counted == {"euler normal 2 cfg 2": 4, "heun karras 2 cfg 1": 3}
    first = np.array(Image.open(results / name_of(*settings[0]) / "1.png")).astype(int)
    monkeypatch.setattr(module, "Colouring", lambda job: pytest.fail("nothing is left to do"))
    module.main([str(job(*settings))])
    monkeypatch.undo()
    (results / name_of(*settings[0]) / "passes.json").unlink()
    module.main([str(job(*settings, batch=2))])  # its noise does not depend on the batch
    again = np.array(Image.open(results / name_of(*settings[0]) / "1.png")).astype(int)
    assert np.abs(again - first).max() <= 1


def test_the_table_begins_with_the_fewest_passes():
    block = {"error": 9.0, "error_95": [8.0, 10.0]}
    same = {"shown_background": block, "shown_regions": block, "edge_f1": 0.9}
    runs = [
        {"mode": name, "shown_figure": {**block, "error": error}, **same}
        for name, error in (("slow", 5.0), ("worse", 8.0), ("better", 7.0))
    ]
    lines = table(runs, {"slow": 8, "worse": 4, "better": 4}).splitlines()
    assert [line.split()[0] for line in lines] == ["setting", "better", "worse", "slow"]
    assert "7.00 (8.00 to 10.00)" in lines[1] and lines[1].endswith(" 0.900")
