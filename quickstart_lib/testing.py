"""Other programs in the environment quickstart makes: --test (style check and test suite) and --trainer."""

import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from .environment import Environment
from .processes import clean_environ
from .terminal import Status

# pytest without the current folder on sys.path: our folder nodes/ must not stand before ComfyUI's module nodes
PYTEST = "import sys; sys.path[:] = [p for p in sys.path if p]; import pytest; sys.exit(pytest.main())"


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
    """Run ruff (for the whole suite only), then pytest with `arguments`; pytest's exit status, else ruff's."""
    environ = clean_environ(COMFYUI_PATH=str(comfyui), HF_HUB_OFFLINE="1")
    python = str(environment.python)
    style = 0
    if not arguments:
        status.line("Style check: ruff check .")
        style = call([python, "-m", "ruff", "check", "--quiet", "."], pack, environ)
    with tempfile.TemporaryDirectory(prefix="colorize-tests-", ignore_cleanup_errors=True) as folder:
        tests = call([python, "-c", PYTEST, *arguments], pack, {**environ, "PYTEST_DEBUG_TEMPROOT": folder})
    return tests or style


def train(environment: Environment, pack: Path, arguments: Sequence[str]) -> int:
    """python -m trainer ARGUMENTS, in the pack's folder, as the README runs it; its exit status."""
    return call([str(environment.python), "-m", "trainer", *(arguments or ["--help"])], pack, clean_environ())
