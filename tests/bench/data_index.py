"""Time and memory to make and to open an index of millions of pictures: `python -m tests.bench index`."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

BAR_SECONDS, BAR_GIB = 20, 1.0

OPEN = """
import resource, sys, time
from pathlib import Path
import numpy as np
from trainer.data import buckets, index, index_files, sources
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
before, began = peak(), time.perf_counter()
root = Path(sys.argv[1])
listed = index_files.from_files([root / "data_index" / "all.json"], index.cache_folder(root))
rows = listed.rows(min_score=5.5, min_side=768).astype(np.int32)
opened = time.perf_counter() - began
canvases = buckets.table(1024, 32, 1.8)
chosen = buckets.nearest(listed["width"][rows], listed["height"][rows], canvases)
order = buckets.BucketOrder(chosen, canvases, 128, seed=0)
names = [listed.name(int(rows[order.at(position).row])) for position in range(1000)]
print(f"{sys.argv[2]}: {len(listed):,} pictures, {len(rows):,} kept, {opened:.1f} s; first thousand names after "
      f"{time.perf_counter() - began:.1f} s; peak {peak():.2f} GiB, of which {before:.2f} GiB Python and its packages")
"""


def write_index(path: Path, count: int) -> None:
    """A JSON index of the released form."""
    path.parent.mkdir(parents=True)
    random = np.random.default_rng(0)
    with path.open("w", encoding="utf-8") as file:
        file.write("{")
        for first in range(0, count, 100_000):
            many = min(100_000, count - first)
            sides = random.integers(500, 2400, (many, 2)).tolist()
            scores = random.uniform(4, 7, many).tolist()
            for number, ((width, height), score) in enumerate(zip(sides, scores), first):
                file.write(
                    f'{"," if number else ""}\n"{number // 5000:04d}/{number:08d}.png": {{"exist_sketch": true, '
                    f'"aesthetic_score": {score:.4f}, "width": {width}, "height": {height}, '
                    f'"tags": "1girl, solo, long hair, blue eyes, tag {number}"}}'
                )
        file.write("}")


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench index", description=__doc__)
    parser.add_argument("--count", type=int, default=6_000_000, help="pictures in the index (default 6 million)")
    parser.add_argument("--folder", help="where to write it (about 140 bytes per picture, twice); default: temporary")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        root = Path(scratch)
        began = time.perf_counter()
        write_index(root / "data_index" / "all.json", options.count)
        size = (root / "data_index" / "all.json").stat().st_size / 2**20
        print(f"written {size:.0f} MiB of JSON in {time.perf_counter() - began:.0f} s")
        for what in ("index: made from JSON", "index: opened"):
            subprocess.run([sys.executable, "-c", OPEN, str(root), what], check=True)
    print(f"Bar: opened in {BAR_SECONDS} s and {BAR_GIB} GiB")
    return 0
