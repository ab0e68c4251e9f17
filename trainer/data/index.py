"""The list of a data set's pictures as columns on disk: millions of items open in seconds and no item is an object.

An index is made once from an index file (JSON or parquet) or from the listing of a folder or of zip shards, and kept in
a folder whose name is a hash of what it was made from: another source is another folder, so an index is never stale.
Opening maps the columns into memory.

Index files, as the released trainers read them: JSON {path: {entry}}, or parquet with the column `image_path` and a
column per key. Keys of an entry, all optional: width, height (or resolution, [width, height]), aesthetic_score,
exist_sketch, tags (parquet: caption), reference_list, group (any text: pictures of one group are references of each
other; it goes before the folder). Paths are relative to color/, with the shard's name in front
(0001/10001.png); their suffix does not count, so that color/ may hold .jpg and sketch/ .png.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import shutil
import uuid
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from json.encoder import encode_basestring
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from trainer.config import ConfigError
from trainer.json_file import JSON_ERRORS

log = logging.getLogger("trainer")

FORMAT = 3
"""Part of every hash: raise it when the columns change, or the pixels that a file is read as."""
DEFAULT_SCORE = 6.0
"""Aesthetic score of a picture that has none (released XL trainer: 6 as a value, 5.51 for the filter)."""
FILTER_SCORE = 5.51
_LARGEST = np.iinfo(np.int32).max  # width or height
_NO_SCORE = float("nan")
_NUMBERS = {"width": np.int32, "height": np.int32, "score": np.float32, "usable": np.uint8}
_HASHES = ("key", "group", "name_group")
_TEXTS = ("name", "extra")


def item_key(path: str) -> str:
    """A picture's name in all parts: its path without suffix, with forward slashes."""
    path = path.replace("\\", "/")
    folder, slash, name = path.rpartition("/")
    stem, dot, suffix = name.rpartition(".")
    return folder + slash + (stem if dot and stem else name)


def folder_group(key: str, shards: bool = False) -> str:
    """What the pictures of one folder share: its path. A picture in no folder is a group of its own.

    shards: the first folder is the shard's and says nothing about what a picture shows.
    """
    folder = key.rpartition("/")[0]
    folder = folder.partition("/")[2] if shards else folder
    return f"{folder}/" if folder else key


def name_group(key: str) -> str:
    """What pictures share that are called anna_01, anna_02, ...: the name before the last underscore."""
    folder, slash, name = key.rpartition("/")
    return folder + slash + (name.rpartition("_")[0] or name)


def group_of(key: str, entry: Mapping[str, Any], shards: bool = False) -> str:
    """The group that the index gives a picture, else that of its folder."""
    given = entry.get("group")
    return folder_group(key, shards) if given is None else f"/{given}"  # no path begins with a slash


def hash64(text: str) -> int:
    """64 bits of BLAKE2b: keys of pictures and groups in columns."""
    return int.from_bytes(hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest(), "little")


@dataclass(frozen=True)
class Index:
    """Columns of one row per picture, as arrays or as maps of files.

    name (bytes of all keys, one after the other) and name_ends (N,); likewise extra (JSON of tags and references, empty
    where there are none); key, group and name_group (N,), 64-bit hashes of the key, of the group by index or folder
    and of that by the name's ending; width and height (N,) in pixels, 0 = not known; score (N,), not a number = none;
    usable (N,), 0 = the index says that there is no sketch, or names the picture twice.
    """

    columns: Mapping[str, np.ndarray]
    fingerprint: str
    """Hash of what the index was made from."""
    problems: tuple[str, ...] = ()
    """What was left out when it was made, one line each."""
    folder: Path | None = None
    """Where it lies on disk, if it does."""

    def __reduce__(self) -> tuple:  # a loader process maps the files itself: a copy could hold millions of rows
        if self.folder is not None:
            return open_folder, (self.folder,)
        return Index, (self.columns, self.fingerprint, self.problems)

    def __len__(self) -> int:
        return len(self.columns["key"])

    def __getitem__(self, column: str) -> np.ndarray:
        return self.columns[column]

    def _text(self, column: str, row: int) -> str:
        ends = self.columns[f"{column}_ends"]
        first = int(ends[row - 1]) if row else 0
        return bytes(self.columns[column][first : int(ends[row])]).decode()

    def name(self, row: int) -> str:
        return self._text("name", row)

    def extra(self, row: int) -> dict[str, Any]:
        """tags (text) and references (list of paths) of a row, those that it has."""
        text = self._text("extra", row)
        return json.loads(text) if text else {}

    def score(self, row: int) -> float:
        value = float(self.columns["score"][row])
        return DEFAULT_SCORE if np.isnan(value) else value

    def rows(self, min_score: float = 0.0, min_side: int = 0) -> np.ndarray:
        """Rows (int64) to train on: with a sketch, a score and a shorter side of at least these.

        Pictures without a score count as 5.51; those of unknown size are kept.
        """
        score, side = self["score"], np.minimum(self["width"], self["height"])
        keep = self["usable"] > 0
        if min_score:
            keep &= np.where(np.isnan(score), FILTER_SCORE, score) >= min_score
        if min_side:
            keep &= (side == 0) | (side >= min_side)
        return np.flatnonzero(keep)


# -- making ------------------------------------------------------------------------------------------------------------


class Writer:
    """Collects rows in arrays; texts go to a file at once when a folder is given, else to memory."""

    def __init__(self, folder: Path | None = None, shards: bool = False) -> None:
        self.folder, self.shards = folder, shards
        self._numbers: dict[str, array[Any]] = {name: array(np.dtype(kind).char) for name, kind in _NUMBERS.items()}
        self._hashes = {name: array("Q") for name in _HASHES}
        self._ends = {name: array("q") for name in _TEXTS}
        self._sizes = dict.fromkeys(_TEXTS, 0)
        self._texts: dict[str, io.BytesIO | io.BufferedWriter] = {
            name: (folder / f"{name}.bin").open("wb") if folder else io.BytesIO() for name in _TEXTS
        }

    def add(self, path: str, entry: Mapping[str, Any]) -> None:
        """One row from an index file. ConfigError when the entry is not of the documented form."""
        if not isinstance(path, str) or not is_text(path):
            raise ConfigError(f"The index names a picture {path!r:.200}, which is no text; write its path.")
        self.add_key(item_key(path), entry)

    def add_key(self, key: str, entry: Mapping[str, Any]) -> None:
        """One row of a picture whose key is known."""
        width, height = _size(key, entry)
        score, numbers, hashes = _score(key, entry), self._numbers, self._hashes
        hashes["key"].append(hash64(key))
        hashes["group"].append(hash64(group_of(key, entry, self.shards)))
        hashes["name_group"].append(hash64(name_group(key)))
        numbers["width"].append(width)
        numbers["height"].append(height)
        numbers["score"].append(score)
        numbers["usable"].append(bool(entry.get("exist_sketch", True)))
        self._add_text("name", key)
        self._add_text("extra", _extra(key, entry))

    def _add_text(self, column: str, text: str) -> None:
        data = text.encode()
        self._sizes[column] += len(data)
        self._ends[column].append(self._sizes[column])
        if data:
            self._texts[column].write(data)

    def __len__(self) -> int:
        return len(self._hashes["key"])

    def _arrays(self) -> dict[str, np.ndarray]:
        arrays = {name: np.frombuffer(a, _NUMBERS[name]) for name, a in self._numbers.items()}
        arrays |= {name: np.frombuffer(a, np.uint64) for name, a in self._hashes.items()}
        keys = np.sort(arrays["key"])
        if (keys[1:] == keys[:-1]).any():
            first = np.zeros(len(self), np.uint8)
            first[np.unique(arrays["key"], return_index=True)[1]] = 1
            arrays["usable"] = arrays["usable"] * first
        return arrays | {f"{name}_ends": np.frombuffer(a, np.int64) for name, a in self._ends.items()}

    def index(self, fingerprint: str, problems: Iterable[str] = ()) -> Index:
        """The rows as an index in memory."""
        kept = {name: text.getvalue() for name, text in self._texts.items() if isinstance(text, io.BytesIO)}
        texts = {name: np.frombuffer(text, np.uint8) for name, text in kept.items()}
        return Index(self._arrays() | texts, fingerprint, tuple(problems))

    def close(self, fingerprint: str, problems: Iterable[str] = ()) -> None:
        """Write what is still in memory to the folder."""
        folder = self.folder
        if folder is None:
            raise ValueError("These rows have no folder: take them with index().")
        for text in self._texts.values():
            text.close()
        for name, values in self._arrays().items():
            np.save(folder / f"{name}.npy", values)
        described = {"fingerprint": fingerprint, "rows": len(self), "problems": list(problems)}
        (folder / "index.json").write_text(json.dumps(described))


def is_text(text: str) -> bool:
    """Whether a text can be written as UTF-8: half of a surrogate pair, as JSON can spell it, cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _score(key: str, entry: Mapping[str, Any]) -> float:
    """The aesthetic score of an entry, not a number where it has none."""
    score = entry.get("aesthetic_score")
    if score is None or (isinstance(score, float) and score != score):
        return _NO_SCORE
    if isinstance(score, bool) or not isinstance(score, (int, float)) or not abs(score) < 1e6:
        raise ConfigError(f"The index gives {key!r} the aesthetic_score {score!r:.100}; write a number such as 5.5.")
    return float(score)


def _extra(key: str, entry: Mapping[str, Any]) -> str:
    """JSON of the tags and references of an entry, "" where it has none."""
    tags, references = entry.get("tags") or entry.get("caption"), entry.get("reference_list")
    if not (tags or references):
        return ""
    if tags and not isinstance(tags, str):
        tags = ", ".join(map(str, tags)) if isinstance(tags, (list, tuple)) else str(tags)
    if tags and not is_text(tags):
        raise ConfigError(f"The index gives {key!r} tags that are no text: {tags!r:.100}.")
    if not references:
        return f'{{"tags": {encode_basestring(tags or "")}}}'  # a third of the time of json.dumps
    try:
        paths = json.loads(references) if isinstance(references, str) else list(references)
        if not isinstance(paths, list) or not all(isinstance(path, str) and is_text(path) for path in paths):
            raise ValueError
    except (*JSON_ERRORS, TypeError):
        raise ConfigError(
            f"The index gives {key!r} the reference_list {references!r:.200}; write a list of paths."
        ) from None
    return json.dumps({**({"tags": tags} if tags else {}), "references": paths}, ensure_ascii=False)


def _size(path: str, entry: Mapping[str, Any]) -> tuple[int, int]:
    if not isinstance(entry, Mapping):
        raise ConfigError(
            f"The index has {path!r}: {str(entry)[:40]!r}, but an entry is a table such as "
            '{"width": 1024, "height": 1536, "exist_sketch": true}.'
        )
    size = entry.get("resolution")
    try:
        if size is None:
            size = entry.get("width") or 0, entry.get("height") or 0
        width, height = map(int, (size, size) if isinstance(size, (int, float)) else size)
        if not 0 <= width <= _LARGEST or not 0 <= height <= _LARGEST:
            raise ValueError
        return width, height
    except (TypeError, ValueError, OverflowError):
        raise ConfigError(
            f"The index gives {path!r} a size that is no pair of numbers of pixels; write [width, height]."
        ) from None


def cache_folder(root: Path) -> Path:
    """Where what was found out about a data set is kept: in it, or in the user's cache when it cannot be written to."""
    inside = root / ".colorize"
    try:
        inside.mkdir(exist_ok=True)
        probe = inside / f".{uuid.uuid4().hex}"
        probe.touch()
        probe.unlink()
        return inside
    except OSError:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        outside = home / "colorize-diffusion" / "data" / f"{hash64(str(root.resolve())):016x}"
        outside.mkdir(parents=True, exist_ok=True)
        return outside


def build(
    cache: Path,
    fingerprint: str,
    entries: Iterable[tuple[str, Mapping[str, Any]]],
    problems: list[str],
    keyed: bool = False,
    shards: bool = False,
) -> Index:
    """The index of `fingerprint` in the folder `cache`; made from (path, entry) pairs when it is not there.

    keyed: the paths are keys already, that is, they have no suffix. shards: their first folder is a shard's.

    The folder is written under a temporary name and renamed, so a crash leaves none, and of two processes that make
    the same index one wins. `problems` is read after the last entry.
    """
    folder = cache / f"index-{fingerprint[:32]}"
    if not (folder / "index.json").is_file():
        temporary = cache / f".index-{uuid.uuid4().hex}"
        temporary.mkdir(parents=True)
        try:
            writer = Writer(temporary, shards)
            add = writer.add_key if keyed else writer.add
            for path, entry in entries:
                add(path, entry)
                if len(writer) % 1_000_000 == 0:
                    log.info("indexing: %d million pictures", len(writer) // 1_000_000)
            writer.close(fingerprint, problems)
            try:
                temporary.rename(folder)
            except OSError:  # another process was first
                if not (folder / "index.json").is_file():
                    raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return open_folder(folder)


def open_folder(folder: Path) -> Index:
    """Map the columns of an index that is on disk."""
    described = json.loads((folder / "index.json").read_text())
    names = [*_NUMBERS, *_HASHES, *(f"{name}_ends" for name in _TEXTS)]
    columns = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in names if described["rows"]}
    columns = columns or {name: np.load(folder / f"{name}.npy") for name in names}  # nothing to map in empty files
    for name in _TEXTS:
        file = folder / f"{name}.bin"
        columns[name] = np.memmap(file, np.uint8, "r") if file.stat().st_size else np.zeros(0, np.uint8)
    return Index(columns, described["fingerprint"], tuple(described["problems"]), folder)


def shard_of(key: str) -> str:
    """The shard a picture lies in: the first folder of its name."""
    return PurePosixPath(key).parts[0] if "/" in key else ""
