"""Runs the tests of each mutation in a copy of the repository."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from . import ours, papers
from .mutation import mutated

ROOT = Path(__file__).resolve().parents[2]
MUTATIONS = papers.MUTATIONS + ours.MUTATIONS
THIRD_PARTY = [
    "torch",
    "numpy",
    "PIL",
    "safetensors.torch",
    "pytest",
    "accelerate",
    "open_clip",
    "torchmetrics",
    "tqdm",
]


def copy_of_the_tree(target: Path) -> None:
    """The files that git knows or does not ignore."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines():
        if (ROOT / name).is_file() and not name.startswith(("models/", "docs/images/")):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


def run_tests(folder: str, tests: str) -> None:
    """In a process of its own: run the tests of a copy and exit with pytest's code."""
    import pytest

    for module in [name for name in sys.modules if name.partition(".")[0] in ("tests", "trainer", "colorize")]:
        del sys.modules[module]
    os.chdir(folder)
    sys.path[:] = [folder, *(path for path in sys.path if path and Path(path).resolve() != ROOT)]
    os.environ.pop("GOLDEN_DIR", None)
    sys.dont_write_bytecode = True
    file, *rest = tests.split(" ", 1)
    with open(os.devnull, "w") as nowhere:
        sys.stdout = sys.stderr = nowhere
        code = pytest.main([file, "-x", "-q", "-p", "no:cacheprovider", *(rest[0].split(" ", 1) if rest else ())])
    os._exit(int(code))


def outcome(context: multiprocessing.context.BaseContext, folder: Path, tests: str) -> int:
    """pytest's exit code: 0 all passed, 1 some failed, else the tests could not run."""
    process = context.Process(target=run_tests, args=(str(folder), tests))
    process.start()
    process.join()
    return process.exitcode if process.exitcode is not None else -1


def main(words: list[str]) -> int:
    chosen = [mutation for mutation in MUTATIONS if all(word.lower() in mutation.name.lower() for word in words)]
    forks = "forkserver" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if forks else "spawn")
    if forks:
        context.set_forkserver_preload(THIRD_PARTY)
    survivors = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary).resolve()
        copy_of_the_tree(folder)
        for tests in dict.fromkeys(mutation.tests for mutation in chosen):
            if code := outcome(context, folder, tests):
                print(f"without any change {tests} ends with {code}: mend it first.")
                return 2
        for mutation in chosen:
            begun, file = time.monotonic(), folder / mutation.file
            text = file.read_text(encoding="utf-8")
            file.write_text(mutated(text, mutation), encoding="utf-8")
            code = outcome(context, folder, mutation.tests)
            file.write_text(text, encoding="utf-8")
            verdict = {0: "SURVIVES", 1: "dies"}.get(code, f"breaks ({code})")
            print(f"{verdict:10} {time.monotonic() - begun:5.1f} s  {mutation.name}", flush=True)
            if code != 1:
                survivors.append(mutation.name)
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} die.")
    return 1 if survivors else 0
