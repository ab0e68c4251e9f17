"""Commands of the data on two local Ray nodes: the files of one process, also when a node is killed in mid-run."""

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch

from spread.crew import Crew
from trainer.__main__ import main
from trainer.commands.doctor import examine


@pytest.fixture(autouse=True)
def one_thread():
    """As Ray's workers of one core have; a network's sums depend on it in the last bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def files(folder: Path) -> dict[str, bytes]:
    """Every file that is seen; a killed worker may leave a hidden or unfinished one behind."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.suffix in (".png", ".json", ".safetensors"))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(found)}


def test_demo_data_with_a_node_that_is_killed(ray_cluster, kill_node, tmp_path, caplog):
    one, two = tmp_path / "one", tmp_path / "two"
    command = ["demo-data", "--count", "60", "--size", "128"]
    assert main([*command, "--output", str(one), "--workers", "1"]) == 0
    dead = kill_node(lambda: len(list((two / "color").glob("*.png"))) > 10)
    with caplog.at_level(logging.WARNING, "spread"):
        assert main([*command, "--output", str(two), "--ray", ray_cluster.address]) == 0
    dead()
    assert "a worker was lost" in caplog.text
    assert files(one) == files(two) and len(files(one)) == 60 * 7 + 1


def test_prepare_and_doctor(ray_cluster, pictures, tmp_path):
    for name, who in (("one", ["--workers", "1"]), ("two", ["--ray", ray_cluster.address])):
        shutil.copytree(pictures / "color", tmp_path / name / "color")  # with their times, by which pictures are known
        root = str(tmp_path / name)
        assert main(["prepare", root, "--sketch", "standard", "xdog", "--mask", "drawing", *who]) == 0
    one, two = files(tmp_path / "one"), files(tmp_path / "two")
    assert one == two and sum(name.startswith("sketch_xdog/") for name in two) == 8
    crew = Crew(0, ray_cluster.address)
    found = examine(tmp_path / "two", 64, crew, progress=False)
    assert found == examine(tmp_path / "one", 64, progress=False) and found.counts["sketch_xdog"] == 8


def test_cache(ray_cluster, values, write_toml, tmp_path):
    values["loss"] = {"reference_drop": 0.3}
    config, made = write_toml(values), []
    for name, who in (("one", []), ("two", ["--ray", ray_cluster.address])):
        folder = tmp_path / name
        assert main(["cache", "--config", config, "--data.cache_folder", str(folder), *who]) == 0
        made.append(files(folder))
    assert made[0] == made[1] and len(made[0]) == 4  # recipe and rows of two kinds


def test_evaluate_with_a_node_that_is_killed(ray_cluster, kill_node, v1_file, frozen, pictures, tmp_path, caplog):
    """The parts are on the disk: what the dead node had measured stays, what it had begun is measured by the other."""
    command = ["evaluate", "--checkpoint", v1_file, "--encoder", frozen["encoder"], "--data", str(pictures)]
    command += ["--steps", "8", "--count", "8", "--batch", "1", "--intervals", "none", "--protocol", "deformed"]
    assert main([*command, "--output", str(tmp_path / "one")]) == 0
    two = tmp_path / "two"
    dead = kill_node(lambda: len(list(two.rglob("0*.safetensors"))) > 1)
    with caplog.at_level(logging.WARNING, "spread"):
        assert main([*command, "--output", str(two), "--ray", ray_cluster.address]) == 0
    dead()
    assert "a worker was lost" in caplog.text
    assert files(tmp_path / "one") == files(two) and json.loads((two / "report.json").read_text())["pairs"] == 8
