"""A pool of processes of this machine: one rule for how they start, are interrupted and end."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from typing import Any

from .errors import SpreadError

AHEAD = 4  # handfuls that are given out, or done before their turn, per worker

_work: Callable[[Any], Any] | None = None  # of a process of the pool


def leave_interrupts_to_parent(*_: object) -> None:
    """Ctrl-C reaches all processes of a terminal: the parent decides what is still finished, and stops the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _begin(threads: int, work: Callable[[Any], Any]) -> None:
    global _work
    leave_interrupts_to_parent()
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if "torch" in sys.modules:  # the work has brought it
        sys.modules["torch"].set_num_threads(threads)
    _work = work


def _do(jobs: list[Any]) -> list[Any]:
    assert _work is not None  # _begin ran first in this process
    return [_work(job) for job in jobs]


def in_processes(workers: int, work: Callable[[Any], Any], handfuls: Iterator[list[Any]]) -> Iterator[Any]:
    """The results of all jobs, in their order.

    spawn on every system: a fork of a process that has used torch's threads, or a GPU, can hang.
    """
    begun = list(islice(handfuls, 2))
    if len(begun) < 2:  # no work for a second process, and so for none
        yield from (work(job) for jobs in begun for job in jobs)
        return
    threads = max(1, (os.cpu_count() or 1) // workers)
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(threads, work))
    given: deque[Future] = deque()
    try:
        for jobs in chain(begun, handfuls):
            given.append(pool.submit(_do, jobs))
            if len(given) >= AHEAD * workers:
                yield from given.popleft().result()
        while given:
            yield from given.popleft().result()
    except BrokenProcessPool:
        raise SpreadError(
            "A process ended before it was done, most often for want of memory. What is done is kept; give the same "
            "command with fewer --workers."
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
