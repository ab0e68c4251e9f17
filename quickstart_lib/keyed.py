"""--key and --hints: the pictures of a shot in the colours of coloured frames, made of all of the model's."""

import argparse
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from . import frames, output
from .environment import Environment
from .errors import QuickstartError
from .pictures import examine
from .plan import PACK, palette_file
from .processes import follow, isolated, last_lines, reason
from .record import Entry, Record, digest
from .terminal import Status

FOLDER = "keyed"  # in the output folder
WORK = ".keyed"  # there too: what is found out, until the pictures are made
SHEET = "review.png"
TOOL = "import sys; sys.path.insert(0, sys.argv[1]); from colorize.shots.folder import main; main(*sys.argv[2:])"


@dataclass(frozen=True)
class Key:
    """A coloured frame, or dots of colour for one."""

    file: Path
    name: str
    """of the drawing it colours, without its ending"""


@dataclass(frozen=True)
class Keys:
    """What a shot's colours are taken from."""

    painted: tuple[Key, ...]
    hints: tuple[Key, ...] = ()
    layers: str = ""
    """ending of layered documents to write besides, or nothing"""
    palette: Path | None = None
    """further colours of the shot"""


def keys_of(chosen: argparse.Namespace) -> Keys | None:
    """What --key and --hints name, checked before any work is done; None without them."""
    if chosen.key is None:
        if chosen.hints is not None:
            raise QuickstartError("--hints correct a shot that has a coloured frame. Give that as --key.")
        return None
    if not frames.is_many(chosen.sketch):
        raise QuickstartError("--key colours a shot by one of its frames. Give the shot's folder or video as --sketch.")
    painted, hints = _pictures("--key", chosen.key), _pictures("--hints", chosen.hints)
    return Keys(painted, hints, output.layers_kind(chosen.layers), palette_file(chosen.palette))


def _pictures(option: str, given: Path | None) -> tuple[Key, ...]:
    """The pictures that an option names: a file, or those of a folder or a pattern."""
    if given is None:
        return ()
    if frames.is_video(given):
        raise QuickstartError(f"{option} is {given}; give a picture, or a folder of them.")
    if frames.is_many(given):
        files = [drawing.file for drawing in frames.listed(given, option)]
    else:
        files = [given.expanduser().absolute()]
        if not files[0].is_file():
            raise QuickstartError(f"{option} is {files[0]}, but there is no such file.")
    return tuple(Key(examine(option, file).file, file.stem) for file in files)


def frame_of(key: Key, drawings: list[frames.Drawing], option: str = "--key") -> int:
    """The number, from 0, of the drawing that a key colours: the one of its name."""
    found = [number for number, drawing in enumerate(drawings) if Path(drawing.label).stem == key.name]
    if len(found) == 1:
        return found[0]
    names = ", ".join(drawing.label for drawing in drawings[:3])
    raise QuickstartError(
        f"{option} is {key.file.name}, and {'no drawing has' if not found else 'several drawings have'} that name. "
        f"Call it as the drawing that it colours: {names} ..."
    )


def check(keys: Keys, drawings: list[frames.Drawing]) -> None:
    """Raise QuickstartError where a key or a hint has no drawing."""
    rows("--key", keys.painted, drawings)
    rows("--hints", keys.hints, drawings)


def rows(option: str, keys: tuple[Key, ...], drawings: list[frames.Drawing]) -> list[dict[str, int | str]]:
    """What the tool is told of keys or hints."""
    return [{"frame": frame_of(key, drawings, option), "file": str(key.file)} for key in keys]


def carry(keys: Keys, drawings: list[frames.Drawing], record: Record, env: Environment, status: Status) -> list[Path]:
    """Write every picture in the keys' colours into the folder FOLDER; returns their files, in order.

    Nothing is done where the report says that it was done with the same keys and the same pictures, and a pass that was
    stopped goes on where it was.
    """
    check(keys, drawings)
    entries = [record.entries[drawing.label] for drawing in drawings]
    sources = [key.name + digest(key.file.read_bytes()) for key in (*keys.painted, *keys.hints)]
    sources += [digest(keys.palette.read_bytes())] if keys.palette else []
    made_with = digest(str(len(keys.painted)), keys.layers, *sources, *(entry.key + entry.picture for entry in entries))
    begun = all(entry.keyed and entry.keyed_with in (made_with, made_with + "?") for entry in entries)
    for entry in entries if begun else ():  # a report of somebody else must not say where to write
        record.inside(entry.keyed)
        record.inside(entry.keyed_layers)
    whole = begun and all(
        entry.keyed_with == made_with and record.holds(entry.keyed, entry.keyed_layers) for entry in entries
    )
    if not whole:
        for drawing, entry in zip(drawings, entries):
            if not begun:
                target = output.numbered(record.folder / FOLDER / drawing.target)
                entry.keyed = target.relative_to(record.folder).as_posix()
                entry.keyed_layers = output.beside(record.folder, entry.keyed, keys.layers)
            entry.keyed_with = made_with + "?"  # the names are in the report before the files are there
        record.save()
        _carry_all(keys, drawings, record, env, status, record.folder / WORK / made_with)
        for entry in entries:
            entry.keyed_with = made_with
        record.save()
        shutil.rmtree(record.folder / WORK, ignore_errors=True)
    _tell(entries, record.folder, status)
    return [record.folder / entry.keyed for entry in entries]


def _carry_all(
    keys: Keys, drawings: list[frames.Drawing], record: Record, env: Environment, status: Status, work: Path
) -> None:
    entries = [record.entries[drawing.label] for drawing in drawings]
    made = [
        {"sketch": str(drawing.file), "picture": str(record.folder / entry.picture)}
        | {"target": str(record.folder / entry.keyed)}
        | ({"layers": str(record.folder / entry.keyed_layers)} if entry.keyed_layers else {})
        for drawing, entry in zip(drawings, entries)
    ]
    sheet = output.numbered(record.folder / SHEET)
    document = {"keys": rows("--key", keys.painted, drawings), "hints": rows("--hints", keys.hints, drawings)}
    document |= {"frames": made, "work": str(work), "sheet": str(sheet)}
    document |= {"palette": str(keys.palette)} if keys.palette else {}
    work.mkdir(parents=True, exist_ok=True)
    job, told, log = (work / name for name in ("job.json", "told.jsonl", "log.txt"))
    job.write_text(json.dumps(document), encoding="utf-8")
    told.write_bytes(b"")

    def tick(_seconds: float) -> None:
        if status.live:
            steps = [line for line in told.read_text(encoding="utf-8").splitlines()[-3:] if '"of"' in line]
            shown = json.loads(steps[-1]) if steps else {"done": 0, "of": 1}
            status.show(f"Carrying the key's colours: {100 * shown['done'] // shown['of']} %")

    if not status.live:
        status.line("Carrying the key's colours")
    code = follow(isolated(env.python, "-c", TOOL, PACK, job, told), log, tick)
    if code:
        raise QuickstartError(
            f"The model's pictures are made, but the key's colours could not be carried: {reason(last_lines(log))}"
        )
    for line in told.read_text(encoding="utf-8").splitlines():
        event = json.loads(line)
        if "frame" in event:
            entry = entries[event["frame"]]
            entry.unsure, entry.flicker = event["unsure"], event["flicker"]
    status.line(f"All frames at a glance: {sheet}")


def _tell(entries: list[Entry], folder: Path, status: Status) -> None:
    regions = [one for entry in entries for one in entry.unsure]
    things = {one.get("thing") for one in regions if one.get("thing")}
    status.line(f"In the key's colours: {len(entries)} pictures in {folder / FOLDER}")
    if regions:
        status.line(
            f"{len(regions)} regions of {len(things)} things were not sure and have colours by the model: report.json "
            "names their places. Put dots of the right colour on a transparent picture of one frame's name, and give "
            "its folder as --hints."
        )
    flickers = [entry.sketch for entry in entries if entry.flicker]
    if flickers:
        more = f" and {len(flickers) - 3} more" if len(flickers) > 3 else ""
        status.line(f"Colours change where drawings match at {', '.join(flickers[:3])}{more}.")
