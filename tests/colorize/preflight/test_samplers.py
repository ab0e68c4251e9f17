"""Preflight looks at the samplers of the graph: those of its own model, and mildly."""

import json
import sys
from types import SimpleNamespace

import pytest

from colorize.distilled import Distilled
from colorize.families import Family
from colorize.preflight.examine import Inputs, examine
from colorize.preflight.samplers import samplers_of
from colorize.sampler_settings import PAPER, SMALL, SamplerSettings


def sampler(model, steps=20, cfg=2.0, scheduler="simple", **others):
    inputs = {"model": model, "sampler_name": "euler", "scheduler": scheduler, "steps": steps, "cfg": cfg} | others
    return {"class_type": "KSampler", "inputs": inputs}


def graph(**nodes):
    """A loader "1", Apply Reference "2" behind it, Preflight "3" at the loader, and these."""
    own = {
        "1": {"class_type": "ColorizeLoadCheckpoint", "inputs": {"ckpt_name": "a.safetensors"}},
        "2": {"class_type": "ColorizeApplyReference", "inputs": {"model": ["1", 0]}},
        "3": {"class_type": "ColorizePreflight", "inputs": {"model": ["1", 0]}},
        "4": {"class_type": "LoraLoaderModelOnly", "inputs": {"model": ["1", 0], "lora_name": "student"}},
        "5": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "b.safetensors"}},
    }
    return own | {f"n{number}": node for number, node in enumerate(nodes.values())}


def settings(steps=20, cfg=2.0, scheduler="simple"):
    return SamplerSettings("euler", scheduler, steps, cfg)


@pytest.mark.parametrize(
    ("node", "seen"),
    [
        (sampler(["2", 0]), True),
        (sampler(["1", 0], denoise=1.0), True),
        (sampler(["2", 0], denoise=0.5), False),  # a second pass
        (sampler(["2", 0], start_at_step=8), False),
        (sampler(["4", 0]), False),  # behind a LoRA: it may be a student
        (sampler(["5", 0]), False),  # another model
        (sampler(["gone", 0]), False),
        (sampler(["2", 0], steps=["7", 0]), False),  # from another node: not known
        ({"class_type": "KSampler", "inputs": {"model": ["2", 0]}}, False),
        ({"class_type": "KSampler"}, False),
        (3, False),
    ],
)
def test_which_samplers_count(node, seen):
    assert samplers_of(graph(a=node), "3") == ((settings(),) if seen else ())


def test_preflight_behind_the_lora_sees_the_student():
    nodes = graph(a=sampler(["4", 0], 2, 1.0))
    nodes["3"]["inputs"]["model"] = ["4", 0]
    assert samplers_of(nodes, "3") == (settings(2, 1.0),)


def test_graphs_that_are_none_end():
    round_and_round = {"1": {"inputs": {"model": ["2", 0]}}, "2": sampler(["1", 0])}
    assert samplers_of(round_and_round, "1") == () and samplers_of({}, "None") == ()
    assert samplers_of({"2": sampler(["9", 0])}, "3") == ()


def remarks(used, width=64, student=None):
    family = Family("v1", "ColorizeDiffusion v1", "v", "metadata", width, 1024, 64)
    facts = SimpleNamespace(family=family, file_name="a.safetensors", background_encoder=None)
    found = examine(Inputs(colorizer=facts, samplers=(used,), width=256, height=256, student=student))
    return [finding for finding in found if finding.text.startswith("A sampler")]


@pytest.mark.parametrize("used", [SMALL, settings(8), settings(4, 3.0, "karras"), settings(2, 1.5)])
def test_what_is_near_is_not_spoken_of(used):
    assert remarks(used) == []


def test_the_papers_settings_are_near_for_a_model_of_full_size():
    assert remarks(PAPER, 320) == [] and remarks(settings(30, 5.0, "karras"), 320) == []


@pytest.mark.parametrize(
    ("used", "text"),
    [
        (settings(20), "4 steps are enough, so a picture takes 5 times as long"),
        (settings(1), "so few steps leave colours vague"),
        (settings(4, 7.0), "so much guidance makes colours too strong"),
        (settings(4, 1.0), "so little guidance leaves colours pale"),
    ],
)
def test_what_is_far_is_a_note(used, text):
    (finding,) = remarks(used)
    assert finding.level == "note" and text in finding.text and SMALL.words() in finding.fix


def test_a_student_is_measured_by_its_own():
    student = Distilled(2, 2.0)
    assert remarks(settings(2, 1.0), student=student) == []
    (finding,) = remarks(settings(20, 2.0), student=student)
    assert "2 steps are enough" in finding.text and "contain guidance 2, and cfg above 1" in finding.text


def test_it_is_told_again_when_the_sampler_changes(pack, monkeypatch):
    """ComfyUI keeps a node's answer while its own inputs stay, and the sampler is none of them."""
    node = pack.node("ColorizePreflight")

    def answer(nodes):
        queue = SimpleNamespace(currently_running={0: (1, "id", nodes, {}, [])})
        instance = SimpleNamespace(prompt_queue=queue)
        monkeypatch.setitem(sys.modules, "server", SimpleNamespace(PromptServer=SimpleNamespace(instance=instance)))
        return node.fingerprint_inputs(width=256)

    first, second = (answer(graph(a=sampler(["2", 0], steps))) for steps in (20, 4))
    assert first != second == answer(graph(a=sampler(["2", 0], 4, seed=9)))
    monkeypatch.delitem(sys.modules, "server")
    assert json.loads(node.fingerprint_inputs(width=256)) == []
