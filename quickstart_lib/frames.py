"""Many drawings named at once: those of a folder or a pattern, in the order of their numbers."""

import glob
import importlib
import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from .errors import QuickstartError

_order = importlib.import_module("colorize.shots.order")  # of the pack, for which frames are frames there, too
SUFFIXES: tuple[str, ...] = _order.PICTURES
VIDEO_SUFFIXES: tuple[str, ...] = _order.VIDEOS
WILD = re.compile(r"[*?\[]")


def is_many(given: Path | None) -> bool:
    """Whether an option names several drawings: a folder, a video, or a pattern such as "cut/*.png" that is no file."""
    if given is None:
        return False
    given = given.expanduser()
    return is_video(given) or given.is_dir() or (not given.exists() and bool(WILD.search(str(given))))


def is_video(file: Path) -> bool:
    """Whether the name is a video's."""
    return file.suffix.lower() in VIDEO_SUFFIXES


@dataclass(frozen=True)
class Drawing:
    """One of many drawings."""

    label: str
    """Its place below the folder that holds them all, with /; names it in the report."""
    file: Path
    target: str
    """Where its picture goes inside the output folder."""


def listed(given: Path, option: str = "--sketch") -> list[Drawing]:
    """The drawings that an option names, in natural order; raises QuickstartError when there is none."""
    given = given.expanduser().absolute()
    found = given.iterdir() if given.is_dir() else map(Path, glob.glob(str(given), recursive=True))
    files = [
        file for file in found if file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file()
    ]
    if not files:
        what = f"the folder {given} holds" if given.is_dir() else f"{given} names"
        raise QuickstartError(f"{option}: {what} no picture. Pictures end in {', '.join(SUFFIXES)}.")
    return drawings(sorted(files, key=lambda file: (_order.natural(str(file)), str(file))))


def drawings(files: list[Path]) -> list[Drawing]:
    """Files as drawings. Pictures get the drawings' names; drawings that differ only in their ending keep it:
    a.png and a.jpg become a_png.png and a_jpg.png."""
    root = Path(os.path.commonpath([file.parent for file in files]))
    labels = [file.relative_to(root) for file in files]
    count = Counter(str(label.with_suffix("")).casefold() for label in labels)
    result = []
    for label, file in zip(labels, files):
        alone = count[str(label.with_suffix("")).casefold()] == 1
        name = label.stem if alone else f"{label.stem}_{label.suffix[1:].lower()}"
        result.append(Drawing(label.as_posix(), file, label.with_name(name + ".png").as_posix()))
    return result
