"""Runs random graphs on a real server and counts what must not happen."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quickstart_lib.server import Server

from .graphs import Graph, Maker
from .memory import resident
from .probes import FREE, Probes

HANG = 600.0  # seconds of a graph; the largest takes seconds on an idle core
SLOWEST = 5  # graphs whose seconds are kept
TICK = 0.01  # seconds between two looks for the end of a graph
EXPECTED = ("InterruptProcessingException", "OOM_EXCEPTION")
PACK = "custom_nodes/colorize-diffusion"  # in the paths of a traceback; the environment's own path has the name too
FLUX_ONLY = ("FluxKVCache",)
"""Nodes whose patch of self-attention answers as Flux's asks, and any U-Net's, core's or ours, fails at the answer."""
PASSED_ON = "in remember_seed"
"""A frame of ours through which core's run passes as it is (model_patches/reference_pass). What fails below it and not
elsewhere in our code fails without us, too: an area that begins beyond the picture."""
NOISE = ("ModelSampling", "Sigma", "Rescale", "LatentMultiply", "FreeU_V2", "PerpNeg")
"""In names of nodes that can make NaN of any model. FreeU_V2 divides by the range of a map, 0 where it is one cell;
PerpNeg by the difference of two conditionings, 0 where they are one."""
NAN = "invalid value encountered in cast"  # numpy's words when a picture that is not a number is saved


def raised_by_us(frames: Sequence[str]) -> bool:
    """Whether a traceback ends in a `raise` of ours, which is a message; all else is an error nobody thought of."""
    place, _, code = (frames[-1] if frames else "").replace("\\", "/").strip().partition("\n")
    return PACK in place and code.lstrip().startswith("raise ")


@dataclass
class Counts:
    """What became of the graphs of a run."""

    outcomes: Counter = field(default_factory=Counter)
    """done, refused (by ComfyUI), told (an error in words), theirs (a node of others fails), interrupted, problem"""
    problems: list[str] = field(default_factory=list)
    """deaths, hangs, tracebacks, pictures of NaN, leaks: a sentence each, with the number of the graph"""
    memory: list[float] = field(default_factory=list)
    """MiB of the server at every probe"""
    words: Counter = field(default_factory=Counter)
    """how often which of our nodes said what (its first 60 letters)"""

    run: int = 0
    """graphs, whatever became of them"""
    slowest: list[tuple[float, int]] = field(default_factory=list)
    """(seconds, number) of the slowest graphs"""

    def __str__(self) -> str:
        outcomes = ", ".join(f"{count} {name}" for name, count in sorted(self.outcomes.items()))
        memory = " ".join(f"{value:.0f}" for value in self.memory)
        return "\n".join([f"{outcomes}; memory at the probes, MiB: {memory}", *self.problems])

    def __iadd__(self, other: Counts) -> Counts:
        self.run += other.run
        self.outcomes += other.outcomes
        self.problems += other.problems
        self.memory += other.memory
        self.words += other.words
        self.slow(*other.slowest)
        return self

    def slow(self, *graphs: tuple[float, int]) -> None:
        """Keep those that are among the slowest."""
        self.slowest = sorted([*self.slowest, *graphs], reverse=True)[:SLOWEST]


class Fuzz:
    """One run on one server."""

    def __init__(self, server: Server, maker: Maker, output: Path) -> None:
        """output: folder that gets the graphs that make problems."""
        self.server, self.maker, self.output, self.counts = server, maker, output, Counts()
        self.probes = Probes(server, maker.probes(), self.entry)
        self._read = 0

    def run(self, numbers: Sequence[int], every: int, seconds: float, tell: Callable[[str], None] = print) -> Counts:
        """Run the graphs of these numbers, the probes before, after each `every` of them and at the end."""
        start = time.monotonic()
        self._compare(numbers[0])
        for done, number in enumerate(numbers, 1):
            if time.monotonic() - start > seconds:
                tell(f"time is up after {done - 1} graphs")
                break
            self.one(number)
            self.counts.run += 1
            if not self.server.alive():
                break
            if done % every == 0:
                self._compare(number)
                tell(f"{done} graphs, {time.monotonic() - start:.0f} s: {self.counts}")
        if self.server.alive():
            self._compare(numbers[-1])
        return self.counts

    def one(self, number: int) -> None:
        """Run one graph and judge what happened."""
        graph, rng = self.maker.graph(number), random.Random(f"acts/{self.maker.seed}/{number}")
        act, start = rng.choices(("", "interrupt", "free"), (90, 6, 4))[0], time.monotonic()
        try:
            code, answer = self.server.post_json("/prompt", {"prompt": graph})
            if code != 200:
                self.counts.outcomes["refused"] += 1
                if code >= 500:
                    self._problem(number, graph, f"ComfyUI answers {code} to the graph: {str(answer)[:300]}")
                return
            if act == "interrupt":
                time.sleep(rng.random() / 2)
                self.server.post_json("/interrupt", {})
            entry = self.entry(answer["prompt_id"])
            if act == "free":
                self.server.post_json("/free", FREE)
        except Exception as error:
            if self.server.alive():
                raise
            self._problem(number, graph, f"the server died: {error}")
            return
        if entry is None:
            self._problem(number, graph, f"no end after {HANG:.0f} s")
            self.server.post_json("/interrupt", {})
            return
        self.counts.slow((time.monotonic() - start, number))
        self._judge(number, graph, entry)
        # ComfyUI keeps the last 10,000 with their pictures' names and errors: no growth of memory to look for.
        self.server.post_json("/history", {"delete": [answer["prompt_id"]]})

    def entry(self, prompt: str) -> dict[str, Any] | None:
        """The history of a graph that ended; None when it does not end."""
        start = time.monotonic()
        while time.monotonic() - start < HANG:
            if entry := self.server.get_json(f"/history/{prompt}").get(prompt):
                return entry
            time.sleep(TICK)
        return None

    def _judge(self, number: int, graph: Graph, entry: dict[str, Any]) -> None:
        messages = dict(entry["status"]["messages"])
        error = messages.get("execution_error")
        if error is None:
            self.counts.outcomes["interrupted" if "execution_interrupted" in messages else "done"] += 1
        else:
            kind = error["exception_type"].rpartition(".")[2]
            trace = "".join(frame for frame in error["traceback"] if PASSED_ON not in frame).replace("\\", "/")
            ours = error["node_type"].startswith("Colorize") or PACK in trace
            expected = kind in EXPECTED or "out of memory" in error["exception_message"].lower()
            if expected or raised_by_us(error["traceback"]):
                self.counts.outcomes["told"] += 1
                if ours:
                    self.counts.words[f"{error['node_type']}: {error['exception_message'][:60]}"] += 1
            elif ours and not any(node["class_type"] in FLUX_ONLY for node in graph.values()):
                self._problem(number, graph, f"{error['node_type']}: {kind}: {error['exception_message'][:200]}")
            else:
                self.counts.outcomes["theirs"] += 1
        bent = any(word in node["class_type"] for node in graph.values() for word in NOISE)
        if NAN in self._new_lines() and not bent:
            self._problem(number, graph, "a picture that is not a number was saved")

    def _new_lines(self) -> str:
        """What the server wrote since the last time."""
        with self.server.log.open("rb") as log:
            log.seek(self._read)
            new = log.read()
        self._read += len(new)
        return new.decode("utf-8", errors="replace")

    def _problem(self, number: int, graph: Graph, text: str) -> None:
        self.counts.outcomes["problem"] += 1
        self.counts.problems.append(f"--seed {self.maker.seed} --only {number}: {text}")
        self.output.mkdir(parents=True, exist_ok=True)
        (self.output / f"{self.maker.seed}-{number}.json").write_text(json.dumps(graph, indent=1), encoding="utf-8")

    def _compare(self, number: int) -> None:
        for text in self.probes.compare():
            self._problem(number, self.maker.graph(number), text)
        self.counts.memory.append(resident(self.server))
