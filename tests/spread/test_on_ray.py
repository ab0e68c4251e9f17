"""Commands on two local Ray nodes: the same files as one process makes, also when a node is killed in mid-run."""

import logging
import os
import shutil
import threading
import time
from pathlib import Path

import pytest

from spread.crew import Crew
from spread.errors import SpreadError
from trainer.__main__ import main
from trainer.commands.demo_data import write_demo_data

pytest.importorskip("ray", reason='ray is not installed: pip install ".[ray]"')

NODE = {"num_cpus": 1, "object_store_memory": 100 * 2**20}


@pytest.fixture(scope="module")
def cluster():
    """Two nodes of one core each on this machine."""
    import ray
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    nodes = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    nodes.add_node(**NODE)
    yield nodes
    ray.shutdown()
    nodes.shutdown()


@pytest.fixture
def second(cluster):
    """The second node; another takes its place when a test has killed it."""
    node = next(iter(cluster.worker_nodes), None) or cluster.add_node(**NODE)
    yield node
    if not cluster.worker_nodes:
        cluster.add_node(**NODE)


def files(folder: Path) -> dict[str, bytes]:
    """Every file that is seen; a killed worker may leave a hidden or unfinished one behind."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.suffix in (".png", ".json", ".safetensors"))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(found)}


def kill_when(cluster, node, ready) -> threading.Thread:
    """Kills a node when ready() is true."""

    def kill() -> None:
        while not ready():
            time.sleep(0.02)
        cluster.remove_node(node, allow_graceful=False)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    return thread


def where(job: int) -> tuple[int, int]:
    time.sleep(0.05)
    return job, os.getpid()


def dies(job: int) -> None:
    os._exit(1)


def fails(job: int) -> int:
    raise ValueError(f"job {job}")


def test_all_nodes_work_in_order_and_errors_come_home(cluster):
    crew = Crew(0, cluster.address)
    found = list(crew.map(where, range(30), handful=2))
    assert [job for job, _ in found] == list(range(30)) and len({pid for _, pid in found}) == 2
    with pytest.raises(ValueError, match="job 0"):
        list(crew.map(fails, range(3)))
    with pytest.raises(SpreadError, match="3 times at the same work"):
        list(crew.map(dies, range(2)))


def test_a_killed_node_loses_nothing(cluster, second, tmp_path, caplog):
    one, two = tmp_path / "one", tmp_path / "two"
    command = ["demo-data", "--count", "60", "--size", "128"]
    assert main([*command, "--output", str(one), "--workers", "1"]) == 0
    killer = kill_when(cluster, second, lambda: len(list((two / "color").glob("*.png"))) > 10)
    with caplog.at_level(logging.WARNING, "spread"):
        assert main([*command, "--output", str(two), "--ray", cluster.address]) == 0
    killer.join()
    assert "a worker was lost" in caplog.text
    assert files(one) == files(two) and len(files(one)) == 60 * 7 + 1


def test_prepare_and_doctor(cluster, tmp_path, capsys):
    drawn = write_demo_data(tmp_path / "drawn", 12, 64, progress=False)
    said = []
    for name, who in (("one", ["--workers", "1"]), ("two", ["--ray", cluster.address])):
        shutil.copytree(drawn / "color", tmp_path / name / "color")  # with their times, by which pictures are known
        root = str(tmp_path / name)
        assert main(["prepare", root, "--sketch", "standard", "xdog", "--mask", "drawing", *who]) == 0
        capsys.readouterr()
        assert main(["doctor", root, "--size", "64", *who]) == 0
        said.append(capsys.readouterr().out)
    one, two = files(tmp_path / "one"), files(tmp_path / "two")
    assert one == two and sum(name.startswith("sketch_xdog/") for name in two) == 12
    assert said[0] == said[1]
