"""Writes a training set of drawings by people (`python -m trainer art-data`): avatars, painted figures, procedural.

The drawings come from packages of npm and Debian with free licences (art/packages.py), through npm and apt-get; nothing
of them is part of this repository. Layout of the folder, file names SOURCE-NUMBER.png:
    color/, reference/                  the true picture, and another drawing in the same colours
    sketch/                             exact black lines on white (avatars, procedural)
    sketch_standard/, sketch_xdog/      extracted lines (figures; XDoG also for half of the others)
    mask/, reference_mask/              255 on the figure
    ATTRIBUTION.md, manifest.json       whose drawings these are, under which licence; how the set was made
Train with data.reference = "folder". The same command on an existing set adds what is missing.
"""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from spread.crew import Crew
from trainer.art import avatars, packages, writing
from trainer.config import ConfigError
from trainer.json_file import read_object
from trainer.workers import add_crew_arguments, crew_of

CHUNK = 25  # samples one process draws at a time
NEEDS = {
    "avatars": ["@dicebear/core", *(f"@dicebear/{style}" for style in avatars.STYLES)],
    "figures": ["renpy-demo"],
    "procedural": [],
}
"""The packages of each source."""


def write_art_data(plan: writing.Plan, counts: dict[str, int], crew: Crew) -> None:
    """Fetch what the sources need, and write `counts` samples of each."""
    names = list(dict.fromkeys(name for source, count in counts.items() if count for name in NEEDS[source]))
    packages.fetch(names, plan.packages)
    plan.folder.mkdir(parents=True, exist_ok=True)
    (plan.folder / "ATTRIBUTION.md").write_text(packages.attribution(names), encoding="utf-8")
    versions = {name: packages.BY_NAME[name].version for name in names}
    manifest: dict[str, Any] = {"seed": plan.seed, "split": plan.split, "packages": versions}
    path = plan.folder / "manifest.json"
    if path.is_file() and (known := read_object(path, "choose another --output")) | manifest != known:
        if (known.get("seed"), known.get("split")) != (plan.seed, plan.split):
            raise ConfigError(
                f"{plan.folder} was written with --seed {known.get('seed')!r:.40} --split {known.get('split')!r:.40}; "
                "use these, or another --output."
            )
        packed = known.get("packages")
        manifest["packages"] = (packed if isinstance(packed, dict) else {}) | manifest["packages"]
    path.write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    parts = [
        (source, range(first, min(first + CHUNK, count)))
        for source, count in counts.items()
        for first in range(0, count, CHUNK)
    ]
    with tqdm(total=sum(counts.values()), unit="picture") as bar:
        for written in crew.map(functools.partial(_write, plan), parts):
            bar.update(written)


def _write(plan: writing.Plan, part: tuple[str, Sequence[int]]) -> int:
    source, numbers = part
    writing.write(plan, source, numbers)
    return len(numbers)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to write (continued when it exists)")
    parser.add_argument(
        "--packages", metavar="DIR", help="folder of the fetched packages (default: packages beside --output)"
    )
    parser.add_argument("--avatars", type=int, default=3000, metavar="N", help="samples of DiceBear's characters")
    parser.add_argument("--figures", type=int, default=1500, metavar="N", help="samples of painted figures")
    parser.add_argument("--procedural", type=int, default=4500, metavar="N", help="samples of procedural characters")
    parser.add_argument("--seed", type=int, default=0, help="which set (default 0)")
    parser.add_argument(
        "--split", choices=("train", "heldout"), default="train", help="heldout shares no character with train"
    )
    add_crew_arguments(parser)


def run(args: argparse.Namespace) -> None:
    counts = {source: getattr(args, source) for source in writing.SOURCES}
    if min(counts.values()) < 0:
        raise ConfigError("--avatars, --figures and --procedural are numbers from 0 on.")
    folder = Path(args.output)
    fetched = Path(args.packages) if args.packages else folder.parent / "packages"
    write_art_data(writing.Plan(folder, fetched, args.seed, args.split), counts, crew_of(args))
    print(f"{sum(counts.values())} samples in {folder}")
