"""Who does a command's work: this process, a pool of processes, or the workers of a Ray cluster.

Results come in the order of the jobs, whoever did them, so a command leaves the same files with every crew. A job must
be one that may be done twice (its files appear whole, under their names): a lost Ray worker's goes to another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from .on_ray import on_ray
from .processes import in_processes


@dataclass(frozen=True)
class Crew:
    """The workers of a command."""

    workers: int = 1
    """Processes; on Ray 0 means one for each GPU that they ask for, or for each core of the cluster."""
    ray: str = ""
    """A Ray cluster: its address, or "auto" for the one that this machine belongs to; empty: processes here."""
    gpus: int = 0
    """Of each worker, on Ray."""

    @property
    def alone(self) -> bool:
        """Whether this process does everything itself."""
        return self.workers == 1 and not self.ray

    def map(self, work: Callable[[Any], Any], jobs: Iterable[Any], handful: int = 1) -> Iterator[Any]:
        """work(job) of every job, in their order.

        work travels to every worker once, and may keep there what it makes at its first job, a model for example. Jobs
        are taken from their iterable when somebody is free for them; `handful` go together where one is too short for
        the way. What a job raises is raised here.
        """
        if self.alone:
            return map(work, jobs)
        rest = iter(jobs)
        handfuls = iter(lambda: list(islice(rest, handful)), [])
        if self.ray:
            return on_ray(self.ray, self.workers, self.gpus, work, handfuls)
        return in_processes(self.workers, work, handfuls)


ALONE = Crew()
