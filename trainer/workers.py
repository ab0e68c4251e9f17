"""Processes that share a job: one rule for how they start, are interrupted and end."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor


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
