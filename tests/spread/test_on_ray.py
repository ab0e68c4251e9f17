"""Work on two local Ray nodes: in order, errors come home, and what a lost worker had is done by others."""

import functools
import logging
import os
import time

import pytest

from spread.crew import Crew
from spread.errors import SpreadError
from trainer.__main__ import main


def where(job: int) -> tuple[int, int]:
    time.sleep(0.05)
    return job, os.getpid()


def fails(job: int) -> int:
    raise ValueError(f"job {job}")


def dies(job: int) -> None:
    os._exit(1)


def dies_once(folder, job: int) -> int:
    if job == 3 and not (folder / "died").exists():
        (folder / "died").touch()
        os._exit(1)
    return job


def test_all_nodes_work_in_order_and_errors_come_home(ray_cluster):
    crew = Crew(0, ray_cluster.address)
    found = list(crew.map(where, range(30), handful=2))
    assert [job for job, _ in found] == list(range(30)) and len({pid for _, pid in found}) == 2
    assert list(crew.map(where, [])) == []
    with pytest.raises(ValueError, match="job 0"):
        list(crew.map(fails, range(3)))


def test_a_lost_worker_is_replaced_and_its_work_done(ray_cluster, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "spread"):
        assert list(Crew(1, ray_cluster.address).map(functools.partial(dies_once, tmp_path), range(6))) == list(
            range(6)
        )
    assert "a worker was lost" in caplog.text and (tmp_path / "died").exists()


def test_work_that_ends_every_worker_is_given_up(ray_cluster):
    with pytest.raises(SpreadError, match="3 times at the same work"):
        list(Crew(0, ray_cluster.address).map(dies, range(2)))


@pytest.mark.parametrize("address", ["127.0.0.1:1", "auto"])
def test_a_cluster_that_is_not_there_is_said(address, capsys, tmp_path, monkeypatch):
    """At an address, or where there was one once."""
    ray = pytest.importorskip("ray", reason='ray is not installed: pip install ".[ray]"')
    ray.shutdown()
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("127.0.0.1:1")
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    command = ["demo-data", "--output", str(tmp_path / "set"), "--count", "1", "--ray", address]
    assert main(command) == 1
    assert "ray start --head" in capsys.readouterr().err and not (tmp_path / "set").exists()
