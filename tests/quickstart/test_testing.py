"""quickstart.py --test: the whole suite in two processes, a part of it in one, and every failure is told."""

from __future__ import annotations

import sys

import pytest

from quickstart_lib import command, testing
from quickstart_lib.environment import Environment
from quickstart_lib.terminal import Status

TEST = """import os
import pathlib


def test_a():
    pathlib.Path({notes!r}, str(os.getpid())).write_text(os.environ.get("OMP_NUM_THREADS", "as it was"))
    assert {holds}
"""


@pytest.fixture
def suite(tmp_path, monkeypatch):
    """suite(holds of two files) -> a folder of two test files that note their process and its threads."""
    (tmp_path / "notes").mkdir()
    for name in ("OMP_NUM_THREADS", "PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(testing, "_cores", lambda: 6)
    monkeypatch.setattr(testing.type_check, "check", lambda *_: 0)  # there is no code of ours in the folder

    def make(*holds: bool):
        for number, value in enumerate(holds):
            (tmp_path / f"test_{number}.py").write_text(TEST.format(notes=str(tmp_path / "notes"), holds=value))
        (tmp_path / "pytest.ini").write_text("[pytest]\n")
        return tmp_path

    return make


def run(folder, *arguments: str) -> int:
    return testing.run(Environment(sys.executable, "cpu", "2"), folder, folder, arguments, Status(sys.stderr))


def threads(folder) -> list[str]:
    return [note.read_text() for note in (folder / "notes").iterdir()]


def test_the_whole_suite_runs_in_two_processes(suite):
    pytest.importorskip("xdist")
    folder = suite(True, True)
    assert run(folder) == 0
    assert threads(folder) == ["3", "3"]  # two processes, half of the cores each


def test_a_failure_in_either_process_fails(suite):
    assert run(suite(True, False)) == 1


def test_a_part_runs_in_one_process(suite):
    folder = suite(True, True)
    assert run(folder, "-q") == 0 and threads(folder) == ["as it was"]


@pytest.mark.parametrize("cores, has", [(1, True), (6, False)])
def test_one_core_or_no_xdist_is_one_process(suite, monkeypatch, cores, has):
    monkeypatch.setattr(testing, "_cores", lambda: cores)
    monkeypatch.setattr(testing, "_has_xdist", lambda *_: has)
    folder = suite(True, True)
    assert run(folder) == 0 and threads(folder) == ["as it was"]


def test_a_package_without_tests_is_told_before_anything_is_set_up(tmp_path, monkeypatch, capsys):
    """The Comfy registry's package leaves tests/ out (.comfyignore)."""
    monkeypatch.setattr(command, "PACK", tmp_path)
    monkeypatch.setattr(command, "find_comfyui", lambda *_: pytest.fail("set-up began"))
    assert command.main(["--test"]) == 1
    assert "has no tests: the Comfy registry's package leaves them out" in capsys.readouterr().err
