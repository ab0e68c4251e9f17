"""Processes that share a job: one rule for how they start, are interrupted and end."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

LONGEST_WAIT = timedelta(days=7)
"""For the slowest of a team: a share of a long evaluation may take hours longer than another."""


def leave_interrupts_to_parent(*_: object) -> None:
    """Ctrl-C reaches all processes of a terminal: the parent decides what is still finished, and stops the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def process_pool(workers: int, start: Callable[..., None] | None = None, arguments: tuple = ()) -> ProcessPoolExecutor:
    """A pool whose processes begin with start(*arguments). End it by shutdown(wait=True, cancel_futures=True).

    spawn on every system: a fork of a process that has used torch's threads, or a GPU, can hang.
    """
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(start, arguments))


def _begin(start: Callable[..., None] | None, arguments: tuple) -> None:
    leave_interrupts_to_parent()
    if start is not None:
        start(*arguments)


@dataclass(frozen=True)
class Team:
    """The processes of one command under `accelerate launch`; alone without it. They share work, not memory."""

    index: int = 0
    count: int = 1
    wait: Callable[[], None] = lambda: None
    """Returns when every process has called it."""

    @property
    def main(self) -> bool:
        """Whether this process speaks and writes for all."""
        return self.index == 0

    @classmethod
    def launched(cls) -> Team:
        """As `accelerate launch` (or torchrun) says in the environment."""
        if int(os.environ.get("WORLD_SIZE", "1")) < 2:
            return cls()
        from accelerate import PartialState

        state = PartialState(cpu=device().type == "cpu", timeout=LONGEST_WAIT)
        return cls(state.process_index, state.num_processes, state.wait_for_everyone)


def device() -> torch.device:
    """The device of this process: its own GPU, or the CPU (ACCELERATE_USE_CPU=true asks for that)."""
    import torch

    if not torch.cuda.is_available() or os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes"):
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
