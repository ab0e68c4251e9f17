"""The fast way beside the full one, as a person waits for it: `python -m tests.bench student [--pairs 7]`.

One real ComfyUI server; the quickstart workflow is run in turns by the bundled model (the workflow's steps, or --steps)
and by its student (2 steps), with another seed each time, so that what depends on the seed is computed: noise,
sampling, decoding, saving. With --whole every run also gets a new sketch and reference, so that nothing at all is kept
from the run before. Each is run twice and counts the second time: the first puts the student's LoRA on the model, or
takes it off. Printed are seconds of a run, from the queue to the picture, and the ratio pair by pair (median,
quartiles).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from PIL import Image

from quickstart_lib import comfyui, environment, job, quality
from quickstart_lib.plan import API_WORKFLOW, EXAMPLES, PACK
from quickstart_lib.server import Server
from quickstart_lib.terminal import Status


def seconds(server: Server, workflow: job.Workflow) -> float:
    """How long a run takes, from the queue to the picture."""
    start = time.perf_counter()
    job.run(server, workflow, Status())
    return time.perf_counter() - start


def changed(server: Server, workflow: job.Workflow, number: int, whole: bool) -> job.Workflow:
    """The workflow with another seed, and with pictures that the server has not seen."""
    values: dict[str, Any] = {"seed": 1000 + number}
    for name in ("sketch", "reference") if whole else ():
        file = server.base / f"{name}{number}.png"
        picture = Image.open(EXAMPLES / f"quickstart_{name}.png").convert("RGB")
        picture.putpixel((0, 0), (250, 250, number % 250))
        picture.save(file)
        values[name] = server.upload(file, file.name)
    return job.fill(workflow, values)


def quartiles(values: list[float]) -> str:
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench student")
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--whole", action="store_true", help="new pictures in every run")
    parser.add_argument("--steps", type=int, help="of the model itself (default: the workflow's)")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(arguments)
    cache = environment.cache_folder(os.environ, Path.home())
    folder = comfyui.find_or_fetch("auto", PACK, os.environ, Path.home(), cache, Status())
    full = job.fill(job.load_workflow(API_WORKFLOW), {"steps": args.steps})
    fast = quality.with_student(full, quality.Student(quality.STUDENT_FILE, quality.settings_of(quality.STUDENT_FILE)))
    here = environment.Environment(Path(sys.executable), "cpu", "")
    taken: dict[str, list[float]] = {"full": [], "fast": []}
    runs = 0
    with Server(here, folder, PACK, cache / "logs", Status(), cpu=True) as server:
        for number in range(-1, args.pairs):  # the first pair loads the models
            for name, workflow in (("full", full), ("fast", fast)):
                for _ in range(2):
                    runs += 1
                    spent = seconds(server, changed(server, workflow, runs, args.whole))
                if number >= 0:
                    taken[name].append(spent)
    ratios = [b / a for a, b in zip(*taken.values(), strict=True)]
    print(f"full  {quartiles(taken['full'])} s a picture")
    print(f"fast  {quartiles(taken['fast'])} s a picture")
    print(f"ratio {quartiles(ratios)}")
    if args.json:
        args.json.write_text(json.dumps(taken | {"ratio": ratios}, indent=1), encoding="utf-8")
    return 0
