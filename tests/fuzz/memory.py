"""The memory of a server, and 500 pictures of the quickstart in one: python -m tests.fuzz --soak 500"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import mean
from typing import Any

import psutil

from quickstart_lib import job
from quickstart_lib.plan import API_WORKFLOW
from quickstart_lib.server import Server

PART = 100  # pictures whose memory is averaged
ALLOWED = 1.02  # times the memory of the second hundred, that of the last may be


def resident(server: Server) -> float:
    """MiB of memory that the server's process holds."""
    process = psutil.Process(server._process.pid)
    return max(one.memory_info().rss for one in [process, *process.children(recursive=True)]) / 2**20


def grows(memory: Sequence[float]) -> str:
    """In words, when the last hundred values are more than 2 % above the second hundred; else nothing."""
    second, last = mean(memory[PART : 2 * PART]), mean(memory[-PART:])
    if last <= ALLOWED * second:
        return ""
    return f"memory grew from {second:.0f} MiB (second hundred) to {last:.0f} MiB (last hundred)"


def soak(
    server: Server,
    pictures: int,
    steps: int,
    entry: Callable[[str], dict[str, Any] | None],
    tell: Callable[[str], None] = print,
) -> list[float]:
    """Queue the quickstart `pictures` times, each with a seed of its own; MiB of the server after each.

    entry: of the id of a graph, its history when it has ended. Raises RuntimeError when a picture does not come.
    """
    workflow, memory, start = job.load_workflow(API_WORKFLOW), [], time.monotonic()
    for number in range(pictures):
        graph = job.fill(workflow, {"seed": number, "steps": steps})
        code, answer = server.post_json("/prompt", {"prompt": graph})
        done = entry(answer["prompt_id"]) if code == 200 else None
        if done is None or done["status"]["status_str"] != "success":
            raise RuntimeError(f"picture {number} did not come: {answer if done is None else done['status']}")
        memory.append(resident(server))
        if (number + 1) % PART == 0:
            part = memory[-PART:]
            tell(
                f"{number + 1} pictures, {time.monotonic() - start:.0f} s: {mean(part):.1f} MiB in the last hundred "
                f"({min(part):.1f} to {max(part):.1f})"
            )
    return memory
