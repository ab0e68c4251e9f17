"""The subgraph blueprint: the quickstart template as one node, made from the template itself.

ComfyUI lists the files of `subgraphs/` among its blueprints: from a sketch and a reference to a picture by one node
that can be opened. The format (inner nodes, links as objects, the ends -10 and -20) is the frontend's own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.workflows.shipped import ROOT, template

FILE = ROOT / "subgraphs" / "Colorize a sketch.json"
SUBGRAPH = "9a3f0d52-77b1-4c2e-8b3a-5d1c60e4f7a9"
DESCRIPTION = "Colours a sketch the way a colour reference looks, with the bundled small model or an official one."
OUTSIDE = ("LoadImage", "SaveImage", "ColorizePreflight", "MarkdownNote")
INPUTS = {("Sketch", 0): "sketch", ("Sketch", 1): "sketch transparency", ("Reference", 0): "reference"}
INPUTS |= {("Reference", 1): "reference transparency"}
WIDGETS = (  # what the closed node shows: (type, widget)
    ("ColorizeLoadCheckpoint", "ckpt_name"),
    ("ColorizeLoadReferenceEncoder", "encoder_name"),
    ("ColorizePrepareSketch", "width"),
    ("ColorizePrepareSketch", "height"),
    ("KSampler", "seed"),
    ("KSampler", "steps"),
    ("KSampler", "cfg"),
    ("ColorizeRestoreSize", "line_opacity"),
)
START, END = -10, -20  # ids of a subgraph's ends


def made() -> dict[str, Any]:
    """The blueprint of the quickstart template, as it is now."""
    graph = json.loads(template("quickstart").read_text(encoding="utf-8"))
    by_id = {node["id"]: node for node in graph["nodes"]}
    inner = [node for node in graph["nodes"] if node["type"] not in OUTSIDE]
    kept = {node["id"] for node in inner}
    links, ends = [], {name: [] for name in INPUTS.values()}
    result = None
    for number, source, output, target, slot, kind in graph["links"]:
        link = {"id": number, "origin_id": source, "origin_slot": output, "target_id": target, "target_slot": slot}
        if target in kept and source not in kept:
            name = INPUTS[by_id[source]["title"], output]
            ends[name].append(number)
            link |= {"origin_id": START, "origin_slot": list(ends).index(name)}
        elif source in kept and by_id[target]["type"] == "SaveImage":
            result = number
            link |= {"target_id": END, "target_slot": 0}
        elif target not in kept:
            continue
        links.append(link | {"type": kind})
    shown = {link["id"] for link in links}
    for node in inner:
        for output in node["outputs"]:
            output["links"] = [number for number in output.get("links") or () if number in shown] or None
    kinds = {name: "MASK" if name.endswith("transparency") else "IMAGE" for name in ends}
    return {
        "revision": 0,
        "last_node_id": max(by_id) + 1,
        "last_link_id": graph["last_link_id"],
        "nodes": [_outer(max(by_id) + 1, kinds, inner)],
        "links": [],
        "version": 0.4,
        "definitions": {"subgraphs": [_inner(inner, links, ends, kinds, result, graph["last_link_id"])]},
        "extra": {},
    }


def _outer(number: int, kinds: dict[str, str], inner: list[dict[str, Any]]) -> dict[str, Any]:
    """The node that stands for the subgraph."""
    ids = {node["type"]: str(node["id"]) for node in inner}
    return {
        "id": number,
        "type": SUBGRAPH,
        "title": FILE.stem,
        "pos": [0, 0],
        "size": [340, 420],
        "flags": {},
        "order": 0,
        "mode": 0,
        "inputs": [{"name": name, "type": kind, "link": None} for name, kind in kinds.items()],
        "outputs": [{"name": "image", "type": "IMAGE", "links": None}],
        "properties": {"proxyWidgets": [[ids[kind], widget] for kind, widget in WIDGETS]},
        "widgets_values": [],
    }


def _inner(
    inner: list[dict[str, Any]],
    links: list[dict[str, Any]],
    ends: dict[str, list[int]],
    kinds: dict[str, str],
    result: int | None,
    last_link: int,
) -> dict[str, Any]:
    left = min(node["pos"][0] for node in inner)
    right = max(node["pos"][0] + node["size"][0] for node in inner)
    uuid = SUBGRAPH[:-2] + "{:02x}"  # of the slots: any that stay the same
    return {
        "id": SUBGRAPH,
        "version": 1,
        "state": {
            "lastGroupId": 0,
            "lastNodeId": max(node["id"] for node in inner),
            "lastLinkId": last_link,
            "lastRerouteId": 0,
        },
        "revision": 0,
        "config": {},
        "name": FILE.stem,
        "category": "Colorize Diffusion",
        "description": DESCRIPTION,
        "inputNode": {"id": START, "bounding": [left - 220, 200, 160, 40 + 20 * len(ends)]},
        "outputNode": {"id": END, "bounding": [right + 60, 200, 120, 60]},
        "inputs": [
            {"id": uuid.format(place), "name": name, "type": kinds[name], "linkIds": numbers, "pos": [left - 80, 220]}
            for place, (name, numbers) in enumerate(ends.items())
        ],
        "outputs": [
            {"id": uuid.format(99), "name": "image", "type": "IMAGE", "linkIds": [result], "pos": [right + 80, 220]}
        ],
        "widgets": [],
        "nodes": inner,
        "groups": [],
        "links": links,
        "extra": {},
    }


def write(file: Path = FILE) -> None:
    """Save it again."""
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(made(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
