"""--key: the pictures of a shot in the colours of one coloured frame, made when all of the model's are there."""

import argparse
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

from . import frames, output
from .environment import Environment
from .errors import QuickstartError
from .pictures import examine
from .plan import PACK
from .processes import follow, isolated, last_lines, reason
from .record import Entry, Record, digest
from .terminal import Status

FOLDER = "keyed"  # in the output folder
TOOL = "import sys; sys.path.insert(0, sys.argv[1]); from colorize.shots.folder import main; main(*sys.argv[2:])"


@dataclass(frozen=True)
class Key:
    """A coloured frame."""

    file: Path
    name: str
    """of the drawing it colours, without its ending"""


def key_of(chosen: argparse.Namespace) -> Key | None:
    """What --key names, checked before any work is done; None without it."""
    if chosen.key is None:
        return None
    if not frames.is_many(chosen.sketch):
        raise QuickstartError("--key colours a shot by one of its frames. Give the shot's folder or video as --sketch.")
    file = chosen.key.expanduser().absolute()
    if not file.is_file():
        raise QuickstartError(f"--key is {file}, but there is no such file.")
    return Key(examine("--key", file).file, file.stem)


def frame_of(key: Key, drawings: list[frames.Drawing]) -> int:
    """The number, from 0, of the drawing that a key colours: the one of its name."""
    found = [number for number, drawing in enumerate(drawings) if Path(drawing.label).stem == key.name]
    if len(found) == 1:
        return found[0]
    names = ", ".join(drawing.label for drawing in drawings[:3])
    raise QuickstartError(
        f"--key is {key.file.name}, and {'no drawing has' if not found else 'several drawings have'} that name. Call "
        f"the key as the drawing that it colours: {names} ..."
    )


def carry(key: Key, drawings: list[frames.Drawing], record: Record, env: Environment, status: Status) -> list[Path]:
    """Write every picture in the key's colours into the folder FOLDER; returns their files, in order.

    Nothing is done where the report says that it was done with the same key and the same pictures.
    """
    number = frame_of(key, drawings)
    entries = [record.entries[drawing.label] for drawing in drawings]
    made_with = digest(key.file.read_bytes(), str(number), *(entry.key + entry.picture for entry in entries))
    if not all(entry.keyed_with == made_with and (record.folder / entry.keyed).is_file() for entry in entries):
        _carry_all(key, number, drawings, record, env, status)
        for entry in entries:
            entry.keyed_with = made_with
        record.save()
    _tell(entries, record.folder, status)
    return [record.folder / entry.keyed for entry in entries]


def _carry_all(
    key: Key, number: int, drawings: list[frames.Drawing], record: Record, env: Environment, status: Status
) -> None:
    entries = [record.entries[drawing.label] for drawing in drawings]
    targets = [output.numbered(record.folder / FOLDER / drawing.target) for drawing in drawings]
    rows = [
        {"sketch": str(drawing.file), "picture": str(record.folder / entry.picture), "target": str(target)}
        for drawing, entry, target in zip(drawings, entries, targets)
    ]
    with tempfile.TemporaryDirectory(prefix="colorize-key-") as folder:
        job, told, log = (Path(folder) / name for name in ("job.json", "told.jsonl", "log.txt"))
        job.write_text(json.dumps({"key": str(key.file), "key_frame": number, "frames": rows}), encoding="utf-8")
        told.touch()

        def tick(_seconds: float) -> None:
            done = told.read_bytes().count(b"\n")
            status.show(f"Carrying the key's colours: {done} of {len(rows)}")

        code = follow(isolated(env.python, "-c", TOOL, PACK, job, told), log, tick)
        if code:
            raise QuickstartError(
                f"The model's pictures are made, but the key's colours could not be carried: {reason(last_lines(log))}"
            )
        for line in told.read_text(encoding="utf-8").splitlines():
            frame = json.loads(line)
            entries[frame["frame"]].unsure = frame["unsure"]
    for entry, target in zip(entries, targets):
        entry.keyed = target.relative_to(record.folder).as_posix()


def _tell(entries: list[Entry], folder: Path, status: Status) -> None:
    count = sum(len(entry.unsure) for entry in entries)
    status.line(f"In the key's colours: {len(entries)} pictures in {folder / FOLDER}")
    if count:
        status.line(f"{count} regions were not sure and have colours by the model: report.json names their places.")
