"""Other programs in the environment quickstart makes: --test (style, types and test suite) and --trainer."""

import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from . import type_check
from .environment import Environment
from .processes import clean_environ
from .terminal import Status

# pytest without the current folder on sys.path: our folder nodes/ must not stand before ComfyUI's module nodes
PYTEST = "import sys; sys.path[:] = [p for p in sys.path if p]; import pytest; sys.exit(pytest.main())"

PROCESSES = 2  # each has its own ComfyUI in memory, and starts its own server: about 3 GB
# Whole files go to a process, in which what a file shares is made once; torch's own threads scale worse than that.
SHARED_OUT = ("-n", str(PROCESSES), "--dist", "loadfile")


def call(command: Sequence[str], folder: Path, environ: dict[str, str]) -> int:
    """Run a command with our own output and stop it with us; returns its exit status."""
    process = subprocess.Popen(command, cwd=folder, env=environ, stdin=subprocess.DEVNULL)
    try:
        return process.wait()
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def run(environment: Environment, comfyui: Path, pack: Path, arguments: Sequence[str], status: Status) -> int:
    """Run ruff and mypy (for the whole suite only), then pytest with `arguments`; its exit status, else theirs.

    The whole suite runs in two processes where there are two cores.
    """
    environ = clean_environ(COMFYUI_PATH=str(comfyui), HF_HUB_OFFLINE="1")
    python = str(environment.python)
    style = types = 0
    if not arguments:
        status.line("Style check: ruff check .")
        style = call([python, "-m", "ruff", "check", "--quiet", "."], pack, environ)
        status.line("Type check: mypy over colorize, model_patches, nodes and trainer")
        types = type_check.check(python, pack, environ)
    with tempfile.TemporaryDirectory(prefix="colorize-tests-", ignore_cleanup_errors=True) as folder:
        environ["PYTEST_DEBUG_TEMPROOT"] = folder
        if not arguments and (cores := _cores()) >= PROCESSES and _has_xdist(python, pack, environ):
            arguments = SHARED_OUT
            environ["OMP_NUM_THREADS"] = str(cores // PROCESSES)
        tests = call([python, "-c", PYTEST, *arguments], pack, environ)
    return tests or style or types


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _has_xdist(python: str, pack: Path, environ: dict[str, str]) -> bool:
    """Whether pytest can use several processes there: an environment of somebody's own may lack the package."""
    return subprocess.run([python, "-c", "import xdist"], cwd=pack, env=environ, capture_output=True).returncode == 0


def train(environment: Environment, pack: Path, arguments: Sequence[str]) -> int:
    """python -m trainer ARGUMENTS, in the pack's folder, as the README runs it; its exit status."""
    return call([str(environment.python), "-m", "trainer", *(arguments or ["--help"])], pack, clean_environ())
