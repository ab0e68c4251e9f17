"""Random graphs on a real server: python -m tests.fuzz --prompts 10000 --seed 1

Exit status 1 when something happened that must not. `--only N` runs one graph of a seed again.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from quickstart_lib import comfyui, environment
from quickstart_lib.server import Server
from quickstart_lib.terminal import Status

from . import ROOT, fuzz


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m tests.fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("--prompts", type=int, default=1000, metavar="N", help="how many graphs (default: 1000)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the graphs (default: 0)")
    parser.add_argument("--only", type=int, metavar="N", help="only graph number N of the seed")
    parser.add_argument("--every", type=int, default=100, metavar="N", help="graphs between two probes (default: 100)")
    parser.add_argument("--seconds", type=float, default=1e9, metavar="S", help="stop after this time")
    parser.add_argument("--output", type=Path, default=Path("fuzz"), help="folder for the graphs that make problems")
    chosen = parser.parse_args(arguments)
    comfy = comfyui.find(ROOT, os.environ, Path.home(), environment.cache_folder(os.environ, Path.home()))
    if comfy is None:
        parser.error("ComfyUI not found; set COMFYUI_PATH to its folder (the one with main.py)")
    here, status = environment.current(comfy, ROOT, ()), Status(sys.stderr)
    numbers = range(chosen.prompts) if chosen.only is None else range(chosen.only, chosen.only + 1)
    with tempfile.TemporaryDirectory(prefix="colorize-fuzz-") as logs:
        with Server(here, comfy, ROOT, Path(logs), status, cpu=True) as server:
            counts = fuzz(server, numbers, chosen.seed, chosen.every, chosen.seconds, chosen.output)
    print(counts)
    return 1 if counts.problems else 0


if __name__ == "__main__":
    sys.exit(main())
