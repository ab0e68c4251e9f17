"""Time and memory of regions and flats by the drawing's size: `python -m tests.bench flats [--sizes 1024 4096]`."""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time

import numpy as np

DESCRIPTION = "One core is measured with OMP_NUM_THREADS=1 in the environment; every size runs in a process of its own."


def one_size(side: int) -> None:
    """Print the seconds of processor time of every step on a drawing of side x side pixels, and the peak of memory."""
    import torch
    from PIL import Image

    from colorize.pictures.flatten import flatten
    from colorize.pictures.regions import find_regions
    from colorize.pictures.shade import shade
    from trainer.world import Appearance, LineStyle, pose_layout, render

    drawn = render(pose_layout(0, 0, "heldout"), Appearance.sample(0), LineStyle.sample(3), 1024)
    large = Image.fromarray(drawn.sketch).resize((side, side), Image.Resampling.BICUBIC)
    lines = torch.from_numpy(np.array(large)).float()[None, ..., None].expand(-1, -1, -1, 3) / 255
    picture = drawn.picture.astype(np.float32) / 255
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    began = time.process_time()
    regions = find_regions(lines).maps[0]
    found = time.process_time()
    flats = flatten(regions, picture)
    flattened = time.process_time()
    shade(flats, picture)
    shaded = time.process_time()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    times = {"regions": found - began, "flats": flattened - found, "shade": shaded - flattened}
    print(f"{side:5d}", *(f"{name} {seconds:.2f} s" for name, seconds in times.items()), sep="   ", end="   ")
    print(f"{regions.count} regions   peak {peak:.0f} MiB, {before:.0f} before")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench flats", description=DESCRIPTION)
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 1024, 2048, 4096])
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        one_size(options.one)
        return 0
    for side in options.sizes:
        command = [sys.executable, "-m", "tests.bench", "flats", "--one", str(side)]
        if code := subprocess.run(command).returncode:
            return code
    return 0
