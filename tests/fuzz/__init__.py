"""Random graphs on a real server: `python -m tests.fuzz --prompts 10000 --seed 1`."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

from quickstart_lib import job
from quickstart_lib.server import Server

from . import pictures
from .graphs import WORKFLOWS, Maker
from .run import Counts, Fuzz

ROOT = Path(__file__).resolve().parents[2]


def fuzz(
    server: Server, numbers: range, seed: int, every: int = 100, seconds: float = 1e9, output: Path | None = None
) -> Counts:
    """Run graphs on a running server; output: folder for the graphs that make problems."""
    folder = server.base / "input"
    for file in (ROOT / "workflows" / "examples").iterdir():
        shutil.copy(file, folder / file.name)
    names = pictures.write(folder, random.Random(seed))
    flows = [job.load_workflow(ROOT / "workflows" / "api" / f"{name}.json") for name in WORKFLOWS]
    maker = Maker(server.get_json("/object_info"), flows, names, seed)
    return Fuzz(server, maker, output or Path("fuzz")).run(numbers, every, seconds)
