"""Runs the golden files of a folder on one side or both, and prints the table."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from . import files, registry
from .registry import SIDES, Outcome

COMFY_TIMEOUT = 900
"""Seconds after which the ComfyUI process is given up."""


def run_side(paths: Iterable[Path], side: str) -> list[Outcome]:
    """Answer the files of `paths` that have a case on `side`, in this process."""
    functions = registry.cases()
    outcomes = []
    for path in paths:
        function = functions.get((files.case_name(path, files.read_config(path)), side))
        if function is not None:
            outcomes.append(run_case(path, side, function))
    return outcomes


def run_case(path: Path, side: str, function) -> Outcome:
    """One case on one side. Errors of the case end up in its row: one broken case does not hide the others."""
    outcome = Outcome(case=path.stem, side=side)
    start = time.perf_counter()
    try:
        golden = files.load(path)
        outcome.total = len(golden.outputs)
        tolerance = registry.suggested_tolerance(golden)
        outcome.tolerance = str(tolerance)
        check = registry.Check(golden, outcome, tolerance)
        with torch.no_grad():
            function(golden, check)
        check.finish()
    except Exception as error:
        outcome.over.append(f"{type(error).__name__}: {error}")
        logging.getLogger(__name__).debug("%s", traceback.format_exc())
    outcome.seconds = time.perf_counter() - start
    return outcome


def run_comfy_process(paths: Sequence[Path], comfy: Path) -> list[Outcome]:
    """Answer `paths` on the comfy side in a process of its own, in which ComfyUI and the pack are loaded.

    RuntimeError with the end of the process's output when it ends badly.
    """
    with tempfile.TemporaryDirectory() as scratch:
        answer = Path(scratch) / "outcomes.json"
        command = comfy_command(comfy, "tests.golden.comfy_side", answer, *(path.resolve() for path in paths))
        ended = subprocess.run(command, capture_output=True, text=True, timeout=COMFY_TIMEOUT, cwd=scratch)
        if ended.returncode or not answer.is_file():
            raise RuntimeError(f"The ComfyUI process ended with status {ended.returncode}:\n{ended.stderr[-3000:]}")
        return [Outcome(**row) for row in json.loads(answer.read_text(encoding="utf-8"))]


def comfy_command(comfy: Path, module: str, *arguments: object) -> list[str]:
    """Command line of a process that loads ComfyUI and the pack and calls main(arguments) of a module of the pack."""
    script = Path(__file__).with_name("comfy_process.py")
    return [sys.executable, str(script), str(comfy), module, *map(str, arguments)]


def find_comfy() -> Path | None:
    """ComfyUI's folder where quickstart finds it; None without one. A wrong $COMFYUI_PATH is an error."""
    from quickstart_lib import comfyui, environment

    root = Path(__file__).resolve().parents[2]
    return comfyui.find(root, os.environ, Path.home(), environment.cache_folder(os.environ, Path.home()))


def table(outcomes: Sequence[Outcome]) -> str:
    """The results as text: case, side, compared outputs, max abs error, tolerance, verdict."""
    header = ("case", "side", "outputs", "max abs error", "tolerance", "verdict")
    rows = [header]
    for outcome in outcomes:
        partial = "" if len(outcome.errors) == outcome.total else " (partial)"
        rows.append(
            (
                outcome.case,
                outcome.side,
                f"{len(outcome.errors)}/{outcome.total}",
                f"{outcome.worst:.1e}" if outcome.errors else "-",
                outcome.tolerance,
                ("ok" if outcome.passed else "FAIL") + partial,
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def notes(outcomes: Sequence[Outcome]) -> str:
    """What failed, and which outputs were not compared and why."""
    lines = []
    for outcome in outcomes:
        where = f"{outcome.case} ({outcome.side})"
        lines += [f"FAIL {where}: {problem}" for problem in outcome.over]
        reasons: dict[str, list[str]] = {}
        for name, reason in outcome.skipped.items():
            reasons.setdefault(reason, []).append(name)
        for reason, names in reasons.items():
            lines.append(f"not compared, {where}: {_shortened(names)}: {reason}")
        if outcome.unanswered and outcome.passed:
            lines.append(f"not implemented, {where}: {_shortened(outcome.unanswered)}")
    return "\n".join(lines)


def _shortened(names: Sequence[str], shown: int = 6) -> str:
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")


def run_folder(
    folder: Path, wanted: Sequence[str] = (), sides: Sequence[str] = SIDES
) -> tuple[list[Outcome], list[str], list[str]]:
    """Run the cases of `folder` (or those named in `wanted`).

    Returns the outcomes, the stems of the files no side implements, and remarks about sides that could not run.
    ValueError when the folder has no golden files or a wanted one is not there.
    """
    found = files.case_files(folder)
    if not found:
        raise ValueError(f"{folder} holds no golden files (<case>.safetensors).")
    if absent := [name for name in wanted if name not in found]:
        raise ValueError(f"{folder} has no golden file {', '.join(absent)}; it has {', '.join(found)}.")
    chosen = {stem: path for stem, path in found.items() if not wanted or stem in wanted}
    names = {stem: files.case_name(path, files.read_config(path)) for stem, path in chosen.items()}
    functions = registry.cases()
    unknown = [stem for stem, name in names.items() if not any((name, side) in functions for side in SIDES)]

    outcomes, remarks = [], []
    if "torch" in sides:
        outcomes += run_side(chosen.values(), "torch")
    if "comfy" in sides:
        paths = [path for stem, path in chosen.items() if (names[stem], "comfy") in functions]
        comfy = find_comfy()
        if comfy is None:
            remarks.append("The comfy side was not run: ComfyUI was not found. Set COMFYUI_PATH to its folder.")
        elif paths:
            outcomes += run_comfy_process(paths, comfy)
    outcomes.sort(key=lambda outcome: (outcome.case, SIDES.index(outcome.side)))
    return outcomes, unknown, remarks
