"""Random graphs on a real server: python -m tests.fuzz --prompts 10000 --seed 1

Exit status 1 when something happened that must not. `--only N` runs one graph of a seed again. `--servers 2` shares the
graphs, one server with ComfyUI's cache and one without. `--soak 500` makes pictures of the quickstart instead and
compares the memory of the last hundred with that of the second.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import fuzz, prepared
from .memory import PART, grows, soak
from .run import Counts
from .servers import CACHES, find_comfyui, server


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m tests.fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=int, default=1000, metavar="N", help="how many graphs (default: 1000)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the graphs (default: 0)")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="number of the first graph (default: 0)")
    parser.add_argument("--only", type=int, metavar="N", help="only graph number N of the seed")
    parser.add_argument("--every", type=int, default=100, metavar="N", help="graphs between two probes (default: 100)")
    parser.add_argument("--seconds", type=float, default=1e9, metavar="S", help="stop after this time")
    parser.add_argument("--servers", type=int, default=1, metavar="N", help="servers that share the graphs")
    parser.add_argument("--cache", choices=CACHES, help="of all servers (default: another for each)")
    parser.add_argument("--stand-ins", action="store_true", help="tiny random models of every family: much faster")
    parser.add_argument("--output", type=Path, default=Path("fuzz"), help="folder for the graphs that make problems")
    parser.add_argument("--soak", type=int, metavar="N", help=f"N pictures of the quickstart, {3 * PART} or more")
    parser.add_argument("--steps", type=int, default=20, metavar="N", help="of a picture of --soak (default: 20)")
    return parser


def share(chosen: argparse.Namespace, comfy: Path, logs: Path, place: int) -> Counts:
    """What one of the servers does: every `chosen.servers`-th graph. One that died is started again."""
    cache = chosen.cache or list(CACHES)[place % len(CACHES)]
    threads = max(1, (os.cpu_count() or 1) // chosen.servers) if chosen.servers > 1 else 0
    numbers = range(chosen.first + place, chosen.first + chosen.prompts, chosen.servers)
    if chosen.only is not None:
        numbers = range(chosen.only, chosen.only + 1)
    counts, end = Counts(), time.monotonic() + chosen.seconds
    while counts.run < len(numbers) and time.monotonic() < end:
        with server(comfy, logs / str(place), cache, threads) as running:
            counts += fuzz(
                running, numbers[counts.run :], chosen.seed, chosen.every, end - time.monotonic(), chosen.output,
                lambda text: print(f"[cache {cache}] {text}", flush=True), chosen.stand_ins,
            )  # fmt: skip
    return counts


def main(arguments: list[str] | None = None) -> int:
    chosen = parser().parse_args(arguments)
    comfy = find_comfyui()
    if comfy is None:
        parser().error("ComfyUI not found; set COMFYUI_PATH to its folder (the one with main.py)")
    if chosen.soak is not None and chosen.soak < 3 * PART:
        parser().error(f"--soak compares hundreds: give it {3 * PART} or more")
    with tempfile.TemporaryDirectory(prefix="colorize-fuzz-") as logs:
        if chosen.soak is not None:
            with server(comfy, Path(logs)) as running:
                run = prepared(running, chosen.seed, chosen.output)
                problem = grows(soak(running, chosen.soak, chosen.steps, run.entry))
            print(problem or "memory is flat")
            return 1 if problem else 0
        counts = Counts()
        with ThreadPoolExecutor(chosen.servers) as pool:
            for done in pool.map(lambda place: share(chosen, comfy, Path(logs), place), range(chosen.servers)):
                counts += done
    for words, count in counts.words.most_common():
        print(f"{count:5} {words}")
    print(counts)
    return 1 if counts.problems else 0


if __name__ == "__main__":
    sys.exit(main())
