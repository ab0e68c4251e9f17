"""Graphs that must give the same pictures before, between and after all others: no state leaks from a run to the next.

Each workflow is run twice: with everything computed anew, and with the models as the graphs before left them.
"""

from __future__ import annotations

import copy
import hashlib
import io
import time
from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image

from quickstart_lib.server import Server

from .graphs import Graph

FREE = {"unload_models": True, "free_memory": True}
NONE = "no picture"
FREEING = 1.5  # seconds; ComfyUI frees in between two graphs


class Probes:
    """The probes of one server and what their pictures were at first."""

    def __init__(self, server: Server, graphs: Sequence[Graph], entry: Callable[[str], dict[str, Any] | None]) -> None:
        """entry: of the id of a graph, its history when it has ended; None when it does not end."""
        self.server, self.graphs, self.entry = server, list(graphs), entry
        self.before: dict[str, str] = {}

    def compare(self) -> list[str]:
        """Run them all; what is another picture than at the first time, in words. RuntimeError: none the first time."""
        changed = []
        for name, picture in self._pictures():
            if name not in self.before and picture.startswith(NONE):
                raise RuntimeError(f"probe {name}: {picture}")
            if self.before.setdefault(name, picture) != picture:
                what = picture if picture.startswith(NONE) else "the picture is another one than before: state leaked"
                changed.append(f"probe {name}: {what}")
        return changed

    def _pictures(self) -> list[tuple[str, str]]:
        warm = [(f"{number} with the models of before", self._warm(graph)) for number, graph in enumerate(self.graphs)]
        self.server.post_json("/free", FREE)
        time.sleep(FREEING)
        cold = [(f"{number} computed anew", self._picture(graph)) for number, graph in enumerate(self.graphs)]
        return warm + cold

    def _warm(self, graph: Graph) -> str:
        """The picture with ComfyUI's cache in its way: another seed is sampled before."""
        other = copy.deepcopy(graph)
        for node in other.values():
            if "seed" in node["inputs"]:
                node["inputs"]["seed"] += 1
        self._picture(other)
        return self._picture(graph)

    def _picture(self, graph: Graph) -> str:
        """A hash of the pixels of the picture a graph saves; why there is none, in words.

        Previews are left out: which output comes last changes with what is cached.
        """
        code, answer = self.server.post_json("/prompt", {"prompt": graph})
        entry = self.entry(answer["prompt_id"]) if code == 200 else {"status": answer}
        outputs = (entry or {}).get("outputs", {}).values()
        images = [image for out in outputs for image in out.get("images", ()) if image["type"] == "output"]
        if not images:
            return f"{NONE}: {entry and entry['status']}"
        picture = Image.open(io.BytesIO(self.server.fetch(images[-1]))).convert("RGB")
        return hashlib.sha256(picture.tobytes()).hexdigest()
