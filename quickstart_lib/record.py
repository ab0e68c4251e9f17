"""What became of every drawing of a folder: report.json, by which a run that was stopped goes on."""

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .errors import QuickstartError

NAME, VERSION = "report.json", 1
TO_DO, WRITING, DONE, FAILED = "to do", "writing", "done", "failed"
TEXTS = ("sketch", "key", "state", "picture", "layers", "keyed", "keyed_with", "keyed_layers")  # of an entry


def digest(*parts: bytes | str) -> str:
    """A short name for content; parts that differ in their bounds differ."""
    whole = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        whole.update(len(data).to_bytes(8, "big") + data)
    return whole.hexdigest()[:32]


@dataclass
class Entry:
    """One drawing."""

    sketch: str
    key: str
    """Names the drawing's bytes and everything that was asked for; another key is another picture."""
    state: str = TO_DO
    picture: str = ""
    """The result's file, below the output folder."""
    why: str = ""
    """What went wrong, for a failed one."""
    findings: list[str] = field(default_factory=list)
    """What Preflight found wrong with the inputs."""
    seconds: float = 0.0
    keyed: str = ""
    """With --key: the picture in the key's colours, below the output folder."""
    keyed_with: str = ""
    """Names the keys and all pictures it was made with; with "?" behind where that was begun."""
    keyed_layers: str = ""
    """The layered document of it, when one was asked for."""
    flicker: float = 0.0
    """Share of it that has another colour than in the frame before although the drawings match."""
    layers: str = ""
    """The layered document of the model's picture, when one was asked for."""
    unsure: list[dict[str, Any]] = field(default_factory=list)
    """Regions whose colour was not carried from the key: where, how large, and the colour they were given."""


class Record:
    """The report of one output folder. Each change is on the disk, whole, before the call returns."""

    def __init__(self, folder: Path, about: dict[str, Any]):
        """`about` says with what the drawings are coloured; entries of earlier runs in this folder are kept."""
        self.folder, self.file, self.about = folder, folder / NAME, about
        self.entries = self._read()

    def _read(self) -> dict[str, Entry]:
        try:
            known = json.loads(self.file.read_text(encoding="utf-8"))
            if known["version"] != VERSION:
                raise ValueError("another version")
            entries = [Entry(**entry) for entry in known["drawings"]]
            if not all(isinstance(getattr(entry, name), str) for entry in entries for name in TEXTS):
                raise ValueError("no text where text belongs")
            return {entry.sketch: entry for entry in entries}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise QuickstartError(
                f"{self.file} is no report of quickstart ({type(error).__name__}): it cannot tell which pictures are "
                "done. Choose another folder with --output, or move this file away."
            ) from error

    def take(self, sketch: str, key: str) -> Entry:
        """The entry of a drawing: the earlier run's when its picture is there and would be the same, else a new one."""
        entry = self.entries.get(sketch)
        there = entry is not None and bool(entry.picture) and self.holds(entry.picture, entry.layers)
        if entry is not None and entry.key == key and there and entry.state in (DONE, WRITING):
            entry.state = DONE  # the name appears when everything is on the disk: what is there is whole
        else:
            entry = self.entries[sketch] = Entry(sketch, key)
        return entry

    def holds(self, *names: str) -> bool:
        """Whether the files of these names, below the folder, are all there; an empty name asks for none."""
        return all(self.inside(name).is_file() for name in names if name)

    def inside(self, name: str) -> Path:
        """A file that the report names, below the folder; a report that a stranger made points nowhere else."""
        file = Path(os.path.normpath(self.folder / name))
        if not file.is_relative_to(self.folder):
            raise QuickstartError(f"{self.file} names {name}, which is outside its folder. Move this report away.")
        return file

    def save(self) -> None:
        """Write the report."""
        counts = {state: sum(entry.state == state for entry in self.entries.values()) for state in (DONE, FAILED)}
        document = {
            "version": VERSION,
            "about": self.about,
            "counts": counts | {"all": len(self.entries)},
            "drawings": [asdict(entry) for entry in self.entries.values()],
        }
        part = self.file.with_name(f".{NAME}.{os.getpid()}.part")
        try:
            with open(part, "w", encoding="utf-8") as out:
                json.dump(document, out, ensure_ascii=False, indent=1)
                out.flush()
                os.fsync(out.fileno())
            part.replace(self.file)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
