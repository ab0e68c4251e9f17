"""Pictures per second that the data loader gives from zip shards, without a model: `python -m tests.bench loader`.

A picture is a whole sample: colours, sketch and reference at the asked size, as a training step of stage v1 gets them.
Two numbers: uncached, every file is read and decoded; cached, from data.decoded_folder, filled by the pass before.
"""

from __future__ import annotations

import argparse
import io
import os
import tempfile
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from trainer.config import Data
from trainer.data.buckets import PositionSampler
from trainer.data.folder import FolderDataset

BAR = 200
SHARDS = 4


def drawing(number: int, width: int, height: int) -> tuple[Image.Image, Image.Image]:
    """Smooth colours with fine texture and lines, which compress about as drawings do, and the lines alone."""
    random = np.random.default_rng(number)
    color = Image.fromarray(random.integers(0, 256, (9, 7, 3), dtype=np.uint8)).resize((width, height), Image.BICUBIC)
    grain = random.normal(0, 4, (height, width, 1))
    color = Image.fromarray((np.asarray(color) + grain).clip(0, 255).astype(np.uint8))
    sketch = Image.new("L", (width, height), 255)
    for _ in range(60):
        line = [tuple(point) for point in (random.random((6, 2)) * (width, height)).tolist()]
        for canvas, ink in ((color, (40, 30, 30)), (sketch, 20)):
            ImageDraw.Draw(canvas).line(line, fill=ink, width=3)
    return color, sketch


def write_shards(root: Path, count: int, width: int, height: int) -> None:
    """color/ and reference/ as JPEG, sketch/ as PNG, in SHARDS zip files each."""
    for part in ("color", "sketch", "reference"):
        (root / part).mkdir()
    for shard in range(SHARDS):
        archives = {p: zipfile.ZipFile(root / p / f"{shard:04d}.zip", "w") for p in ("color", "sketch", "reference")}
        for number in range(shard, count, SHARDS):
            color, sketch = drawing(number, width, height)
            for part, image, kind in (
                ("color", color, "JPEG"),
                ("reference", color, "JPEG"),
                ("sketch", sketch, "PNG"),
            ):
                buffer = io.BytesIO()
                image.save(buffer, kind, quality=92)
                suffix = {"JPEG": "jpg", "PNG": "png"}[kind]
                archives[part].writestr(f"{shard:04d}/{number:06d}.{suffix}", buffer.getvalue())
        for archive in archives.values():
            archive.close()


def rate(dataset: FolderDataset, epochs: Sequence[int], batch: int, workers: int) -> tuple[float, float]:
    """(pictures per second by the clock, by the processor time of loader and workers, their start included).

    The clock starts when the workers have started and what they read ahead has been given.
    """
    first, last = (epochs[0] * len(dataset) // batch, epochs[-1] * len(dataset) // batch)
    loader = torch.utils.data.DataLoader(
        dataset, batch_sampler=PositionSampler(first, last, batch), num_workers=workers,
        multiprocessing_context="spawn" if workers else None,
    )  # fmt: skip
    used = sum(os.times()[:4])
    batches = iter(loader)
    ahead = [len(next(batches)["color"]) for _ in range(2 * workers + 1)]
    began = time.perf_counter()
    pictures = sum(len(values["color"]) for values in batches)
    wall = time.perf_counter() - began
    del batches, loader  # the processor time of workers is known when they have ended
    return pictures / wall, (pictures + sum(ahead)) / max(1e-9, sum(os.times()[:4]) - used)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench loader", description=__doc__)
    parser.add_argument("--count", type=int, default=400, help="pictures in the set")
    parser.add_argument("--size", type=int, default=512, help="side of the training pictures in pixels")
    parser.add_argument(
        "--source", type=int, nargs=2, default=(832, 1216), metavar=("W", "H"), help="size of the files"
    )
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--workers", type=int, default=2, help="processes; 0 reads in this one")
    parser.add_argument("--passes", type=int, default=3, help="passes over the set with the store filled")
    parser.add_argument(
        "--folder", help="where to write the set (about 1 MB a picture) and the store; default: temporary"
    )
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        root = Path(scratch) / "set"
        root.mkdir()
        write_shards(root, options.count, *options.source)
        size = sum(file.stat().st_size for file in root.rglob("*.zip")) / options.count / 2**10
        print(
            f"loader: {options.count} samples of {size:.0f} KiB, files of {options.source}, read at {options.size} px"
        )
        plain = FolderDataset(Data(folder=str(root), size=options.size))
        kept = FolderDataset(Data(folder=str(root), size=options.size, decoded_folder=str(Path(scratch) / "store")))
        for title, dataset, epochs in (
            ("uncached", plain, (0, 1)),
            ("filling data.decoded_folder", kept, (0, 1)),
            ("cached", kept, (1, 1 + options.passes)),
        ):
            wall, cpu = rate(dataset, epochs, options.batch, options.workers)
            print(f"loader: {title}: {wall:.0f} pictures/s, {cpu:.0f} per second of processor time")
        print(f"Bar: {BAR} pictures/s cached at 512 px on two cores")
    return 0
