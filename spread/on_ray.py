"""The same work by the workers of a Ray cluster: one actor each, placed by Ray; what a lost one had goes to another.

Ray is imported here and nowhere else. Every machine sees the same folders under the same paths.
"""

from __future__ import annotations

import logging
import os
import pickle
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import SpreadError
from .processes import AHEAD

TRIES = 3  # workers that may be lost with the same jobs
PATIENCE = 10.0  # seconds that a cluster has to answer
FAREWELL = 20.0  # seconds that a worker has to end by itself

log = logging.getLogger("spread")


def connect(address: str) -> Any:
    """Ray, connected with a cluster. Raises SpreadError."""
    try:
        import ray
    except ImportError:
        raise SpreadError(
            '--ray needs the package ray, which this Python does not have: pip install ".[ray]" in this folder, in the '
            "same version on every machine of the cluster."
        ) from None
    if not ray.is_initialized():
        try:
            _knock(address)
            ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
        except Exception as error:  # Ray has many for this
            raise SpreadError(
                f"No Ray cluster can be reached at {address!r} ({str(error).strip().partition(chr(10))[0]}). "
                "`ray start --head` on one machine starts one, `ray start --address=THAT_MACHINE:6379` adds another."
            ) from None
    return ray


def _knock(address: str) -> None:
    """Raise OSError where nobody listens; Ray would try for minutes, also at the place of a cluster that has ended."""
    if address == "auto":
        known = Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray", "ray_current_cluster")
        address = os.environ.get("RAY_ADDRESS") or (known.read_text().strip() if known.is_file() else "")
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdigit():
        socket.create_connection((host, int(port)), PATIENCE).close()


def machines_and_gpus(address: str) -> tuple[int, int]:
    """How many a cluster has."""
    ray = connect(address)
    return sum(node["Alive"] for node in ray.nodes()), int(ray.cluster_resources().get("GPU", 0))


def _worker() -> type:
    """The class of the workers. Local, so that it travels by value: a machine finds our code only when told where."""

    class Worker:
        """A worker on some machine, in the folder of the command."""

        def begin(self, code: str, folder: str, work: bytes) -> None:
            sys.path.insert(0, code)
            os.chdir(folder)
            self.work = pickle.loads(work)

        def do(self, jobs: list[Any]) -> list[Any]:
            return [self.work(job) for job in jobs]

    return Worker


@dataclass
class _Task:
    """Jobs that go together."""

    number: int
    jobs: list[Any]
    lost: int = 0
    """Workers that ended with them."""


class _Actors:
    """The workers of one map."""

    def __init__(self, ray: Any, workers: int, gpus: int, work: Callable[[Any], Any]) -> None:
        self.ray = ray
        self.start = (str(Path(__file__).parents[1]), os.getcwd(), pickle.dumps(work))
        resources = ray.cluster_resources()
        most = resources.get("GPU", 0) / gpus if gpus else resources.get("CPU", 1)
        self.count = workers or max(1, int(most))
        self._actor = ray.remote(num_cpus=1, num_gpus=gpus, scheduling_strategy="SPREAD")(_worker())
        self.waiting: dict[Any, tuple[Any, _Task | None]] = {}  # what an actor does now; None: it gets ready
        self.idle: list[Any] = []
        self._failed_starts = 0
        for _ in range(self.count):
            self.hire()

    def hire(self) -> None:
        actor = self._actor.remote()
        self.waiting[actor.begin.remote(*self.start)] = (actor, None)

    def give(self, task: _Task) -> None:
        actor = self.idle.pop()
        self.waiting[actor.do.remote(task.jobs)] = (actor, task)

    @property
    def busy(self) -> bool:
        return any(task is not None for _, task in self.waiting.values())

    def next(self) -> Iterator[tuple[_Task, list[Any] | None]]:
        """Wait for somebody: tasks with their results, or None for those that were lost. Raises what jobs raise."""
        exceptions = self.ray.exceptions
        done, _ = self.ray.wait(list(self.waiting))
        for reference in done:
            actor, task = self.waiting.pop(reference)
            try:
                results = self.ray.get(reference)
            except exceptions.RayTaskError as error:
                raise error.cause from None
            except exceptions.RayError as error:  # the worker, its machine, or what it had made is gone
                self._lost(actor, task, error)
                if task is not None:
                    yield task, None
                continue
            self.idle.append(actor)
            self._failed_starts = 0
            if task is not None:
                yield task, results

    def _lost(self, actor: Any, task: _Task | None, error: Exception) -> None:
        self.ray.kill(actor)
        self.hire()
        why = str(error).strip().partition("\n")[0]
        log.warning("a worker was lost (%s: %s); others do its work", type(error).__name__, why)
        if task is None:
            self._failed_starts += 1
        else:
            task.lost += 1
        if self._failed_starts >= TRIES * self.count or (task is not None and task.lost >= TRIES):
            raise SpreadError(
                f"Workers ended {TRIES} times at the same work, most often for want of memory. What is done is kept; "
                "give the same command with fewer --workers."
            )

    def dismiss(self) -> None:
        """End all workers; those without work may tidy up."""
        leaving = [actor.__ray_terminate__.remote() for actor in self.idle]
        if leaving:
            self.ray.wait(leaving, num_returns=len(leaving), timeout=FAREWELL)
        for actor in {actor for actor, _ in self.waiting.values()}:
            self.ray.kill(actor)


class _Turns:
    """What is to be given out, and results that wait for their turn."""

    def __init__(self, handfuls: Iterator[list[Any]]) -> None:
        self._handfuls = handfuls
        self._back: list[_Task] = []
        self._done: dict[int, list[Any]] = {}
        self._taken = self._turn = 0

    def next(self, window: int) -> _Task | None:
        """A task that came back, else a new one; None when there is none, or too many are ahead of their turn."""
        if self._back:
            return self._back.pop()
        if self._taken - self._turn >= window or (jobs := next(self._handfuls, None)) is None:
            return None
        self._taken += 1
        return _Task(self._taken - 1, jobs)

    def put(self, task: _Task, results: list[Any] | None) -> None:
        """The task's results; without them it is to be done again."""
        if results is None:
            self._back.append(task)
        else:
            self._done[task.number] = results

    def results(self) -> Iterator[Any]:
        """Those whose turn it is."""
        while self._turn in self._done:
            yield from self._done.pop(self._turn)
            self._turn += 1


def on_ray(
    address: str, workers: int, gpus: int, work: Callable[[Any], Any], handfuls: Iterator[list[Any]]
) -> Iterator[Any]:
    """The results of all jobs, in their order. workers: 0 for one of each GPU that they ask for, else of each core."""
    turns = _Turns(handfuls)
    if (first := turns.next(1)) is None:
        return
    turns.put(first, None)
    actors = _Actors(connect(address), workers, gpus, work)
    try:
        while True:
            while actors.idle and (task := turns.next(AHEAD * actors.count)):
                actors.give(task)
            if actors.idle and not actors.busy:
                return
            for task, results in actors.next():
                turns.put(task, results)
            yield from turns.results()
    finally:
        actors.dismiss()
