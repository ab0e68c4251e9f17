"""Runs random graphs on a real server and counts what must not happen."""

from __future__ import annotations

import hashlib
import io
import json
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from PIL import Image

from quickstart_lib.server import Server

from .graphs import Graph, Maker

HANG = 600.0  # seconds of a graph; the largest takes seconds on an idle core
EXPECTED = ("ValueError", "CheckpointError", "CardError", "InterruptProcessingException", "OOM_EXCEPTION")
PACK = "custom_nodes/colorize-diffusion"  # in the paths of a traceback; the environment's own path has the name too
NAN = "invalid value encountered in cast"  # numpy's words when a picture that is not a number is saved


@dataclass
class Counts:
    """What became of the graphs of a run."""

    outcomes: Counter = field(default_factory=Counter)
    """done, refused (by ComfyUI), told (an error in words), theirs (a node of others fails), interrupted, problem"""
    problems: list[str] = field(default_factory=list)
    """deaths, hangs, tracebacks, pictures of NaN, leaks: a sentence each, with the number of the graph"""
    memory: list[float] = field(default_factory=list)
    """MiB of the server at every probe"""

    def __str__(self) -> str:
        outcomes = ", ".join(f"{count} {name}" for name, count in sorted(self.outcomes.items()))
        memory = " ".join(f"{value:.0f}" for value in self.memory)
        return "\n".join([f"{outcomes}; memory at the probes, MiB: {memory}", *self.problems])


class Fuzz:
    """One run on one server."""

    def __init__(self, server: Server, maker: Maker, output: Path) -> None:
        """output: folder that gets the graphs that make problems."""
        self.server, self.maker, self.output, self.counts = server, maker, output, Counts()
        self._read = 0

    def run(self, numbers: range, every: int, seconds: float, tell: Callable[[str], None] = print) -> Counts:
        """Run the graphs of these numbers, the probe before, after each `every` of them and at the end."""
        start, picture = time.monotonic(), self._probe()
        for done, number in enumerate(numbers, 1):
            if time.monotonic() - start > seconds:
                tell(f"time is up after {done - 1} graphs")
                break
            self.one(number)
            if not self.server.alive():
                break
            if done % every == 0:
                self._compare(picture, number)
                tell(f"{done} graphs, {time.monotonic() - start:.0f} s: {self.counts}")
        if self.server.alive():
            self._compare(picture, numbers[-1])
        return self.counts

    def one(self, number: int) -> None:
        """Run one graph and judge what happened."""
        graph, rng = self.maker.graph(number), random.Random(f"acts/{self.maker.seed}/{number}")
        act = rng.choices(("", "interrupt", "free"), (90, 6, 4))[0]
        try:
            code, answer = self.server.post_json("/prompt", {"prompt": graph})
            if code != 200:
                self.counts.outcomes["refused"] += 1
                if code >= 500:
                    self._problem(number, graph, f"ComfyUI answers {code} to the graph: {str(answer)[:300]}")
                return
            if act == "interrupt":
                time.sleep(rng.random())
                self.server.post_json("/interrupt", {})
            entry = self._entry(answer["prompt_id"])
            if act == "free":
                self.server.post_json("/free", {"unload_models": True, "free_memory": True})
        except Exception as error:
            if self.server.alive():
                raise
            self._problem(number, graph, f"the server died: {error}")
            return
        if entry is None:
            self._problem(number, graph, f"no end after {HANG:.0f} s")
            self.server.post_json("/interrupt", {})
            return
        self._judge(number, graph, entry)

    def _entry(self, prompt: str) -> dict[str, Any] | None:
        """The history of a graph that ended; None when it does not end."""
        start = time.monotonic()
        while time.monotonic() - start < HANG:
            if entry := self.server.get_json(f"/history/{prompt}").get(prompt):
                return entry
            time.sleep(0.05)
        return None

    def _judge(self, number: int, graph: Graph, entry: dict[str, Any]) -> None:
        messages = dict(entry["status"]["messages"])
        error = messages.get("execution_error")
        if error is None:
            self.counts.outcomes["interrupted" if "execution_interrupted" in messages else "done"] += 1
        else:
            kind, trace = error["exception_type"].rpartition(".")[2], "".join(error["traceback"])
            ours = error["node_type"].startswith("Colorize") or PACK in trace.replace("\\", "/")
            if kind in EXPECTED or "out of memory" in error["exception_message"].lower():
                self.counts.outcomes["told"] += 1
            elif ours:
                self._problem(number, graph, f"{error['node_type']}: {kind}: {error['exception_message'][:200]}")
            else:
                self.counts.outcomes["theirs"] += 1
        log = self.server.log.read_text(encoding="utf-8", errors="replace")
        if NAN in log[self._read :]:
            self._problem(number, graph, "a picture that is not a number was saved")
        self._read = len(log)

    def _problem(self, number: int, graph: Graph, text: str) -> None:
        self.counts.outcomes["problem"] += 1
        self.counts.problems.append(f"--seed {self.maker.seed} --only {number}: {text}")
        self.output.mkdir(parents=True, exist_ok=True)
        (self.output / f"{self.maker.seed}-{number}.json").write_text(json.dumps(graph, indent=1), encoding="utf-8")

    def _probe(self) -> str:
        """What the probe's picture looks like, as a hash of its pixels; everything is computed anew."""
        self.server.post_json("/free", {"unload_models": True, "free_memory": True})
        time.sleep(1.5)  # ComfyUI frees in between two graphs
        code, answer = self.server.post_json("/prompt", {"prompt": self.maker.probe()})
        if code != 200:
            raise RuntimeError(f"the probe was refused: {answer}")
        entry = self._entry(answer["prompt_id"])
        images = [image for out in (entry or {}).get("outputs", {}).values() for image in out.get("images", ())]
        if not images:
            raise RuntimeError(f"the probe gave no picture: {entry and entry['status']}")
        picture = Image.open(io.BytesIO(self.server.fetch(images[-1]))).convert("RGB")
        return hashlib.sha256(picture.tobytes()).hexdigest()

    def _compare(self, picture: str, number: int) -> None:
        if self._probe() != picture:
            self._problem(number, self.maker.probe(), "the probe's picture is another one than before: state leaked")
        process = psutil.Process(self.server._process.pid)
        every = [process, *process.children(recursive=True)]
        self.counts.memory.append(max(one.memory_info().rss for one in every) / 2**20)
