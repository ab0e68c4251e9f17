"""What is known of the frames of a long shot, kept in a folder: memory stays flat, and a stopped job goes on.

A file has its name when it is whole, so what is there can be used.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ..pictures.region_borders import Borders
from ..pictures.regions import RegionMap


@contextmanager
def whole(file: Path) -> Iterator[Path]:
    """A name beside `file` to write under; `file` appears when the block has ended well."""
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


class Spool:
    """Arrays by name and frame in one folder, which belongs to one job."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def _file(self, name: str, frame: int) -> Path:
        return self.folder / f"{name}_{frame:06d}.npz"

    def has(self, name: str, frame: int) -> bool:
        """Whether `put` was done."""
        return self._file(name, frame).is_file()

    def put(self, name: str, frame: int, **arrays: np.ndarray) -> None:
        """Keep arrays."""
        with whole(self._file(name, frame)) as part, open(part, "wb") as out:
            np.savez_compressed(out, **arrays)  # type: ignore[arg-type]  # the stub's **kwds takes a bool too

    def get(self, name: str, frame: int) -> dict[str, np.ndarray]:
        """What was put. Raises OSError where nothing was."""
        with np.load(self._file(name, frame), allow_pickle=False) as found:
            return dict(found)

    def put_regions(self, frame: int, regions: RegionMap) -> None:
        """Keep a frame's regions."""
        between = regions.borders
        self.put(
            "regions",
            frame,
            pieces=regions.pieces,
            region_of=regions.region_of,
            ink=regions.ink,
            areas=regions.areas,
            line_width=np.array(regions.line_width),
            pairs=between.pairs,
            length=between.length,
            open=between.open,
        )

    def regions(self, frame: int) -> RegionMap:
        """A frame's regions."""
        had = self.get("regions", frame)
        between = Borders(had["pairs"], had["length"], had["open"])
        width = float(had["line_width"])
        return RegionMap(had["pieces"], had["region_of"], had["ink"], between, had["areas"], width)
