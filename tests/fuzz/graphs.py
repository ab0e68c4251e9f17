"""Random graphs of real nodes: a shipped workflow, changed. The same seed and number give the same graph.

Nodes and their inputs are those of the server's /object_info. A graph may be wrong in any way that a person or a
program can make it wrong; right ones are small and take two steps.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping, Sequence
from typing import Any

Graph = dict[str, dict[str, Any]]
STEPS = 2
PROBES = 3  # how many of the workflows, the first, are run again and again
OURS, SHARE = "Colorize", 0.3  # the beginning of our nodes' ids; how often one of them is put in where there is any
SIDE = 128  # pixels
LIMITS = {"batch_size": 2, "length": 2, "amount": 2}
"""Largest values of inputs that make much work, beside sides of pictures."""
PASSING = ("MODEL", "CONDITIONING", "LATENT", "IMAGE", "MASK", "CONTROL_NET", "REFERENCE", "COLORIZER", "VAE")
"""Types that a node may be put in the way of."""
LEFT_OUT = ("api node", "3d", "audio", "video", "training", "dataset", "loaders")
SLOW = ("Save", "Preview", "Load", "Train", "Webcam", "Compile", "Sampler", "Upscale", "Repeat", "Batch", "Pad")
WORDS = ("", "a", "../x", "\0", "長い名前" * 20, "x" * 300, "%date%", "NaN", "1e999")


class Maker:
    """Makes the graphs of a run."""

    def __init__(
        self, info: Mapping[str, Any], workflows: Sequence[Graph], pictures: Sequence[str], seed: int, side: int = SIDE
    ) -> None:
        """info: of /object_info. workflows: in the form of the API. pictures: names in the input folder.

        side: pixels that width and height have at most.
        """
        self.info, self.workflows, self.pictures, self.seed = info, list(workflows), list(pictures), seed
        self.limits = {**LIMITS, "width": side, "height": side}
        self.between = {kind: sorted(self._between(kind)) for kind in PASSING}

    def graph(self, number: int) -> Graph:
        """Graph number `number` of this seed."""
        rng = random.Random(f"{self.seed}/{number}")
        graph = copy.deepcopy(rng.choice(self.workflows))
        self._small(graph)
        for _ in range(rng.choice((0, 1, 1, 2, 3))):
            self._insert(graph, rng)
        for _ in range(rng.choice((0, 1, 2, 4))):
            self._widget(graph, rng)
        if rng.random() < 0.15:
            self._break(graph, rng)
        return graph

    def probes(self) -> list[Graph]:
        """The graphs that must give the same pictures before and after all others: some workflows as they are."""
        graphs = copy.deepcopy(self.workflows[:PROBES])
        for graph in graphs:
            self._small(graph)
        return graphs

    def _small(self, graph: Graph) -> None:
        for node in graph.values():
            for name, value in node["inputs"].items():
                if name == "steps":
                    node["inputs"][name] = STEPS
                elif name in self.limits and isinstance(value, int):
                    node["inputs"][name] = min(value, self.limits[name])

    def _between(self, kind: str) -> list[str]:
        """Nodes that take a `kind` and give one."""
        return [
            name
            for name, node in self.info.items()
            if kind in node["output"]
            and kind in [given[0] for given in self._inputs(name).values() if isinstance(given[0], str)]
            and not any(left in node["category"].lower() for left in LEFT_OUT)
            and not any(word in name for word in SLOW)
        ]

    def _inputs(self, name: str) -> dict[str, Any]:
        """The inputs of a node that must be given: name -> specification."""
        return self.info[name]["input"].get("required", {})

    def _outputs(self, graph: Graph, kind: str) -> list[list]:
        """Every output of a type."""
        return [
            [number, place]
            for number, node in graph.items()
            for place, given in enumerate(self.info.get(node["class_type"], {}).get("output", ()))
            if given == kind
        ]

    def _links(self, graph: Graph) -> list[tuple[str, str, str]]:
        """(node, input, type) of every connection of a type of PASSING."""
        found = []
        for number, node in graph.items():
            for name, value in node["inputs"].items():
                if isinstance(value, list) and len(value) == 2 and value[0] in graph:
                    outputs = self.info.get(graph[value[0]]["class_type"], {}).get("output", ())
                    if value[1] < len(outputs) and outputs[value[1]] in PASSING:
                        found.append((number, name, outputs[value[1]]))
        return found

    def _insert(self, graph: Graph, rng: random.Random) -> None:
        """Put a node in the way of a connection."""
        if not (links := self._links(graph)):
            return
        number, name, kind = rng.choice(links)
        if not self.between[kind]:
            return
        ours = [node for node in self.between[kind] if node.startswith(OURS)]
        chosen = rng.choice(ours if ours and rng.random() < SHARE else self.between[kind])
        taken, inputs = False, {}
        for key, given in self._inputs(chosen).items():
            if given[0] == kind and not taken:
                inputs[key], taken = graph[number]["inputs"][name], True
            elif (value := self._value(graph, given, rng)) is not None:
                inputs[key] = value
        self._small({"": {"inputs": inputs}})
        new = f"f{len(graph)}"
        place = list(self.info[chosen]["output"]).index(kind)
        graph[new] = {"class_type": chosen, "inputs": inputs}
        graph[number]["inputs"][name] = [new, place]

    def _value(self, graph: Graph, given: Sequence[Any], rng: random.Random) -> Any:
        """Something for an input: a connection, or a value, now and then outside of its range."""
        kind, options = given[0], given[1] if len(given) > 1 and isinstance(given[1], dict) else {}
        if isinstance(kind, list):
            return rng.choice(kind) if kind else ""
        if kind == "COMBO":
            return rng.choice(options.get("options") or [""])
        if kind in ("INT", "FLOAT"):
            return self._number(kind, options, rng)
        if kind == "BOOLEAN":
            return rng.random() < 0.5
        if kind == "STRING":
            return rng.choice(WORDS)
        found = self._outputs(graph, kind)
        return rng.choice(found) if found else None

    def _number(self, kind: str, options: Mapping[str, Any], rng: random.Random) -> float | int:
        low, high = options.get("min", 0), options.get("max", 1)
        draw = rng.random()
        if draw < 0.5 and "default" in options:
            value = options["default"]
        elif draw < 0.9:
            value = rng.uniform(low, min(high, max(low, 256)))
        elif draw < 0.95:
            value = rng.choice((low, min(high, 1024)))
        else:
            value = rng.choice((-1, low - 1, 10**9))
        return int(value) if kind == "INT" else float(value)

    def _widget(self, graph: Graph, rng: random.Random) -> None:
        """Change a value of a node."""
        number = rng.choice(sorted(graph))
        node = graph[number]
        every = self.info.get(node["class_type"], {}).get("input", {})
        given = {**every.get("required", {}), **every.get("optional", {})}
        names = sorted(name for name in given if name not in ("steps", "ckpt_name", "encoder_name"))
        if node["class_type"].startswith("LoadImage"):
            node["inputs"]["image"] = rng.choice(self.pictures)
        elif names:
            name = rng.choice(names)
            if (value := self._value(graph, given[name], rng)) is not None:
                node["inputs"][name] = value
        self._small({number: node})

    def _break(self, graph: Graph, rng: random.Random) -> None:
        """Make a graph that no person would draw."""
        number = rng.choice(sorted(graph))
        inputs = graph[number]["inputs"]
        if not inputs:
            return
        name = rng.choice(sorted(inputs))
        inputs[name] = rng.choice((None, [number, 0], ["none", 0], [sorted(graph)[0], 9], "word", 10**30, [], {}))
        if rng.random() < 0.3:
            del inputs[name]
