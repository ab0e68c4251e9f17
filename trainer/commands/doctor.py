"""`python -m trainer doctor`: what is in a data set, and what is wrong with it, each finding with its fix.

Opens every picture, sketch and mask of a set in plain folders or zip shards (layout: data/sources.py). The exit status
is 1 when something would break a run or teach it the wrong thing. Nothing is changed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from spread.crew import ALONE, Crew
from trainer.config import ConfigError
from trainer.data.index import group_of, hash64, item_key, name_group
from trainer.data.index_files import read_json, read_parquet
from trainer.data.listing import Groups
from trainer.data.sources import FolderSource, ShardSource, sketch_styles
from trainer.prepare.layout import Picture, Set, open_set
from trainer.prepare.measures import Measure, measure_all
from trainer.workers import add_crew_arguments, crew_of

LEVELS = ("problem", "warning", "note")
"""problem: a run fails, or learns the wrong thing. warning: it suffers. note: good to know."""
EXAMPLES = 5  # files named in a finding
SHORT_SIDE_PERCENTILES = (0, 5, 25, 50, 75, 95, 100)
ASPECTS = {"1:2": 0.5, "9:16": 9 / 16, "2:3": 2 / 3, "3:4": 0.75, "1:1": 1.0, "4:3": 4 / 3, "3:2": 1.5, "16:9": 16 / 9,
           "2:1": 2.0}  # fmt: skip
SAME_PROPORTIONS = 0.02  # relative; a sketch may be rounded to another pixel
NEAR = 3  # bits in 64 by which perceptual hashes of near duplicates may differ
CROWDED = 4000  # pictures that share a quarter of their hash: too common to compare each with each


@dataclass(frozen=True)
class Complaint:
    """One line of the report."""

    level: str
    """One of LEVELS."""
    part: str
    """Folder it is about."""
    count: int
    text: str
    fix: str
    examples: tuple[str, ...] = ()


@dataclass
class Diagnosis:
    """Everything `doctor` says."""

    counts: dict[str, int] = field(default_factory=dict)
    """Files by part."""
    short_side: dict[str, int] = field(default_factory=dict)
    """Percentile -> shorter side of color/, pixels."""
    groups: dict[str, str] = field(default_factory=dict)
    """data.groups -> number, largest and singles of the groups it makes."""
    aspects: dict[str, int] = field(default_factory=dict)
    """width:height -> pictures of color/ that are nearest to it."""
    findings: list[Complaint] = field(default_factory=list)

    @property
    def healthy(self) -> bool:
        """Whether nothing would break a run."""
        return not any(finding.level == "problem" for finding in self.findings)

    def add(self, level: str, part: str, files: Sequence[str], text: str, fix: str) -> None:
        """A finding about files; none without any."""
        if files:
            self.findings.append(Complaint(level, part, len(files), text, fix, tuple(files[:EXAMPLES])))

    def lines(self) -> list[str]:
        width = max((len(part) for part in self.counts), default=0) + 1
        lines = [f"{part + '/':{width}} {count:9}" for part, count in self.counts.items()]
        if self.short_side:
            lines.append("short side  " + "  ".join(f"{name} {side}" for name, side in self.short_side.items()))
            lines.append("proportions " + "  ".join(f"{name} {count}" for name, count in self.aspects.items() if count))
        lines += [f'data.groups = "{by}": {summary}' for by, summary in self.groups.items()]
        for finding in sorted(self.findings, key=lambda f: LEVELS.index(f.level)):
            lines.append(f"{finding.level.upper()} {finding.part}: {finding.count} {finding.text}")
            lines += [f"    e.g. {', '.join(finding.examples)}"] if finding.examples else []
            lines.append(f"    fix: {finding.fix}")
        return lines + ([] if self.findings else ["no findings"])


# -- a data set --------------------------------------------------------------------------------------------------------


def examine(
    dataset: str | Path,
    size: int = 512,  # shorter side in pixels that training asks for
    crew: Crew = ALONE,
    sample: int = 0,  # 0: every picture; else that many, evenly spread
    progress: bool = True,
) -> Diagnosis:
    """Look at a data set. Raises ConfigError when there is none."""
    root = Path(dataset)
    if not (root / "color").is_dir():
        raise ConfigError(
            f"{root} has no color/, so it is no data set yet. `python -m trainer prepare {root}` makes one of a folder "
            "of pictures, `demo-data` draws one."
        )
    data, diagnosis = open_set(root), Diagnosis()
    pictures = {picture.key: picture for picture in data.pictures("color")}
    for file, reason in data.damaged("color").items():
        shards = isinstance(data.source, ShardSource)
        level, fix = (
            ("problem", "Pack or download it again.") if shards else ("warning", "Bring it back, or convert it.")
        )
        diagnosis.add(level, "color", [file], f"{'shard' if shards else 'file'} cannot be used ({reason})", fix)
    if not pictures:
        raise ConfigError(f"{root / 'color'} holds no pictures that can be listed.")
    styles = sketch_styles(root)
    parts = [*styles, *(part for part in ("mask", "reference", "reference_mask") if (root / part).is_dir())]
    diagnosis.counts = {"color": len(pictures)} | {part: data.source.count(part) for part in parts}
    _counterparts(data, pictures, styles, parts, diagnosis)
    given = _index_entries(root, pictures, diagnosis)
    _groups(list(pictures), given, isinstance(data.source, ShardSource), diagnosis)

    keys = list(pictures)
    if sample and sample < len(keys):
        keys = [keys[number] for number in np.linspace(0, len(keys) - 1, sample).round().astype(int)]
        diagnosis.findings.append(
            Complaint(
                "note", "color", len(keys), f"of {len(pictures)} pictures were opened", "Leave out --sample for all."
            )
        )
    there = {part: [key for key in keys if data.has(part, pictures[key])] for part in parts}
    measured = measure_all(data, {"color": keys} | there, crew, progress)
    sizes = _pictures(next(measured)[1], size, diagnosis)
    for part, found in measured:
        _unreadable(part, found, diagnosis)
        if part == "reference":
            continue
        _shapes(part, found, sizes if part != "reference_mask" else {}, diagnosis)
        (_masks if part.endswith("mask") else _sketches)(part, found, diagnosis)
    return diagnosis


def _counterparts(
    data: Set, pictures: Mapping[str, Picture], styles: Sequence[str], parts: Sequence[str], diagnosis: Diagnosis
) -> None:
    """Pictures without a file in another part."""
    drawn = [key for key, picture in pictures.items() if any(data.has(style, picture) for style in styles)]
    undrawn = sorted(pictures.keys() - set(drawn))
    level, fix = "warning", "`python -m trainer prepare` draws them; without a sketch a picture is left out."
    if not drawn:
        level, fix = (
            "problem",
            "`python -m trainer prepare` draws them, or put your own into sketch/, of the same names.",
        )
    diagnosis.add(level, "sketch", undrawn, "pictures have no sketch", fix)
    for part in parts:
        if part in styles:
            continue
        lacking = [key for key, picture in pictures.items() if not data.has(part, picture)]
        if part == "reference_mask" and "reference" in parts:
            lacking = [key for key in lacking if data.has("reference", pictures[key])]
        fix = f"Add them, or remove {part}/; a run that reads it leaves these pictures out."
        if part.endswith("mask"):
            fix = "`prepare --mask drawing` makes them, or `--mask isnet`; stage v1_5 leaves these pictures out."
        diagnosis.add("warning", part, lacking, f"pictures have no file in {part}/", fix)
    if isinstance(data.source, FolderSource):
        for part in parts:
            extra = sorted(set(data.source.keys(part)) - pictures.keys())
            diagnosis.add(
                "note", part, extra, "files belong to no picture", "Delete them, or add the pictures to color/."
            )


def _groups(keys: Sequence[str], given: Mapping[str, Any], shards: bool, diagnosis: Diagnosis) -> None:
    """What data.reference = "group" would take for a group, by folders and index, and by the names' endings."""
    texts = {
        "folders": [group_of(key, given.get(key, {}), shards) for key in keys],
        "names": [name_group(key) for key in keys],
    }
    groups = {by: Groups(np.array([hash64(text) for text in found], np.uint64)) for by, found in texts.items()}
    diagnosis.groups = {by: found.summary(keys) for by, found in groups.items()}
    alone = groups["folders"].alone()
    if len(alone) < len(keys):
        fix = 'Put them into a folder with others of their character, or ignore it unless data.reference = "group".'
        files = [keys[int(number)] for number in alone]
        diagnosis.add("note", "color", files, "pictures are alone in their folder's group", fix)
    elif len(groups["names"]) == 1 and len(keys) > 1:
        fix = 'Leave data.groups = "folders" unless they show one character; folders below color/ make groups.'
        diagnosis.add("note", "color", keys, "pictures would be one group by the endings of their names", fix)


def _index_entries(root: Path, pictures: Mapping[str, Picture], diagnosis: Diagnosis) -> dict[str, Any]:
    """Entries of index files that name no picture, and pictures that are named twice.

    Gives the first entry of every picture to which one gives a group.
    """
    first: dict[str, Any] = {}
    for path in sorted((root / "data_index").glob("*")):
        if path.suffix not in (".json", ".parquet"):
            continue
        part = f"data_index/{path.name}"
        try:
            read = read_json if path.suffix == ".json" else read_parquet
            named = []
            for name, entry in read(path):
                named.append(item_key(name))
                if isinstance(entry, Mapping) and "group" in entry:
                    first.setdefault(named[-1], entry)
        except ConfigError as error:
            diagnosis.add(
                "problem", part, [path.name], f"index cannot be read ({error})", "Make it again with prepare."
            )
            continue
        gone = [name for name in named if name not in pictures]
        level = "problem" if gone and len(gone) == len(named) else "warning"
        fix = "Make the index again (`python -m trainer prepare`), or bring the files back."
        diagnosis.add(level, part, gone, "entries have no picture in color/", fix)
        twice = [name for name, count in Counter(named).items() if count > 1]
        diagnosis.add("warning", part, twice, "pictures are named twice; the first entry counts", "Remove the others.")
    return first


def _unreadable(part: str, found: Sequence[Measure], diagnosis: Diagnosis) -> None:
    broken = [f"{measure.key} ({measure.problem})" for measure in found if measure.problem]
    fix = "Delete or replace them; a run replaces them by other pictures."
    diagnosis.add("problem", part, broken, "files cannot be read", fix)


def _pictures(found: Sequence[Measure], size: int, diagnosis: Diagnosis) -> dict[str, tuple[int, int]]:
    """Sizes and duplicates of color/; returns the sizes."""
    _unreadable("color", found, diagnosis)
    good = [measure for measure in found if not measure.problem]
    if not good:
        return {}
    sides = np.array([measure.size for measure in good])
    short = sides.min(1)
    diagnosis.short_side = {
        {0: "min", 100: "max"}.get(p, f"{p} %"): int(v)
        for p, v in zip(SHORT_SIDE_PERCENTILES, np.percentile(short, SHORT_SIDE_PERCENTILES))
    }
    ratios = np.log(sides[:, 0] / sides[:, 1])
    nearest = np.abs(ratios[:, None] - np.log(list(ASPECTS.values()))).argmin(1)
    diagnosis.aspects = {name: int((nearest == number).sum()) for number, name in enumerate(ASPECTS)}
    small = [good[number].key for number in np.flatnonzero(short < size)]
    fix = f"Set data.min_side = {size} with an index, train at a smaller data.size, or use larger files."
    diagnosis.add("warning", "color", small, f"pictures are smaller than {size} pixels and will be enlarged", fix)
    by_content: dict[int, list[str]] = {}
    for measure in good:
        by_content.setdefault(measure.content, []).append(measure.key)
    same = [" = ".join(keys[:3]) for keys in by_content.values() if len(keys) > 1]
    fix = "Keep one of each; duplicates count double, and in a held-out set they are no test."
    diagnosis.add("warning", "color", same, "sets of files are the same to the byte", fix)
    firsts = {keys[0] for keys in by_content.values()}
    distinct = [measure for measure in good if measure.key in firsts]
    near, crowded = near_duplicates(np.array([measure.look for measure in distinct], np.uint64))
    pairs = [f"{distinct[a].key} ~ {distinct[b].key}" for a, b in near]
    fix = "Look at them: copies in other sizes or formats should go, poses of one character may stay."
    diagnosis.add("note", "color", pairs, "pairs of pictures look alike", fix)
    if crowded:
        text = "pictures share a coarse look (large plain areas) and were not compared with each other"
        diagnosis.findings.append(Complaint("note", "color", crowded, text, "Nothing, unless you expect copies."))
    return {measure.key: measure.size for measure in good}


def near_duplicates(looks: np.ndarray, most: int = NEAR) -> tuple[list[tuple[int, int]], int]:
    """Pairs of (N,) uint64 hashes that differ in at most `most` < 4 bits, and how many rows were too common to compare.

    Of four quarters with at most three differing bits one is equal (pigeonhole), so only rows that share a quarter are
    compared; rows without any slope (a plain picture) are left out.
    """
    rows = np.flatnonzero(looks != 0)
    pairs: set[tuple[int, int]] = set()
    crowded: set[int] = set()
    for quarter in range(4):
        band = (looks[rows] >> np.uint64(16 * quarter)) & np.uint64(0xFFFF)
        order = rows[np.argsort(band, kind="stable")]
        starts = np.flatnonzero(np.diff(np.sort(band), prepend=np.uint64(2**63)))
        for members in np.split(order, starts[1:]):
            if len(members) < 2:
                continue
            if len(members) > CROWDED:
                crowded.update(members.tolist())
                continue
            for place, row in enumerate(members[:-1]):
                others = members[place + 1 :]
                bits = np.unpackbits((looks[others] ^ looks[row])[:, None].view(np.uint8), axis=1).sum(1)
                pairs.update((min(row, other), max(row, other)) for other in others[bits <= most].tolist())
    return sorted((int(a), int(b)) for a, b in pairs), len(crowded)


def _shapes(part: str, found: Sequence[Measure], sizes: Mapping[str, tuple[int, int]], diagnosis: Diagnosis) -> None:
    """Files of other proportions than their picture."""
    other = []
    for measure in found:
        if measure.problem or measure.key not in sizes:
            continue
        (width, height), (wanted_width, wanted_height) = measure.size, sizes[measure.key]
        if abs(width * wanted_height / (height * wanted_width) - 1) > SAME_PROPORTIONS:
            other.append(f"{measure.key} ({width}x{height}, picture {wanted_width}x{wanted_height})")
    fix = "Make them from the same picture: they are cut and resized alone and would not lie on it."
    diagnosis.add("problem", part, other, "files have other proportions than their picture", fix)


def _with(mark: str, found: Sequence[Measure]) -> list[str]:
    return [measure.key for measure in found if mark in measure.marks]


def _sketches(part: str, found: Sequence[Measure], diagnosis: Diagnosis) -> None:
    fix = "Invert them: files have dark lines on white (transparent line layers are laid on white)."
    diagnosis.add("problem", part, _with("inverted", found), "sketches have light lines on dark paper", fix)
    fix = "Draw them again, or delete them; training on them teaches colouring without lines."
    diagnosis.add("warning", part, _with("blank", found), "sketches are blank", fix)
    fix = "Colours become grey; if these are coloured pictures, draw sketches with prepare."
    diagnosis.add("warning", part, _with("coloured", found), "sketches have colours", fix)


def _masks(part: str, found: Sequence[Measure], diagnosis: Diagnosis) -> None:
    inverted = _with("inverted", found)
    level = "problem" if len(inverted) > len(found) / 2 else "warning"
    fix = "A mask is white on the figure: invert these if their figure is in the middle."
    diagnosis.add(level, part, inverted, "masks mark the border and leave the middle out", fix)
    empty, full = _with("empty", found), _with("full", found)
    level = "problem" if found and len(empty) + len(full) == len(found) else "warning"
    fix = "Make them again, or delete them: with no figure, or nothing but figure, there is nothing to split."
    diagnosis.add(level, part, empty, "masks are empty", fix)
    diagnosis.add(level, part, [key for key in full if key not in inverted], "masks cover everything", fix)
    fix = "Nothing, unless encodings shall be cached: `prepare --mask-threshold 0.5` makes them 0 and 255."
    diagnosis.add("note", part, _with("grey", found), "masks have soft areas", fix)


# -- the command -------------------------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", metavar="DATASET", help="folder with color/, as plain folders or zip shards")
    parser.add_argument("--size", type=int, default=512, help="shorter side that training asks for (default 512)")
    parser.add_argument("--sample", type=int, default=0, metavar="N", help="open N pictures only, evenly spread")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    add_crew_arguments(parser)


def run(args: argparse.Namespace) -> int:
    if args.sample < 0 or args.size < 1:
        raise ConfigError("--size is 1 or more, --sample 0 (all) or more.")
    # Ray prints what it says of lost nodes.
    with contextlib.redirect_stdout(sys.stderr) if args.json else contextlib.nullcontext():
        diagnosis = examine(args.dataset, args.size, crew_of(args), args.sample)
    if args.json:
        described: dict[str, Any] = asdict(diagnosis) | {"healthy": diagnosis.healthy}
        print(json.dumps(described, indent=1, ensure_ascii=False))
    else:
        print("\n".join(diagnosis.lines()))
    return 0 if diagnosis.healthy else 1
