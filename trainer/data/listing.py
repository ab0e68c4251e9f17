"""What there is: the pictures of a data set with every part they need, their groups, and what was left out.

Files lie in plain folders or zip shards (sources.py), with or without an index file (index.py).
"""

from __future__ import annotations

import hashlib
import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from trainer.config import ConfigError
from trainer.data import decode, index, index_files
from trainer.data.sources import FolderSource, ShardSource, Unreadable, not_read

log = logging.getLogger("trainer")

LABEL_PARTS = ("regions", "reference_regions")
"""Parts that hold numbers of regions, not colours."""


@dataclass(frozen=True)
class Item:
    """One training picture."""

    stem: str
    """The name its files share: their path without suffix."""
    group: int
    """hash that the pictures of its group share"""
    size: tuple[int, int]
    """width, height in pixels; 0 = not known"""
    score: float
    extra: Mapping[str, Any]
    """tags and references, where an index gives them"""


class Names(Sequence):
    """Names of chosen rows of an index."""

    def __init__(self, listed: index.Index, rows: np.ndarray) -> None:
        self.listed, self.rows = listed, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> str:  # type: ignore[override]  # one by one, no slices
        return self.listed.name(int(self.rows[number]))


class Items(Sequence):
    """The pictures of a data set; an `Item` is made when it is asked for."""

    def __init__(self, listed: index.Index, rows: np.ndarray, groups: str = "folders") -> None:
        self.listed, self.rows, self.names = listed, rows, Names(listed, rows)
        self.groups = listed["name_group" if groups == "names" else "group"]
        """Hash of the group of every row of the index."""

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> Item:  # type: ignore[override]  # one by one, no slices
        row = int(self.rows[number])
        stem = self.listed.name(row)
        size = int(self.listed["width"][row]), int(self.listed["height"][row])
        return Item(stem, int(self.groups[row]), size, self.listed.score(row), self.listed.extra(row))


class Groups:
    """Which pictures belong together. len() is the number of groups."""

    def __init__(self, hashes: np.ndarray) -> None:
        _, of, self._counts = np.unique(hashes, return_inverse=True, return_counts=True)
        self._of = of.astype(np.int32)
        self._members = np.argsort(self._of, kind="stable").astype(np.int32)
        self._starts = np.cumsum(self._counts) - self._counts

    def __len__(self) -> int:
        return len(self._counts)

    def members(self, number: int) -> np.ndarray:
        """The pictures of the group that a picture is in, itself among them, ascending."""
        group = self._of[number]
        return self._members[self._starts[group] : self._starts[group] + self._counts[group]]

    def alone(self) -> np.ndarray:
        """Pictures that are the only one of their group."""
        return np.flatnonzero(self._counts[self._of] == 1)

    def largest(self) -> np.ndarray:
        """The pictures of the group that has most, ascending; of several the one with the first picture."""
        return self.members(int(self._counts[self._of].argmax()))

    def summary(self, names: Sequence[str]) -> str:
        """Number, largest and singles in words; names: of all pictures."""
        largest = self.largest()
        return (
            f"{len(self)} groups, the largest of {len(largest)} pictures (e.g. {names[int(largest[0])]}), "
            f"{len(self.alone())} pictures alone"
        )


@dataclass
class _Missing:
    """How many pictures lack a part, with one of them."""

    counts: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    examples: dict[str, str] = field(default_factory=dict)

    def keep(
        self, keys: Sequence[str], parts: Mapping[str, Sequence[str]], has: Callable[[str], np.ndarray]
    ) -> np.ndarray:
        """Which of the keys have every part, (N,) booleans. has(folder) says which keys a folder holds."""
        keep = np.ones(len(keys), bool)
        for part, folders in parts.items():
            lacking = keep & ~np.logical_or.reduce([has(folder) for folder in folders])
            if lacking.any():
                self.counts[part] += int(lacking.sum())
                self.examples.setdefault(part, keys[int(np.flatnonzero(lacking)[0])])
                keep &= ~lacking
        return keep

    def problems(self, root: Path) -> list[str]:
        """One line per part. ConfigError when label maps are missing: only the demo data has them."""
        for part in LABEL_PARTS:
            if part in self.counts:
                raise ConfigError(
                    f"{self.counts[part]} pictures have no label map in {root / part}, e.g. {self.examples[part]}; "
                    "only data of `python -m trainer demo-data` has them (the same command again adds what an older "
                    "set lacks)."
                )
        return [
            f"{count} pictures have no file in {part}/, e.g. {self.examples[part]}; they are left out"
            for part, count in self.counts.items()
        ]


def group_problems(groups: Groups, names: Sequence[str], by: str) -> list[str]:
    """What is odd about groups that give references, one line each."""
    alone, problems = groups.alone(), []
    if len(alone):
        hint = (
            '; put the pictures of one character into a folder of color/, give them a "group" in the index, or set '
            'data.groups = "names" where their names are anna_01, anna_02, ...'
            if by == "folders"
            else ""
        )
        problems.append(
            f"{len(alone)} of {len(names)} pictures are alone in their group and their own reference, "
            f"e.g. {names[int(alone[0])]}{hint}"
        )
    if len(groups) == 1 and len(names) > 1:
        problems.append(
            f"all {len(names)} pictures are one group, so any is a reference of any other: right for one character, "
            "wrong for pictures of several"
        )
    return problems


def list_pictures(
    source: FolderSource | ShardSource,
    parts: Mapping[str, Sequence[str]],  # part -> folders that may hold it
    files: Sequence[str] = (),
    min_score: float = 0.0,
    min_side: int = 0,
    measure: bool = False,
) -> tuple[index.Index, np.ndarray, list[str]]:
    """The index of a data set, the rows of it that can be trained on, and what was left out, one line each.

    files: index files; none lists the folders. measure: whether the pictures' sizes are needed. ConfigError where
    nothing is left.
    """
    root = source.root
    if files:
        listed = index_files.from_files(index_files.find_files(root, files), index.cache_folder(root), source.shards)
    elif isinstance(source, ShardSource):
        listed = _list_shards(source, parts, measure)
    else:
        listed = _list_folder(source, parts, measure)
    problems = list(listed.problems)
    rows = listed.rows(min_score, min_side)
    if (out := len(listed) - len(rows)) and (files or min_side):
        problems.append(f"{out} pictures are below data.min_score or data.min_side, or have no sketch")
    if files and isinstance(source, FolderSource):
        missing, hashes = _Missing(), listed["key"][rows]
        rows = rows[missing.keep(Names(listed, rows), parts, lambda part: source.has(part, hashes))]
        problems += missing.problems(root)
    empty = [part for part, folders in parts.items() if not any(source.count(folder) for folder in folders)]
    if not len(rows) or empty:
        counts = ", ".join(f"{part}/ {sum(map(source.count, folders))}" for part, folders in parts.items())
        masks_text = (
            f" `python -m trainer prepare {root} --mask drawing` makes them of the sketches, `--mask isnet` of the "
            "pictures; a mask is white on the figure, black elsewhere."
            if any(part.endswith("mask") for part in empty)
            else ""
        )
        filtered = f" {problems[-1]}." if problems and not empty else ""
        raise ConfigError(
            f"{root} holds no usable pictures: {counts} {'shards' if source.shards else 'files'}; files of one "
            f"picture share their name.{filtered}{masks_text}"
        )
    return listed, rows.astype(np.int32), problems


def _measured(source: FolderSource | ShardSource, key: str) -> dict[str, int]:
    """An index entry with the size of a picture, from its header; empty when it cannot be read."""
    try:
        with source.open("color", key) as file, decode.open_picture(file) as image:
            width, height = decode.upright_size(image)
            return {"width": width, "height": height}
    except decode.PICTURE_ERRORS:
        return {}


def _list_folder(source: FolderSource, parts: Mapping[str, Sequence[str]], measure: bool) -> index.Index:
    """The index of plain folders: pictures that have every part. With sizes it is kept on disk."""
    named = [*parts["color"], *parts.get("sketch", ())]
    keys = sorted({key for folder in named for key in source.keys(folder)})
    hashes = np.array([index.hash64(key) for key in keys], np.uint64)
    missing = _Missing()
    keep = missing.keep(keys, parts, lambda folder: source.has(folder, hashes))
    problems = missing.problems(source.root)
    if other := not_read(source.root / "color"):
        first = f"e.g. {other[0]}; save them as PNG"
        problems.append(f"{len(other)} files in color/ are of kinds that are not read, {first}")
    kept = [key for key, kept in zip(keys, keep) if kept]
    if not measure:
        writer = index.Writer()
        for key in kept:
            writer.add_key(key, {})
        return writer.index("", problems)
    state = hashlib.sha256(("\n".join(kept) + source.fingerprint(parts["color"])).encode()).hexdigest()
    log.info("reading the sizes of %d pictures", len(kept))
    entries = ((key, _measured(source, key)) for key in kept)
    return index.build(index.cache_folder(source.root), state, entries, problems, keyed=True)


def _list_shards(source: ShardSource, parts: Mapping[str, Sequence[str]], measure: bool) -> index.Index:
    """The index of shards, made once per state of theirs: members that have every part."""
    folders = sorted({folder for alternatives in parts.values() for folder in alternatives})
    what = f"{source.fingerprint(folders)} {sorted(parts)} {measure}"
    problems: list[str] = []
    return index.build(
        index.cache_folder(source.root),
        hashlib.sha256(what.encode()).hexdigest(),
        _shard_entries(source, parts, measure, problems),
        problems,
        keyed=True,
        shards=True,
    )


def _shard_entries(
    source: ShardSource, parts: Mapping[str, Sequence[str]], measure: bool, problems: list[str]
) -> Iterator[tuple[str, dict[str, int]]]:
    missing, misplaced = _Missing(), 0
    for file in source.files("color"):
        try:
            found = source.keys_of(file)
        except Unreadable as error:
            problems.append(f"{error}; its pictures are left out")
            continue
        keys = [key for key in found if index.shard_of(key) == file.stem]
        if len(keys) < len(found) and not misplaced:
            problems.append(f"{file} has members that do not lie in {file.stem}/, which are left out: pack them so")
        misplaced += len(found) - len(keys)
        hashes = np.array([index.hash64(key) for key in keys], np.uint64)
        others = {part: folders for part, folders in parts.items() if part != "color"}

        def has(part: str, shard: str = file.stem, hashes: np.ndarray = hashes) -> np.ndarray:
            return source.has(part, shard, hashes)

        keep = missing.keep(keys, others, has)
        for key in (key for key, kept in zip(keys, keep) if kept):
            yield key, _measured(source, key) if measure else {}
    problems += missing.problems(source.root)
