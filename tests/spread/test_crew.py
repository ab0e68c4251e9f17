"""The same work alone and in processes: the same results in the order of the jobs, and what goes wrong."""

import functools
import os
import signal
import sys

import pytest

from spread import on_ray
from spread.crew import ALONE, Crew
from spread.errors import SpreadError
from trainer.__main__ import main


class Counting:
    """Says how many jobs this copy of it has done, and where."""

    def __init__(self) -> None:
        self.done = 0

    def __call__(self, job: int) -> tuple[int, int, int]:
        self.done += 1
        return job * job, self.done, os.getpid()


def fails(at: int, job: int) -> int:
    if job == at:
        raise ValueError(f"job {job}")
    return job


def dies(job: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("crew", [ALONE, Crew(2)], ids=["alone", "processes"])
def test_results_come_in_the_order_of_the_jobs(crew):
    found = list(crew.map(Counting(), iter(range(50)), handful=3))
    assert [square for square, _, _ in found] == [number**2 for number in range(50)]
    workers = {worker for _, _, worker in found}
    assert all(worker != os.getpid() for worker in workers) != crew.alone
    for worker in workers:  # every worker has one copy, which stays
        numbers = [number for _, number, whose in found if whose == worker]
        assert numbers == list(range(1, len(numbers) + 1))


@pytest.mark.parametrize("crew", [ALONE, Crew(2)], ids=["alone", "processes"])
def test_what_a_job_raises_is_raised_here(crew):
    found = []
    with pytest.raises(ValueError, match="job 7"):
        found.extend(crew.map(functools.partial(fails, 7), range(20)))


def test_jobs_are_taken_when_somebody_is_free():
    taken = []
    jobs = (taken.append(number) or number for number in range(1000))
    assert next(Crew(2).map(functools.partial(fails, -1), jobs)) == 0
    assert len(taken) < 20


def test_little_work_needs_no_process():
    assert list(Crew(2).map(Counting(), range(3), handful=8))[0][2] == os.getpid()
    assert list(Crew(2).map(Counting(), [])) == []


def test_a_process_that_is_killed_is_said_in_one_line():
    with pytest.raises(SpreadError, match="want of memory.*fewer --workers"):
        list(Crew(2).map(dies, range(4)))


def test_without_ray_the_command_says_how_to_get_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["demo-data", "--output", str(tmp_path / "set"), "--count", "1", "--ray", "auto"]) == 1
    assert 'pip install ".[ray]"' in capsys.readouterr().err and not (tmp_path / "set").exists()
    with pytest.raises(SpreadError, match="same\n? ?version"):
        on_ray.connect("auto")


def test_workers_are_one_or_more(tmp_path, capsys):
    assert main(["demo-data", "--output", str(tmp_path), "--count", "1", "--workers", "0"]) == 2
    assert "--workers is 0" in capsys.readouterr().err
