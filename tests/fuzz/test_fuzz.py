"""The fuzz harness: a short slice on a real server, graphs that repeat, and problems that are seen."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from tests import fuzz
from tests.fuzz.graphs import Maker
from tests.fuzz.run import Counts, Fuzz

INFO = {
    "Load": {"input": {"required": {}}, "output": ["IMAGE"], "category": "image"},
    "Invert": {"input": {"required": {"image": ["IMAGE"]}}, "output": ["IMAGE"], "category": "image"},
    "Show": {
        "input": {"required": {"images": ["IMAGE"], "width": ["INT", {"default": 64, "min": 1, "max": 999}]}},
        "output": [],
        "category": "image",
    },
}
FLOW = {
    "1": {"class_type": "Load", "inputs": {}},
    "2": {"class_type": "Show", "inputs": {"images": ["1", 0], "width": 512, "steps": 20}},
}


def test_a_seed_and_number_give_the_same_graph():
    one, two = (Maker(INFO, [FLOW], ["a.png"], seed=3) for _ in range(2))
    graphs = [one.graph(number) for number in range(40)]
    assert graphs == [two.graph(number) for number in range(40)]
    assert graphs != [Maker(INFO, [FLOW], ["a.png"], seed=4).graph(number) for number in range(40)]
    assert any(node["class_type"] == "Invert" for graph in graphs for node in graph.values())
    assert FLOW["2"]["inputs"]["width"] == 512 and one.probe()["2"]["inputs"] | {"images": 0} == {
        "images": 0, "width": 128, "steps": 2,
    }  # fmt: skip


@pytest.mark.parametrize(
    "node, kind, trace, outcome",
    [
        ("ColorizeApplyReference", "ValueError", "", "told"),
        ("ColorizeApplyReference", "x.CheckpointError", "", "told"),
        ("ColorizeApplyReference", "KeyError", "", "problem"),
        ("KSampler", "RuntimeError", "custom_nodes/colorize-diffusion/model_patches/payload.py", "problem"),
        ("ImageCrop", "RuntimeError", "nodes.py", "theirs"),
        ("SaveImage", "OSError", "cache/colorize-diffusion/env-1/lib/PIL/Image.py", "theirs"),
    ],
)
def test_a_traceback_that_is_no_message_of_ours_is_a_problem(tmp_path, node, kind, trace, outcome):
    (tmp_path / "log").write_text("nothing")
    server = SimpleNamespace(log=tmp_path / "log")
    run = Fuzz(server, Maker(INFO, [FLOW], ["a.png"], 3), tmp_path / "found")
    error = {"node_type": node, "exception_type": kind, "exception_message": "m", "traceback": [trace]}
    run._judge(7, FLOW, {"status": {"messages": [["execution_error", error]]}})
    assert dict(run.counts.outcomes) == {outcome: 1}
    if outcome == "problem":
        assert "--seed 3 --only 7" in run.counts.problems[0]
        assert json.loads((tmp_path / "found" / "3-7.json").read_text()) == FLOW


def test_a_picture_that_is_no_number_is_a_problem(tmp_path):
    log = tmp_path / "log"
    log.write_text("old: invalid value encountered in cast\n")
    run = Fuzz(SimpleNamespace(log=log), Maker(INFO, [FLOW], ["a.png"], 3), tmp_path)
    run._read = log.stat().st_size
    run._judge(0, FLOW, {"status": {"messages": []}})
    assert run.counts.problems == []
    log.write_text(log.read_text() + "RuntimeWarning: invalid value encountered in cast\n")
    run._judge(1, FLOW, {"status": {"messages": []}})
    assert "not a number" in run.counts.problems[0]


@pytest.mark.server
@pytest.mark.slow
def test_a_slice(live_server, tmp_path):
    """Twelve graphs: nothing dies, hangs, leaks or ends in a traceback."""
    counts: Counts = fuzz.fuzz(live_server, range(12), seed=1, every=12, output=tmp_path)
    assert not counts.problems, counts
    assert sum(counts.outcomes.values()) == 12
