"""Random graphs on a real server: `python -m tests.fuzz --prompts 10000 --seed 1`."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

from quickstart_lib import job
from quickstart_lib.server import Server
from tests.workflows.shipped import api

from . import pictures
from .graphs import SIDE, Maker
from .run import Counts, Fuzz

BUNDLED = ("quickstart", "fig2fig", "texture", "recolor", "flats", "animediffusion")
"""Workflows of the bundled models."""
ALL = (*BUNDLED, "edit_reference", "v2", "xl", "xl_cast", "xl_plugin")
"""Those that run with stand-ins."""
SMALL, TINY = 160, 64  # beside stand-ins: longest side of the examples, sides of what is sampled


def prepared(server: Server, seed: int, output: Path, stand_ins: bool = False) -> Fuzz:
    """A run on a running server, with the pictures that its graphs read; output: see `Fuzz`.

    stand_ins: tiny random models of every family in place of the bundled ones: graphs take a fraction of the time.
    """
    folder = server.base / "input"
    pictures.copy_examples(folder, SMALL if stand_ins else None)
    names = pictures.write(folder, random.Random(seed))
    if stand_ins:
        from . import models

        models.place(server.base / "models")
    workflows = ALL if stand_ins else BUNDLED
    flows = [job.load_workflow(api(name)) for name in workflows]
    maker = Maker(server.get_json("/object_info"), flows, names, seed, TINY if stand_ins else SIDE)
    return Fuzz(server, maker, output)


def fuzz(
    server: Server,
    numbers: Sequence[int],
    seed: int,
    every: int = 100,
    seconds: float = 1e9,
    output: Path | None = None,
    tell: Callable[[str], None] = print,
    stand_ins: bool = False,
) -> Counts:
    """Run graphs on a running server; output: folder for the graphs that make problems."""
    return prepared(server, seed, output or Path("fuzz"), stand_ins).run(numbers, every, seconds, tell)
