"""Where the files of a training set lie: in plain folders, or in zip shards that are read without unpacking.

    color/00001.png    sketch/00001.png    mask/...    reference/...        plain folders: files of one picture share
                                                                            their name
    color/0001.zip     sketch/0001.zip     mask/...    reference/...        shards (the released trainers' layout): the
                                                                            member 0001/10001.png lies in 0001.zip

Several styles of sketches per picture lie in sketch/, sketch_2/, sketch_pencil/, ... or in sketch/<style>/ (files or
shards alike); a picture needs one of them.

What a shard holds is found in its central directory once and kept as an array (hash of the name -> place), so that a
worker opens a shard and reads a member with one seek, whatever the number of shards.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import struct
import uuid
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from trainer.config import ConfigError
from trainer.data.index import FORMAT, cache_folder, hash64, is_text, item_key, shard_of

log = logging.getLogger("trainer")

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
OTHER_SUFFIXES = tuple(f".{kind}" for kind in "tif tiff gif heic heif avif jxl jp2 jfif psd svg tga ico".split())
"""Pictures of kinds that are not read: they are told, not passed over."""
OPEN_SHARDS = 64  # per process: files and directories that are kept open
MAX_MEMBER = 2**28
"""Largest unpacked file in a shard, bytes: no picture of decode.MAX_PIXELS needs more, and a lie costs no more."""
DIRECTORY_ERRORS = (
    OSError, zipfile.BadZipFile, ValueError, NotImplementedError, ArithmeticError, MemoryError, struct.error,
)  # fmt: skip
"""What zipfile and numpy raise for the directory of a damaged or forged shard."""
_ENCRYPTED = 1  # flag bit
_LOCAL_HEADER = struct.Struct("<4s2xH18xHH")  # signature, flags, lengths of name and extra field
_MEMBER = np.dtype([("key", "u8"), ("at", "u8"), ("packed", "u8"), ("size", "u8"), ("crc", "u4"), ("method", "u2")])


class Unreadable(OSError):
    """A file of a picture is missing or damaged; `file` names it."""

    def __init__(self, file: str, reason: object) -> None:
        super().__init__(f"{file} cannot be read ({reason})")
        self.file, self.reason = file, str(reason)

    def __reduce__(self) -> tuple:  # from a worker process
        return Unreadable, (self.file, self.reason)


def walk(top: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """As os.walk, also into folders that are links, but into each real folder once; hidden ones are left out."""
    seen = set()
    for folder, inner, names in os.walk(top, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link to a folder above, or to one that was there
            inner.clear()
            continue
        seen.add(real)
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        yield folder, inner, names


def not_read(top: Path) -> list[str]:
    """Pictures below a folder whose kinds are not read, by their paths in it."""
    found = (os.path.join(folder, name) for folder, _, names in walk(top) for name in names
             if name.lower().endswith(OTHER_SUFFIXES))  # fmt: skip
    return sorted(Path(os.path.relpath(path, top)).as_posix() for path in found)


def sketch_styles(root: Path, wanted: Sequence[str] = ()) -> list[str]:
    """Folders of a set that hold sketches, one per style; `wanted` picks them by their names (pencil, 2, sketch).

    sketch/ itself when it holds files, its subfolders when it holds none (those that color/ does not have as well),
    and every sketch_*/ beside it.
    """
    inside = root / "sketch"
    subfolders = [p.name for p in sorted(inside.iterdir()) if p.is_dir()] if inside.is_dir() else []
    nested = [name for name in subfolders if not (root / "color" / name).is_dir()]
    whole = inside.is_dir() and (len(nested) < len(subfolders) or any(p.is_file() for p in inside.iterdir()))
    found = ["sketch"] if whole else [f"sketch/{name}" for name in nested]
    found += [p.name for p in sorted(root.glob("sketch_*")) if p.is_dir()]
    names = {style.rpartition("/")[2].removeprefix("sketch_"): style for style in found}
    for name in wanted:
        if name not in names:
            known = ", ".join(names) or "none"
            raise ConfigError(f"data.sketch_styles names {name!r}, but {root} has the styles {known}.")
    return [names[name] for name in wanted] or found or ["sketch"]


def check_folder(root: Path) -> None:
    """ConfigError when there is no such folder."""
    if not root.is_dir():
        raise ConfigError(
            f"data.folder {str(root)!r} does not exist. `python -m trainer demo-data --output {root}` draws "
            f"characters there, `python -m trainer demo-faces --output {root}` the faces of AnimeDiffusion."
        )


def open_source(root: Path) -> FolderSource | ShardSource:
    """Shards where color/ holds .zip files, else plain folders. ConfigError when there is no such folder."""
    check_folder(root)
    if any((root / "color").glob("*.zip")):
        return ShardSource(root, cache_folder(root))
    return FolderSource(root)


class _Listing(NamedTuple):
    """Files of one part: sorted hashes of their keys, and which of the suffixes each has."""

    keys: np.ndarray
    numbers: np.ndarray
    suffixes: list[str]


class FolderSource:
    """Plain folders. A picture's key is its file's path in the part's folder, without suffix."""

    shards = False

    def __init__(self, root: Path) -> None:
        self.root = root
        self._listed: dict[str, _Listing] = {}

    def keys(self, part: str) -> list[str]:
        """All pictures of a part, sorted."""
        return sorted({item_key(name) for name in self._names(part)})

    def _names(self, part: str) -> Iterator[str]:
        """Paths of a part's files in its folder and below, sorted; hidden folders are left out."""
        top = self.root / part
        for folder, _, names in walk(top):
            prefix = "" if folder == str(top) else Path(folder).relative_to(top).as_posix() + "/"
            named = sorted(prefix + name for name in names if name.lower().endswith(SUFFIXES))
            for name in named:
                if is_text(name):
                    yield name
                else:
                    log.warning("%s in %s has a name that is not UTF-8 and is left out; rename it", ascii(name), top)

    def _listing(self, part: str) -> _Listing:
        if part not in self._listed:
            # Of files that differ in their suffix only, the last counts.
            found = {hash64(item_key(name)): name[len(item_key(name)) :] for name in self._names(part)}
            suffixes = sorted(set(found.values()))
            keys = sorted(found)
            numbers = [suffixes.index(found[key]) for key in keys]
            self._listed[part] = _Listing(np.array(keys, np.uint64), np.array(numbers, np.uint8), suffixes)
        return self._listed[part]

    def has(self, part: str, keys: np.ndarray) -> np.ndarray:
        """Which of the hashed keys (N,) a part's folder holds."""
        return np.isin(keys, self._listing(part).keys)

    def holds(self, part: str, key: str) -> bool:
        return _find(self._listing(part).keys, key) is not None

    def count(self, part: str) -> int:
        """Number of pictures of a part."""
        return len(self._listing(part).keys)

    def path(self, part: str, key: str) -> Path:
        """The file of a picture. Unreadable when there is none."""
        listing = self._listing(part)
        place = _find(listing.keys, key)
        if place is None:
            raise Unreadable(str(self.root / part / key), "there is no such file")
        return self.root / part / f"{key}{listing.suffixes[listing.numbers[place]]}"

    def open(self, part: str, key: str) -> BinaryIO:
        path = self.path(part, key)
        try:
            return path.open("rb")
        except OSError as error:
            raise Unreadable(str(path), error.strerror or error) from None

    def describe(self, part: str, key: str) -> str:
        """The file as messages name it."""
        try:
            return str(self.path(part, key))
        except Unreadable as error:
            return error.file

    def fingerprint(self, parts: Sequence[str]) -> str:
        """Hash of names, sizes and times of all files of the parts."""
        digest = hashlib.sha256(f"folder {FORMAT}".encode())
        for part in parts:
            for name in self._names(part):
                status = (self.root / part / name).stat()
                digest.update(f"{part}/{name} {status.st_size} {status.st_mtime_ns}\n".encode())
        return digest.hexdigest()


def _find(keys: np.ndarray, key: str) -> int | None:
    """Where a key stands in an array of sorted hashes."""
    wanted = np.uint64(hash64(key))
    place = int(np.searchsorted(keys, wanted))
    return place if place < len(keys) and keys[place] == wanted else None


class _Shard(NamedTuple):
    """An open shard, its members sorted by key, and their keys as an array of their own."""

    file: BinaryIO
    members: np.ndarray
    keys: np.ndarray


class ShardSource:
    """Zip shards. A picture's key is the member's path without suffix; its first folder names the shard."""

    shards = True

    def __init__(self, root: Path, cache: Path | None = None) -> None:
        self.root, self.cache = root, cache
        self._process = os.getpid()
        self._open: OrderedDict[Path, _Shard] = OrderedDict()

    def __getstate__(self) -> dict:
        return {"root": self.root, "cache": self.cache, "_process": None, "_open": OrderedDict()}

    def files(self, part: str) -> list[Path]:
        """The shards of a part, sorted."""
        return sorted((self.root / part).glob("*.zip"))

    def keys_of(self, file: Path) -> list[str]:
        """All pictures of one shard, in its order."""
        with _zip(file) as archive:
            return [item_key(name) for name in archive.namelist() if is_picture_member(name)]

    def has(self, part: str, shard: str, keys: np.ndarray) -> np.ndarray:
        """Which of the hashed keys (N,) a shard of a part holds; none when the shard is missing or damaged."""
        try:
            return np.isin(keys, self._shard(self.root / part / f"{shard}.zip").keys)
        except Unreadable:
            return np.zeros(len(keys), bool)

    def holds(self, part: str, key: str) -> bool:
        try:
            return _find(self._shard(self.root / part / f"{shard_of(key)}.zip").keys, key) is not None
        except Unreadable:
            return False

    def count(self, part: str) -> int:
        """Number of shards of a part."""
        return len(self.files(part))

    def _shard(self, file: Path) -> _Shard:
        if self._process != os.getpid():  # a forked worker must not share the position in a file
            self._open, self._process = OrderedDict(), os.getpid()
        if file in self._open:
            self._open.move_to_end(file)
            return self._open[file]
        members = self._members(file)
        try:
            handle = file.open("rb")
        except OSError as error:
            raise Unreadable(str(file), error.strerror or error) from None
        self._open[file] = _Shard(handle, members, np.ascontiguousarray(members["key"]))
        if len(self._open) > OPEN_SHARDS:
            self._open.popitem(last=False)[1].file.close()
        return self._open[file]

    def forget(self, file: Path) -> None:
        """Close a shard that is about to be replaced: Windows replaces no open file, elsewhere the old one is read."""
        if shard := self._open.pop(file, None):
            shard.file.close()

    def _members(self, file: Path) -> np.ndarray:
        """The members of a shard, from the cache when the shard has not changed since."""
        try:
            status = file.stat()
        except OSError as error:
            raise Unreadable(str(file), error.strerror or error) from None
        if self.cache is None:
            return read_directory(file)
        what = f"{FORMAT} {file.relative_to(self.root).as_posix()} {status.st_size} {status.st_mtime_ns}"
        kept = self.cache / "shards" / f"{hash64(what):016x}.npy"
        if not kept.is_file():
            members = read_directory(file)
            if not len(members):
                return members
            kept.parent.mkdir(parents=True, exist_ok=True)
            temporary = kept.with_name(f".{uuid.uuid4().hex}.npy")
            np.save(temporary, members)
            try:
                temporary.replace(kept)
            except OSError:  # on Windows, when another process was first and has it mapped
                temporary.unlink(missing_ok=True)
                if not kept.is_file():
                    raise
        return np.load(kept, mmap_mode="r")

    def open(self, part: str, key: str) -> BinaryIO:
        """The bytes of a member. Unreadable when it is missing, damaged or packed in an unusual way."""
        shard = self._shard(self.root / part / f"{shard_of(key)}.zip")
        place = _find(shard.keys, key)
        if place is None:
            raise Unreadable(self.describe(part, key), "the shard has no such member")
        try:
            data = _read_member(shard.file, shard.members[place])
        except (OSError, ValueError, OverflowError, MemoryError, zlib.error, struct.error) as error:
            raise Unreadable(self.describe(part, key), error) from None
        return io.BytesIO(data)

    def describe(self, part: str, key: str) -> str:
        """The member as messages name it: shard.zip:member."""
        return f"{self.root / part / shard_of(key)}.zip:{key}"

    def fingerprint(self, parts: Sequence[str]) -> str:
        """Hash of names, sizes and times of all shards of the parts."""
        digest = hashlib.sha256(f"shards {FORMAT}".encode())
        for part in parts:
            for file in self.files(part):
                status = file.stat()
                digest.update(f"{part}/{file.name} {status.st_size} {status.st_mtime_ns}\n".encode())
        return digest.hexdigest()


def _zip(file: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except DIRECTORY_ERRORS as error:
        raise Unreadable(str(file), error) from None


def leads_outside(name: str) -> bool:
    """Whether a member's name is no plain path below the folder that the shard stands for.

    Such are absolute paths, drives, backslashes, empty and dotted parts, and names with control characters.
    """
    odd = any(letter < " " or letter in "\\:\x7f" for letter in name)
    return odd or any(part in ("", ".", "..") for part in name.split("/"))


def is_picture_member(name: str) -> bool:
    """Whether a member of a shard is a picture that is listed."""
    return name.lower().endswith(SUFFIXES) and not leads_outside(name)


def read_directory(file: Path) -> np.ndarray:
    """The pictures of a zip file as an array sorted by key; zip64 included."""
    with _zip(file) as archive:
        rows = [
            (hash64(item_key(m.filename)), m.header_offset, m.compress_size, m.file_size, m.CRC, m.compress_type)
            for m in archive.infolist()
            if is_picture_member(m.filename)
        ]
    try:
        return np.sort(np.array(rows, _MEMBER), order="key")
    except (ValueError, OverflowError):
        raise Unreadable(str(file), "its directory has places before the file's begin; pack it again") from None


def _read_member(handle: BinaryIO, member: Mapping[str, int]) -> bytes:
    packed, size = int(member["packed"]), int(member["size"])
    if max(packed, size) > MAX_MEMBER:
        raise ValueError(f"its directory says {max(packed, size)} bytes; a picture here has {MAX_MEMBER} at most")
    handle.seek(int(member["at"]))
    header = handle.read(_LOCAL_HEADER.size)
    signature, flags, name, extra = _LOCAL_HEADER.unpack(header)
    if flags & _ENCRYPTED:
        raise ValueError("it is encrypted; pack the shard without a password")
    if signature != b"PK\x03\x04":
        raise ValueError("the shard has no member where its directory says")
    handle.seek(name + extra, os.SEEK_CUR)
    data = handle.read(packed)
    method = int(member["method"])
    if method == zipfile.ZIP_DEFLATED:
        data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, size + 1)
    elif method != zipfile.ZIP_STORED:
        raise ValueError(f"it is packed by method {method}; pack shards with store or deflate")
    if len(data) != size:
        raise ValueError(f"it does not unpack to the {size} bytes that its directory says")
    if zlib.crc32(data) != int(member["crc"]):
        raise ValueError("its checksum is wrong")
    return data
