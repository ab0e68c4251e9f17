"""Of a plain folder of pictures, a training set: color/ gets links to them, or copies, and follows the folder later."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from trainer.config import ConfigError
from trainer.data.index import cache_folder, is_text, item_key
from trainer.data.sources import SUFFIXES, not_read, walk
from trainer.json_file import JSON_ERRORS
from trainer.prepare.layout import NOT_READ

ADOPTED = "adopted.json"
"""In the set's .colorize/: the folder its pictures come from, and their names there."""
REMOVED = "removed"
"""Likewise: what was taken out of color/ because its file left that folder."""
OWN_FOLDERS = (
    "color",
    "sketch",
    "mask",
    "reference",
    "regions",
    "data_index",
)  # and what starts with one of them and _


@dataclass(frozen=True)
class Adopted:
    """The training set to work on."""

    root: Path
    """folder with color/"""
    gone: tuple[str, ...] = ()
    """pictures that were taken out of it, because they are no longer where they came from"""


def adopt(dataset: Path, output: Path | None, problems: dict[str, str]) -> Adopted:
    """The folder with color/ to work on. Of a plain folder of pictures or zips, color/ is made by hard links or copies.

    problems gets the files that cannot be taken, with the reason. Raises ConfigError when there is nothing to work on.
    """
    if not dataset.is_dir():
        raise ConfigError(f"{dataset} is no folder; name the folder that holds your pictures, or color/ with them.")
    root = output or dataset
    known = cache_folder(root) / ADOPTED if (root / "color").is_dir() else None
    if (dataset / "color").is_dir() and not (known and known.is_file()):
        if output is not None and output.resolve() != dataset.resolve():
            raise ConfigError(f"{dataset} is a training set already (it has color/), so --output is not needed.")
        return Adopted(dataset)
    pictures = [path for path in sorted(dataset.iterdir()) if path.suffix.lower() == ".zip"]
    if not pictures:
        pictures = list(_pictures_below(dataset, root))
        others = [name for name in not_read(dataset) if not _is_ours(name, dataset, root)]
        problems.update({str(dataset / name): NOT_READ for name in others})
    if not pictures and not (root / "color").is_dir():
        instead = f", but {len(problems)} files such as {min(problems)}: {NOT_READ}" if problems else ""
        raise ConfigError(f"{dataset} holds no pictures ({', '.join(SUFFIXES)}) and no zip shards{instead}.")
    (root / "color").mkdir(parents=True, exist_ok=True)
    taken = _take(dataset, root, pictures, problems)
    state = cache_folder(root) / ADOPTED
    gone = _take_out(root, _names_in(state) - taken.keys()) if taken else ()  # an empty folder is one that is not there
    if taken:
        state.write_text(json.dumps({"from": str(dataset.resolve()), "names": sorted(taken)}), encoding="utf-8")
    return Adopted(root, gone)


def _take(dataset: Path, root: Path, pictures: list[Path], problems: dict[str, str]) -> Mapping[str, Path]:
    """Link or copy pictures to color/; their paths in the folder -> what is there."""
    keys: dict[str, Path] = {}
    taken = {}
    for path in pictures:
        name = path.relative_to(dataset).as_posix()
        if not path.exists():
            problems[str(path)] = "it is a link to a file that is not there"
            continue
        if (other := keys.setdefault(item_key(name), path)) != path:
            problems[str(path)] = f"has the name of {other} in color/ ({name}); rename one of them"
            continue
        taken[name] = path
        _link(path, root / "color" / name)
        caption = path.with_suffix(".txt")
        if caption.is_file():
            _link(caption, root / "color" / f"{item_key(name)}.txt")
    return taken


def _names_in(state: Path) -> set[str]:
    """What an earlier call took; nothing where it did not say so."""
    try:
        names = json.loads(state.read_text(encoding="utf-8")).get("names", [])
        return {name for name in names if isinstance(name, str)}
    except (OSError, *JSON_ERRORS, AttributeError, TypeError):
        return set()


def _take_out(root: Path, names: set[str]) -> tuple[str, ...]:
    """Move pictures, and the text files beside them, from color/ to .colorize/removed/: nobody's last copy is lost."""
    gone = []
    for name in sorted(names):
        path = root / "color" / name
        if not path.is_file() or ".." in Path(name).parts:
            continue
        for file in (path, path.with_suffix(".txt")):
            if file.is_file():
                aside = cache_folder(root) / REMOVED / file.relative_to(root / "color")
                aside.parent.mkdir(parents=True, exist_ok=True)
                shutil.move(file, aside)
        gone.append(name)
    return tuple(gone)


def _is_ours(name: str, dataset: Path, root: Path) -> bool:
    """Whether a path in the folder lies in what this command writes there."""
    first = name.partition("/")[0]
    return dataset.resolve() == root.resolve() and "/" in name and first.partition("_")[0] in OWN_FOLDERS


def _pictures_below(dataset: Path, root: Path) -> Iterator[Path]:
    """Pictures in a folder and its subfolders, but for those that this command writes."""
    for folder, subfolders, names in walk(dataset):
        if Path(folder).resolve() == root.resolve():
            subfolders[:] = [name for name in subfolders if name.partition("_")[0] not in OWN_FOLDERS]
        for name in sorted(names):
            if name.lower().endswith(SUFFIXES) and is_text(str(Path(folder, name))):
                yield Path(folder) / name


def _link(source: Path, target: Path) -> None:
    """Make `target` the same file, or a copy where the file system has no links; nothing when it is that already.

    A link is followed first: one to a path beside it would lead nowhere from the new place.
    """
    source = source.resolve()
    if target.exists():
        ours, theirs = target.stat(), source.stat()
        if os.path.samestat(ours, theirs) or (ours.st_size, ours.st_mtime_ns) == (theirs.st_size, theirs.st_mtime_ns):
            return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    part.unlink(missing_ok=True)
    try:
        os.link(source, part)
    except OSError:
        shutil.copy2(source, part)
    part.replace(target)
