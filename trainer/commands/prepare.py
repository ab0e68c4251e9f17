"""`python -m trainer prepare`: makes a training set of pictures: sketches, figure masks and an index.

    DATASET/color/00001.png        a folder of pictures; a plain folder (also with subfolders) gets one: hard links, or
                                   copies, in the same subfolders: the pictures of one are a group
    DATASET/color/0001.zip         or shards, with members 0001/10001.png; results are shards of the same names
    DATASET/reference/             optional; gets reference_mask/

writes  sketch/, sketch_<method>/  dark lines on white, grey PNG; the first method's in sketch/, unless there are others
        mask/, reference_mask/     white figure on black, grey PNG
        data_index/index.json      {path: {width, height, exist_sketch, and aesthetic_score, tags where given}}
        prepare_report.json        counts, options, and every file that could not be read
        .colorize/prepare.sqlite   what was made of what (journal.py)

The same command continues after an interruption, and does only what is missing or was made of another file or with
other options. Files that `prepare` did not make are kept. In shards a member has the name of its picture, as the
released trainers want it, and is a PNG whatever its suffix.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from spread.crew import ALONE, Crew
from trainer import workers
from trainer.config import ConfigError
from trainer.data.index import cache_folder
from trainer.data.sources import sketch_styles
from trainer.prepare import methods
from trainer.prepare.adoption import adopt
from trainer.prepare.journal import NAME, Journal
from trainer.prepare.layout import Picture, Set, open_set
from trainer.prepare.methods import Method
from trainer.prepare.tables import read_table
from trainer.prepare.work import Job, Result
from trainer.prepare.work import run as run_jobs
from trainer.workers import Team, add_crew_arguments, crew_of

log = logging.getLogger("trainer")

REPORT = "prepare_report.json"
COMMIT_SECONDS = 5.0


@dataclass(frozen=True)
class Target:
    """What is made of the pictures of one part, and where it goes."""

    part: str
    """"color" or "reference"."""
    folder: str
    method: Method


@dataclass
class Prepared:
    """What a run of `prepare` found and did."""

    pictures: dict[str, int] = field(default_factory=dict)
    """By part, those that can be read."""
    made: dict[str, int] = field(default_factory=dict)
    """By folder; likewise the next two."""
    up_to_date: dict[str, int] = field(default_factory=dict)
    kept: dict[str, int] = field(default_factory=dict)
    """Files that `prepare` did not make."""
    unreadable: dict[str, str] = field(default_factory=dict)
    """File -> why."""
    gone: list[str] = field(default_factory=list)
    """Pictures that left the folder they came from and were taken out of color/."""
    deleted: dict[str, int] = field(default_factory=dict)
    """By folder: results whose pictures are gone."""
    orphans: dict[str, int] = field(default_factory=dict)
    """By folder: somebody else's files that belong to no picture."""
    complete: bool = True
    """False after an interruption."""

    def lines(self) -> list[str]:
        lines = [f"{count:9} pictures in {part}/" for part, count in self.pictures.items()]
        for folder in self.made:
            line = f"{folder}/: {self.made[folder]} made, {self.up_to_date[folder]} up to date"
            if self.kept[folder]:
                line += f", {self.kept[folder]} not made by prepare and kept (--overwrite replaces them)"
            lines.append(line)
        if self.gone:
            lines.append(
                f"{len(self.gone)} pictures are no longer where they came from (e.g. {self.gone[0]}); color/ has them "
                "no more, .colorize/removed/ does"
            )
        lines += [f"{folder}/: {count} of pictures that are gone deleted" for folder, count in self.deleted.items()]
        lines += [
            f"{folder}/: {count} files belong to no picture and were not made by prepare; they are kept"
            for folder, count in self.orphans.items()
        ]
        if self.unreadable:
            lines.append(f"{len(self.unreadable)} files cannot be used and are left out; {REPORT} lists them:")
            lines += [f"  {file}: {reason}" for file, reason in list(self.unreadable.items())[:5]]
        return lines


def prepare(
    dataset: str | Path,
    sketches: tuple[Method, ...] = (),
    mask: Method | None = None,
    output: str | Path | None = None,
    crew: Crew = ALONE,
    device: str = "cpu",
    overwrite: bool = False,
    scores: Mapping[str, float] | None = None,
    tags: Mapping[str, str] | None = None,
    progress: bool = True,
) -> Prepared:
    """Make what is missing; see the module's text.

    sketches, mask: of `methods.sketch_method` and `mask_method`. output: folder of the training set, for pictures that
    lie in a plain folder; default the folder itself. scores, tags: by path or name, for the index. An interruption
    (KeyboardInterrupt) keeps what is done and gives the report with complete = False. Raises ConfigError.
    """
    report = Prepared()
    adopted = adopt(Path(dataset), Path(output) if output else None, report.unreadable)
    root, report.gone = adopted.root, list(adopted.gone)
    data = open_set(root)
    with Journal(cache_folder(root) / NAME) as journal:
        targets = plan(data, journal, sketches, mask)
        try:
            for part in data.parts():
                _make_part(data, part, targets, journal, report, crew, device, overwrite, progress)
                _orphans(data, part, targets, journal, report)
        except KeyboardInterrupt:
            report.complete = False
            log.warning("stopped; what is done is kept, and the same command continues")
        journal.commit()
        write_index(data, journal, scores or {}, tags or {})
    described = {"options": [_described(target) for target in targets], **report.__dict__}
    _write(root / REPORT, json.dumps(described, indent=1, ensure_ascii=False))
    return report


def _described(target: Target) -> dict[str, Any]:
    method = target.method
    return {"folder": target.folder, "method": method.name, "weights": Path(method.weights).name, **method.options}


def plan(data: Set, journal: Journal, sketches: tuple[Method, ...], mask: Method | None) -> list[Target]:
    """Which folder every method writes to: the one it had, the first one sketch/ if that is free."""
    folders = journal.folders()
    targets = []
    for method in sketches:
        folder = folders.get(method.name) or _free_folder(data.root, method.name, set(folders.values()))
        folders[method.name] = folder
        journal.note_folder(method.name, folder)
        targets.append(Target("color", folder, method))
    if mask is not None:
        targets.append(Target("color", "mask", mask))
        if "reference" in data.parts():
            targets.append(Target("reference", "reference_mask", mask))
    return targets


def _free_folder(root: Path, name: str, taken: set[str]) -> str:
    """sketch/ when it holds nothing, below it when it holds one folder per style, else a folder beside it."""
    inside = list((root / "sketch").iterdir()) if (root / "sketch").is_dir() else []
    if not inside and "sketch" not in taken:
        return "sketch"
    if inside and all(path.is_dir() for path in inside) and "sketch" not in taken:
        return f"sketch/{name}"
    return f"sketch_{name}"


def _make_part(
    data: Set,
    part: str,
    targets: list[Target],
    journal: Journal,
    report: Prepared,
    crew: Crew,
    device: str,
    overwrite: bool,
    progress: bool,
) -> None:
    """Look at every picture of a part, and make of it what its targets lack."""
    targets = [target for target in targets if target.part == part]
    for target in targets:
        for counts in (report.made, report.up_to_date, report.kept):
            counts.setdefault(target.folder, 0)
    report.pictures[part] = 0
    by_folder = {target.folder: target.method for target in targets}
    last_commit = time.monotonic()
    with tqdm(total=data.count(part), unit="picture", desc=f"{part}/", disable=not progress, dynamic_ncols=True) as bar:
        jobs = _jobs(data, part, targets, journal, report, overwrite, bar.update)
        for result in run_jobs(data, by_folder, jobs, crew, device):
            _note(result, part, targets, journal, report)
            bar.update()
            if time.monotonic() - last_commit > COMMIT_SECONDS:
                journal.commit()
                last_commit = time.monotonic()
    for file, reason in data.damaged(part).items():
        report.unreadable[file] = reason


def _orphans(data: Set, part: str, targets: list[Target], journal: Journal, report: Prepared) -> None:
    """Delete results whose pictures are gone; count others' files that belong to none."""
    for folder in dict.fromkeys(target.folder for target in targets if target.part == part):
        for key in data.orphans(folder, part):
            if journal.result(folder, key) is not None:
                data.delete(folder, key)
                journal.forget(folder, key)
                report.deleted[folder] = report.deleted.get(folder, 0) + 1
            elif "/" not in key or (data.root / part / key.partition("/")[0]).is_dir():  # else of another style
                report.orphans[folder] = report.orphans.get(folder, 0) + 1


def _jobs(
    data: Set,
    part: str,
    targets: list[Target],
    journal: Journal,
    report: Prepared,
    overwrite: bool,
    skipped: Callable[[], object],
) -> Iterator[Job]:
    """What is to be done, picture by picture; skipped() is called for a picture of which everything is there."""
    for picture in data.pictures(part):
        seen = journal.picture(part, picture.key)
        unchanged = seen is not None and seen[0] == picture.signature
        if seen is not None and unchanged and seen[3]:
            report.unreadable[picture.file] = seen[3]
            skipped()
            continue
        missing = []
        for target in targets:
            there = data.has(target.folder, picture)
            made = journal.result(target.folder, picture.key)
            if there and made is None:  # somebody else's, or the journal was not written any more
                made = data.mark(target.folder, picture)
                if made is not None:
                    journal.note_result(target.folder, picture.key, *made)
            if there and made == (picture.signature, target.method.fingerprint):
                report.up_to_date[target.folder] += 1
            elif there and made is None and not overwrite:
                report.kept[target.folder] += 1
            else:  # missing, of another file or other options, or to be replaced
                missing.append(target.folder)
        if unchanged and not missing:
            report.pictures[part] += 1
            skipped()
        else:
            yield Job(picture, tuple(missing))


def _note(result: Result, part: str, targets: list[Target], journal: Journal, report: Prepared) -> None:
    picture = result.job.picture
    if result.problem:
        report.unreadable[picture.file] = result.problem
        journal.note_picture(part, picture.key, picture.signature, problem=result.problem)
        return
    report.pictures[part] += 1
    journal.note_picture(part, picture.key, picture.signature, result.size)
    for target in targets:
        if reason := result.failed.get(target.folder):  # not in the journal: the next run tries again
            report.unreadable[f"{picture.file} -> {target.folder}/"] = reason
        elif target.folder in result.written:
            report.made[target.folder] += 1
            journal.note_result(target.folder, picture.key, picture.signature, target.method.fingerprint)


# -- the index ---------------------------------------------------------------------------------------------------------


def write_index(data: Set, journal: Journal, scores: Mapping[str, float], tags: Mapping[str, str]) -> Path:
    """Write data_index/index.json, entry by entry: a set of millions is not held in memory."""
    path = data.root / "data_index" / "index.json"
    path.parent.mkdir(exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    sizes = {key: (width, height) for key, width, height, problem in journal.pictures("color") if not problem}
    sketches = sketch_styles(data.root)
    with part.open("w", encoding="utf-8") as file:
        separator = "{\n"
        for picture in data.pictures("color"):
            if picture.key not in sizes:
                continue
            width, height = sizes[picture.key]
            drawn = any(data.has(folder, picture) for folder in sketches)
            entry: dict[str, Any] = {"width": width, "height": height, "exist_sketch": drawn}
            if (score := _looked_up(scores, picture)) is not None:
                entry["aesthetic_score"] = score
            if caption := _looked_up(tags, picture) or data.caption(picture):
                entry["tags"] = caption
            file.write(f"{separator}{json.dumps(picture.name)}: {json.dumps(entry, ensure_ascii=False)}")
            separator = ",\n"
        file.write("{}\n" if separator == "{\n" else "\n}\n")
    part.replace(path)
    return path


def _looked_up(values: Mapping[str, Any], picture: Picture) -> Any:
    """By path with suffix, path without, or bare name."""
    for name in (picture.name, picture.key, picture.key.rpartition("/")[2]):
        if name in values:
            return values[name]
    return None


def _write(path: Path, text: str) -> None:
    part = path.with_name(f"{path.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


# -- the command -------------------------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", metavar="DATASET", help="folder of pictures, folder with color/, or of zip shards")
    parser.add_argument(
        "--output", metavar="DIR", help="training set to make of a plain folder of pictures (default: in the folder)"
    )
    parser.add_argument(
        "--sketch",
        nargs="*",
        default=["standard"],
        metavar="METHOD",
        help=f"one or more of {', '.join(methods.SKETCHES)} (default standard; nothing after it: none). With several, "
        "training draws one per picture and step",
    )
    parser.add_argument(
        "--mask",
        choices=("none", *methods.MASKS),
        default="none",
        help="figure masks: by a network (isnet), or by the lines of pictures with a plain background (drawing); "
        "default none",
    )
    parser.add_argument(
        "--weights", nargs="+", default=[], metavar="PATH", help="weight files of the networks, or folders with them"
    )
    parser.add_argument(
        "--side",
        type=int,
        default=0,
        help="work on sketches at the area of a square of this side, pixels: larger = finer lines (default: networks "
        "768, standard and xdog the picture's own size)",
    )
    parser.add_argument("--xdog-sigma", type=float, default=None, help="width of XDoG lines, pixels (default 0.5)")
    parser.add_argument("--mask-size", type=int, default=1024, help="side the segmenter reads, pixels (default 1024)")
    parser.add_argument(
        "--mask-threshold",
        type=float,
        default=0.0,
        help="0..1: masks of 0 and 255 only, which `cache` can use (0.5 is usual); default 0 keeps soft masks",
    )
    parser.add_argument("--scores", metavar="FILE", help="aesthetic scores for the index, JSON or CSV")
    parser.add_argument("--tags", metavar="FILE", help="tags for the index, JSON or CSV; <picture>.txt are found alone")
    parser.add_argument("--overwrite", action="store_true", help="replace sketches and masks that prepare did not make")
    add_crew_arguments(parser, "all cores, with a GPU one")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")


def run(args: argparse.Namespace) -> int:
    team = Team.launched()
    if team.count > 1:
        log.info("one of the %d processes prepares, the others wait: --workers is what shares its work", team.count)
    try:
        return _run(args) if team.main else 0
    finally:
        team.wait()  # whoever starts the next command with these processes finds everything there


def _run(args: argparse.Namespace) -> int:
    if args.side < 0 or not 64 <= args.mask_size <= 4096 or not 0 <= args.mask_threshold < 1:
        raise ConfigError("--side is 0 or more, --mask-size 64 to 4096, --mask-threshold 0 up to (not including) 1.")
    device = args.device
    if device == "auto":
        device = workers.device().type
    common = {"side": args.side} if args.side else {}
    sketches = []
    for name in dict.fromkeys(args.sketch):
        xdog = {"sigma": args.xdog_sigma} if name == "xdog" and args.xdog_sigma is not None else {}
        sketches.append(methods.sketch_method(name, args.weights, **common, **xdog))
    mask = None
    if args.mask != "none":
        options = {"size": args.mask_size, "threshold": args.mask_threshold}
        mask = methods.mask_method(args.mask, args.weights, **options)
    networks = any(method.weights for method in (*sketches, *([mask] if mask else ())))
    crew = crew_of(args, 0 if device == "cpu" else 1, networks and args.device != "cpu")
    if crew.ray:
        device = "cuda" if crew.gpus else "cpu"
    scores = read_table(args.scores, "score") if args.scores else {}
    tags = read_table(args.tags, "tags") if args.tags else {}
    report = prepare(args.dataset, tuple(sketches), mask, args.output, crew, device, args.overwrite, scores, tags)
    print("\n".join(report.lines()))
    if not report.complete:
        return 130
    return 0 if report.pictures["color"] else 1  # nothing that could be trained on
