"""The data sets `prepare` works on: which pictures they have, what is there already, where results go.

Results are PNG files that carry, as text, which file they were made of and by what (`MARK`), so that they are known
again even when the journal is lost or a crash came before it was written.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, PngImagePlugin

from trainer.config import ConfigError
from trainer.data.decode import PICTURE_ERRORS, open_picture, why
from trainer.data.index import cache_folder, item_key
from trainer.data.sources import (
    DIRECTORY_ERRORS,
    MAX_MEMBER,
    SUFFIXES,
    FolderSource,
    ShardSource,
    Unreadable,
    leads_outside,
    not_read,
    open_source,
)
from trainer.text_file import read_text

log = logging.getLogger("trainer")

MARK = "colorize-prepare"
NOT_READ = "pictures of this kind are not read; save it as PNG or JPEG"


@dataclass(frozen=True)
class Picture:
    """One picture of a part."""

    part: str
    key: str
    """Name in all parts, without suffix."""
    name: str
    """Path in the part, with suffix."""
    file: str
    """As messages name it."""
    signature: str
    """Changes when the file does: size and time of a file, size and checksum of a member."""


def write_result(path: Path, pixels: np.ndarray, signature: str, fingerprint: str) -> None:
    """A PNG of (H, W) uint8, whole or not at all, with its mark."""
    text = PngImagePlugin.PngInfo()
    text.add_text(MARK, json.dumps([signature, fingerprint]))
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    Image.fromarray(pixels).save(part, format="PNG", pnginfo=text)
    part.replace(path)


def read_mark(file: BinaryIO | Path) -> tuple[str, str] | None:
    """(signature, fingerprint) of a result; None for a file that `prepare` did not make."""
    try:
        with open_picture(file) as image:
            signature, fingerprint = json.loads(image.info.get(MARK, "null") or "null")
            return str(signature), str(fingerprint)
    except PICTURE_ERRORS:
        return None


def open_set(root: Path) -> FolderSet | ShardSet:
    """The data set in a folder with color/. Raises ConfigError when there are no pictures in it."""
    source = open_source(root)
    data = ShardSet(source) if isinstance(source, ShardSource) else FolderSet(source)
    if not any((root / "color").glob("*")):
        raise ConfigError(f"{root / 'color'} is empty: put the pictures there ({', '.join(SUFFIXES)}), or zip shards.")
    return data


class PictureSet:
    """What both kinds of data sets share."""

    root: Path

    def parts(self) -> list[str]:
        return [part for part in ("color", "reference") if (self.root / part).is_dir()]

    def delete(self, folder: str, key: str) -> None:
        """Delete a result that lies in a plain folder."""
        for suffix in SUFFIXES:
            (self.root / folder / f"{key}{suffix}").unlink(missing_ok=True)

    def caption(self, picture: Picture) -> str:
        """Tags in a text file beside the picture."""
        path = self.root / picture.part / f"{picture.key}.txt"
        try:
            return " ".join(read_text(path).split()) if path.is_file() else ""
        except (OSError, ValueError) as error:
            log.warning("%s cannot be read (%s); its picture has no tags", path, error)
            return ""


class FolderSet(PictureSet):
    """Plain folders."""

    def __init__(self, source: FolderSource) -> None:
        self.source, self.root = source, source.root
        self._damaged: dict[str, dict[str, str]] = {}

    def count(self, part: str) -> int:
        """Pictures of a part."""
        return len(self.source.keys(part))

    def pictures(self, part: str) -> Iterator[Picture]:
        for key in self.source.keys(part):
            path = self.source.path(part, key)
            try:
                status = path.stat()
            except OSError as error:  # a link to nothing, or deleted meanwhile
                why = "it is a link to a file that is not there" if path.is_symlink() else error.strerror
                self._damaged.setdefault(part, {})[str(path)] = str(why)
                continue
            signature = f"{status.st_size} {status.st_mtime_ns}"
            yield Picture(part, key, key + path.suffix, str(path), signature)

    def _file(self, folder: str, picture: Picture) -> Path | None:
        stem = f"{self.root / folder}/{picture.key}"  # text, for it is asked of every picture and folder
        return next((Path(stem + suffix) for suffix in SUFFIXES if os.path.isfile(stem + suffix)), None)

    def has(self, folder: str, picture: Picture) -> bool:
        """Whether a folder has a file for the picture, whoever made it."""
        return self._file(folder, picture) is not None

    def mark(self, folder: str, picture: Picture) -> tuple[str, str] | None:
        """The mark of that file; None for somebody else's."""
        path = self._file(folder, picture)
        return None if path is None else read_mark(path)

    def result_path(self, folder: str, picture: Picture) -> Path:
        """Where a result is written; a file of another suffix in its place goes when the result is there."""
        return self.root / folder / f"{picture.key}.png"

    def begun(self, picture: Picture) -> None:
        """A picture is being worked on."""

    def done(self, picture: Picture, folders: tuple[str, ...]) -> None:
        """Its results are written."""
        for folder in folders:
            result = self.result_path(folder, picture)
            for suffix in SUFFIXES:
                other = self.root / folder / f"{picture.key}{suffix}"
                if other != result:
                    other.unlink(missing_ok=True)

    def close(self) -> None:
        """No more results will come."""

    def damaged(self, part: str) -> dict[str, str]:
        """Files that are no pictures for us, with the reason."""
        other = {str(self.root / part / name): NOT_READ for name in not_read(self.root / part)}
        return other | self._damaged.get(part, {})

    def orphans(self, folder: str, part: str) -> list[str]:
        """Keys of files of a folder and below that belong to no picture of a part."""
        pictures = set(self.source.keys(part))
        return [key for key in self.source.keys(folder) if key not in pictures]


class ShardSet(PictureSet):
    """Zip shards. Results are collected as files, and packed when a shard is through."""

    def __init__(self, source: ShardSource) -> None:
        self.source, self.root = source, source.root
        self.spool = cache_folder(self.root) / "spool"
        self._damaged: dict[str, dict[str, str]] = {}
        self._members: dict[tuple[str, str], set[str]] = {}
        self._working: dict[str, int] = {}  # shard -> pictures that are worked on
        self._listed: str | None = None  # the shard whose pictures are being given out

    def _infos(self, part: str, file: Path) -> list[zipfile.ZipInfo]:
        try:
            with zipfile.ZipFile(file) as archive:
                infos = [info for info in archive.infolist() if info.filename.lower().endswith(SUFFIXES)]
        except DIRECTORY_ERRORS as error:
            self._damaged.setdefault(part, {})[str(file)] = str(error)
            return []
        inside = [i for i in infos if i.filename.startswith(f"{file.stem}/") and not leads_outside(i.filename)]
        if len(inside) < len(infos):
            stray = sorted({i.filename for i in infos} - {i.filename for i in inside})
            reason = f"{len(stray)} members do not lie in a folder {file.stem}/ as the shard is called"
            self._damaged.setdefault(part, {})[str(file)] = f"{reason}, e.g. {stray[0]!r}; pack it again"
        return inside

    def count(self, part: str) -> int:
        return sum(len(self._infos(part, file)) for file in self.source.files(part))

    def pictures(self, part: str) -> Iterator[Picture]:
        for file in self.source.files(part):
            self._listed = file.stem
            for info in self._infos(part, file):
                signature = f"{info.file_size} {info.CRC:08x}"
                yield Picture(part, item_key(info.filename), info.filename, f"{file}:{info.filename}", signature)
            self._listed = None
            self._pack_if_done(file.stem)

    def _spool_of(self, folder: str) -> Path:
        return self.spool / folder.replace("/", "%")

    def _spooled(self, folder: str, picture: Picture) -> Path:
        top = self._spool_of(folder)
        path = top / f"{picture.name}.png"
        if not path.resolve().is_relative_to(top.resolve()):  # `leads_outside` has refused such names already
            raise ValueError(f"{picture.file} would be written outside {top}")
        return path

    def _packed(self, folder: str, shard: str) -> set[str]:
        """Keys of the members of a packed shard of results."""
        if (folder, shard) not in self._members:
            self._members = {key: value for key, value in self._members.items() if key[1] == shard}
            try:
                with zipfile.ZipFile(self.root / folder / f"{shard}.zip") as archive:
                    self._members[folder, shard] = {item_key(name) for name in archive.namelist()}
            except DIRECTORY_ERRORS:  # missing, or damaged: made again
                self._members[folder, shard] = set()
        return self._members[folder, shard]

    def has(self, folder: str, picture: Picture) -> bool:
        shard = picture.key.partition("/")[0]
        return self._spooled(folder, picture).is_file() or picture.key in self._packed(folder, shard)

    def mark(self, folder: str, picture: Picture) -> tuple[str, str] | None:
        spooled = self._spooled(folder, picture)
        if spooled.is_file():
            return read_mark(spooled)
        try:
            with self.source.open(folder, picture.key) as file:
                return read_mark(file)
        except Unreadable:
            return None

    def result_path(self, folder: str, picture: Picture) -> Path:
        return self._spooled(folder, picture)

    def begun(self, picture: Picture) -> None:
        shard = picture.key.partition("/")[0]
        self._working[shard] = self._working.get(shard, 0) + 1

    def done(self, picture: Picture, folders: tuple[str, ...]) -> None:
        shard = picture.key.partition("/")[0]
        self._working[shard] -= 1
        self._pack_if_done(shard)

    def _pack_if_done(self, shard: str) -> None:
        if shard != self._listed and not self._working.get(shard):
            self._working.pop(shard, None)
            for folder in self._spool_folders():
                self._pack(folder, shard)

    def close(self) -> None:
        """Pack what is left, also by an earlier run that was killed."""
        for folder in self._spool_folders():
            for shard in sorted(path.name for path in self._spool_of(folder).iterdir()):
                self._pack(folder, shard)
        shutil.rmtree(self.spool, ignore_errors=True)

    def _spool_folders(self) -> list[str]:
        if not self.spool.is_dir():
            return []
        return sorted(path.name.replace("%", "/") for path in self.spool.iterdir() if path.is_dir())

    def _pack(self, folder: str, shard: str) -> None:
        """Join a shard's collected results with what the packed shard holds; whole or not at all."""
        collected = self._spool_of(folder) / shard
        new = {
            path.relative_to(collected.parent).as_posix().removesuffix(".png"): path
            for path in collected.rglob("*.png")
            if not path.name.startswith(".")
        }
        if not new:
            return
        final = self.root / folder / f"{shard}.zip"
        final.parent.mkdir(parents=True, exist_ok=True)
        part = final.with_name(f".{final.name}.part")
        new_keys = {item_key(name) for name in new}
        with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
            if final.is_file() and zipfile.is_zipfile(final):
                self._copy_members(final, archive, new_keys)
            for name in sorted(new):
                archive.write(new[name], name)
        self.source.forget(final)
        part.replace(final)
        shutil.rmtree(collected)
        self._members.pop((folder, shard), None)

    def _copy_members(self, final: Path, archive: zipfile.ZipFile, new_keys: set[str]) -> None:
        """Take over what a shard of results holds already; members that cannot be read are listed and left behind."""
        with zipfile.ZipFile(final) as old:
            for info in old.infolist():
                if item_key(info.filename) in new_keys:
                    continue
                try:
                    if info.file_size > MAX_MEMBER:
                        raise ValueError(f"it unpacks to {info.file_size} bytes")
                    content = old.read(info)
                except (*PICTURE_ERRORS, zipfile.BadZipFile, RuntimeError) as error:  # RuntimeError: encrypted
                    self._damaged.setdefault("color", {})[f"{final}:{info.filename}"] = why(error)
                    continue
                archive.writestr(info, content)

    def damaged(self, part: str) -> dict[str, str]:
        return self._damaged.get(part, {})

    def orphans(self, folder: str, part: str) -> list[str]:
        """Shards that belong to no shard of pictures; nobody's result alone, so they are never deleted."""
        pictures = {file.name for file in self.source.files(part)}
        return [file.name for file in self.source.files(folder) if file.name not in pictures]

    def caption(self, picture: Picture) -> str:
        return ""


Set = FolderSet | ShardSet
