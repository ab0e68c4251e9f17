"""The fuzz harness: a short slice on a real server, graphs that repeat, and problems that are seen."""

from __future__ import annotations

import io
import json
from types import SimpleNamespace

import pytest
from PIL import Image

from tests import fuzz
from tests.fuzz.graphs import Maker
from tests.fuzz.memory import grows
from tests.fuzz.probes import Probes
from tests.fuzz.run import Counts, Fuzz
from tests.workflows.shipped import api

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
    probe = one.probes()[0]["2"]["inputs"]
    assert FLOW["2"]["inputs"]["width"] == 512 and probe["width"] == 128 and probe["steps"] == 2


OURS = '  File "/c/custom_nodes/colorize-diffusion/model_patches/payload.py", line 3, in f\n'
OTHERS = '  File "/c/nodes.py", line 9, in g\n    raise ValueError("bad")\n'


@pytest.mark.parametrize(
    "node, kind, frames, outcome",
    [
        ("ColorizeApplyReference", "ValueError", [OURS + "    raise ValueError(\n"], "told"),
        ("KSampler", "x.PaletteError", [OTHERS, OURS + "    raise PaletteError(text) from None\n"], "told"),
        ("ColorizeApplyReference", "ValueError", [OURS + "    height, width = size\n"], "problem"),
        ("ColorizeApplyReference", "KeyError", [OTHERS], "problem"),
        ("KSampler", "RuntimeError", [OURS + "    return q @ k\n"], "problem"),
        ("KSampler", "ValueError", [OURS + "    return plain(x)\n", OTHERS], "problem"),
        ("KSampler", "comfy.model_management.OOM_EXCEPTION", [OURS], "told"),
        ("ImageCrop", "RuntimeError", [OTHERS], "theirs"),
        ("KSampler", "RuntimeError", [OURS.replace("in f", "in remember_seed"), OTHERS], "theirs"),
        ("KSampler", "RuntimeError", [OURS.replace("in f", "in remember_seed"), OURS, OTHERS], "problem"),
        ("SaveImage", "OSError", ['File "cache/colorize-diffusion/env-1/lib/PIL/Image.py"'], "theirs"),
    ],
)
def test_a_traceback_that_is_no_message_of_ours_is_a_problem(tmp_path, node, kind, frames, outcome):
    (tmp_path / "log").write_text("nothing")
    server = SimpleNamespace(log=tmp_path / "log")
    run = Fuzz(server, Maker(INFO, [FLOW], ["a.png"], 3), tmp_path / "found")
    error = {"node_type": node, "exception_type": kind, "exception_message": "m", "traceback": frames}
    run._judge(7, FLOW, {"status": {"messages": [["execution_error", error]]}})
    assert dict(run.counts.outcomes) == {outcome: 1}
    if outcome == "problem":
        assert "--seed 3 --only 7" in run.counts.problems[0]
        assert json.loads((tmp_path / "found" / "3-7.json").read_text()) == FLOW


def test_a_node_for_another_kind_of_model_is_not_ours(tmp_path):
    (tmp_path / "log").write_text("nothing")
    run = Fuzz(SimpleNamespace(log=tmp_path / "log"), Maker(INFO, [FLOW], ["a.png"], 3), tmp_path / "found")
    error = {"node_type": "KSampler", "exception_type": "ValueError", "exception_message": "not enough values"}
    entry = {"status": {"messages": [["execution_error", error | {"traceback": [OURS, OTHERS]}]]}}
    run._judge(7, {"1": {"class_type": "FluxKVCache", "inputs": {}}}, entry)
    run._judge(8, FLOW, entry)
    assert dict(run.counts.outcomes) == {"theirs": 1, "problem": 1}


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
    log.write_text(log.read_text() + "RuntimeWarning: invalid value encountered in cast\n")
    run._judge(2, {"1": {"class_type": "ModelSamplingFlux", "inputs": {}}}, {"status": {"messages": []}})
    log.write_text(log.read_text() + "RuntimeWarning: invalid value encountered in cast\n")
    run._judge(3, {"1": {"class_type": "FreeU_V2", "inputs": {}}}, {"status": {"messages": []}})
    assert len(run.counts.problems) == 1


class Pictures:
    """A server of which only the pictures matter: of every graph the colour that `colour` says, or none."""

    def __init__(self, colour):
        self.colour, self.asked = colour, []

    def post_json(self, path, document):
        self.asked.append(path)
        return 200, {"prompt_id": document.get("prompt")}

    def entry(self, graph):
        colour = self.colour(graph)
        saved = [] if colour is None else [{"type": "output", "filename": colour}]
        preview = {"images": [{"type": "temp", "filename": f"#{len(self.asked):06}"}]}
        return {"status": "it failed", "outputs": {"2": {"images": saved}, "3": preview}}

    def fetch(self, image):
        out = io.BytesIO()
        Image.new("RGB", (2, 2), image["filename"]).save(out, "png")
        return out.getvalue()


def probed(colours, monkeypatch):
    monkeypatch.setattr("tests.fuzz.probes.FREEING", 0)
    graph = {"1": {"class_type": "Sampler", "inputs": {"seed": 1}}}
    server = Pictures(lambda graph: colours[graph["1"]["inputs"]["seed"]])
    return Probes(server, [graph], server.entry), server


def test_a_picture_that_changes_between_two_probes_is_a_leak(monkeypatch):
    colours = {1: "red", 2: "blue"}
    probes, server = probed(colours, monkeypatch)
    assert probes.compare() == [] and probes.compare() == [] and server.asked.count("/free") == 2
    colours[1] = "green"
    assert len(leaks := probes.compare()) == 2 and all("state leaked" in leak for leak in leaks)
    colours[1] = None
    assert "no picture: it failed" in probes.compare()[0]
    with pytest.raises(RuntimeError, match="no picture"):
        probed({1: None, 2: None}, monkeypatch)[0].compare()


def test_memory_that_grows_is_told():
    flat = [1000.0] * 500
    assert grows(flat) == "" and grows([*flat[:400], *[1019.0] * 100]) == ""
    assert "from 1000 MiB (second hundred) to 1021 MiB" in grows([*flat[:400], *[1021.0] * 100])


def test_shares_add_up():
    one, two = Counts(run=2, slowest=[(5.0, 1), (1.0, 0)]), Counts(run=3, slowest=[(7.0, 9)], problems=["p"])
    one.outcomes["done"], two.outcomes["done"] = 2, 3
    one += two
    assert (one.run, one.outcomes["done"], one.slowest[0], one.problems) == (5, 5, (7.0, 9), ["p"])


def test_every_workflow_has_its_stand_ins():
    from tests.fuzz import models

    there = {*models.makers(), "animediffusion_small.safetensors"}
    for name in fuzz.ALL:
        for node in json.loads(api(name).read_text()).values():
            if node["class_type"].startswith("ColorizeLoad"):
                assert {value for key, value in node["inputs"].items() if key.endswith("_name")} <= there


@pytest.mark.server
@pytest.mark.slow
def test_a_slice(live_server, tmp_path):
    """Twelve graphs: nothing dies, hangs, leaks or ends in a traceback."""
    counts: Counts = fuzz.fuzz(live_server, range(12), seed=1, every=12, output=tmp_path)
    assert not counts.problems, counts
    assert sum(counts.outcomes.values()) == 12
