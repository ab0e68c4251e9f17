"""Findings on the samplers of a graph: are they set as the model likes it?

A graph is what ComfyUI runs: node id -> {"class_type", "inputs"}, where [node id, output] is a connection. What a
sampler is set to stands nowhere else: Preflight comes before it. Words are mild, because a sampler is a matter of taste
as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..distilled import Distilled
from ..sampler_settings import SamplerSettings
from .finding import Finding, Inputs

Graph = Mapping[str, Any]

MANY = 2.5  # times the steps that are enough
GUIDED = 2.0  # times the guidance that the model likes, or that share of it
SETTINGS = ("sampler_name", "scheduler", "steps", "cfg")  # inputs by which a sampler is known


def samplers_of(graph: Graph, node_id: str) -> tuple[SamplerSettings, ...]:
    """How the samplers of a graph are set that start from noise, where their model is the one of the node `node_id`.

    One behind a LoRA that this node's model has not been through is left out: it may be a student.
    """
    own = list(_models(graph, node_id))
    found = []
    for number in graph:
        inputs = _inputs(graph, number)
        chain = list(_models(graph, number))
        if (
            not all(isinstance(inputs.get(name), (str, int, float)) for name in SETTINGS)
            or not chain
            or own[-1:] != chain[-1:]
        ):
            continue
        added = any("Lora" in str(_node(graph, other).get("class_type")) for other in chain if other not in own)
        whole = inputs.get("denoise", 1) == 1 and inputs.get("start_at_step", 0) == 0
        if whole and not added and isinstance(inputs["steps"], int) and not isinstance(inputs["cfg"], str):
            sampler, scheduler = str(inputs["sampler_name"]), str(inputs["scheduler"])
            found.append(SamplerSettings(sampler, scheduler, inputs["steps"], float(inputs["cfg"])))
    return tuple(dict.fromkeys(found))


def _node(graph: Graph, number: str) -> Mapping[str, Any]:
    node = graph.get(number)
    return node if isinstance(node, Mapping) else {}


def _inputs(graph: Graph, number: str) -> Mapping[str, Any]:
    inputs = _node(graph, number).get("inputs")
    return inputs if isinstance(inputs, Mapping) else {}


def _models(graph: Graph, number: str) -> Iterator[str]:
    """The nodes that a node's MODEL comes through, the nearest first, the loader last."""
    seen = {number}
    while isinstance(link := _inputs(graph, number).get("model"), list) and link and str(link[0]) not in seen:
        number = str(link[0])
        seen.add(number)
        if number in graph:
            yield number


def sampler_findings(inputs: Inputs) -> list[Finding]:
    """What is far from what the model likes, one finding a sampler."""
    if inputs.colorizer is None:
        return []
    wanted = inputs.student.settings if inputs.student is not None else inputs.colorizer.family.sampler
    found = []
    for used in inputs.samplers:
        remarks = list(_remarks(used, wanted, inputs.student))
        if remarks:
            text = f"A sampler of this graph takes {used.words()}: {'; '.join(remarks)}."
            fix = f"This model likes {wanted.words()}. If you like the picture, leave it as it is."
            found.append(Finding("note", "model", text, fix))
    return found


def _remarks(used: SamplerSettings, wanted: SamplerSettings, student: Distilled | None) -> Iterator[str]:
    if used.steps >= MANY * wanted.steps:
        yield f"{wanted.steps} steps are enough, so a picture takes {used.steps / wanted.steps:.0f} times as long"
    elif 2 * used.steps < wanted.steps:
        yield "so few steps leave colours vague"
    if student is not None and used.cfg > wanted.cfg:
        yield f"its answers contain guidance {student.guidance:g}, and cfg above {wanted.cfg:g} guides it once more"
    elif used.cfg > GUIDED * wanted.cfg:
        yield "so much guidance makes colours too strong"
    elif student is None and GUIDED * used.cfg <= wanted.cfg:
        yield "so little guidance leaves colours pale"
