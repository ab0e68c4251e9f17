"""Decoded pictures on disk: what a run has decoded and resized once, it reads as plain bytes from then on.

A store is a folder for one data set in one state and one size (its name is a hash of both, see `FolderDataset`). Every
process appends to a file of its own, data-<n>.bin; <part>.table says for every picture in which file and where its
record lies. Several processes and runs may use a store at once: a record counts when its table entry is written, which
happens last. Records carry a checksum, so one that a power cut tore is decoded again.
"""

from __future__ import annotations

import io
import logging
import os
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np

log = logging.getLogger("trainer")

_HEADER = struct.Struct("<HHHxxI")  # height, width, channels (0: a picture without that dimension), checksum
_PLACE_BITS = 44  # of a table entry; the rest is the number of the file
_MAGIC = b"decoded1"


class DecodedStore:
    """uint8 arrays (H, W) or (H, W, C) by part and picture number."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder, self.count = folder, count
        self._forget()

    def _forget(self) -> None:
        self._process = os.getpid()
        self._tables: dict[str, np.memmap] = {}
        self._checked: dict[str, np.ndarray] = {}
        self._files: dict[int, io.BufferedReader] = {}
        self._own: tuple[int, BinaryIO] | None = None
        self._full = False

    def __getstate__(self) -> dict:
        return {"folder": self.folder, "count": self.count}

    def __setstate__(self, state: dict) -> None:
        DecodedStore.__init__(self, **state)

    def _table(self, part: str) -> np.memmap:
        if self._process != os.getpid():  # a forked worker must not share the position in a file
            self._forget()
        if part not in self._tables:
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / f"{part.replace('/', '-')}.table"
            with path.open("ab") as file:
                if file.tell() < 8 * self.count:
                    file.truncate(8 * self.count)  # zeros, which take no room
            self._tables[part] = np.memmap(path, np.int64, "r+", shape=(self.count,))
            self._checked[part] = np.zeros(self.count, bool)
        return self._tables[part]

    def get(self, part: str, number: int) -> np.ndarray | None:
        """The array of a picture, or None when it was never kept (or is damaged)."""
        entry = int(self._table(part)[number])
        if not entry:
            return None
        which, place = divmod(entry, 1 << _PLACE_BITS)
        try:
            if which not in self._files:
                self._files[which] = (self.folder / f"data-{which}.bin").open("rb")
            file = self._files[which]
            file.seek(place)
            height, width, channels, checksum = _HEADER.unpack(file.read(_HEADER.size))
            values = np.empty((height, width, channels) if channels else (height, width), np.uint8)
            if file.readinto(values.data) != values.nbytes:
                return None
        except (OSError, struct.error):
            return None
        if not self._checked[part][number]:  # once per process
            if zlib.adler32(values.data) != checksum:
                return None
            self._checked[part][number] = True
        return values

    def put(self, part: str, number: int, values: np.ndarray) -> None:
        """Keep an array. A full disk ends the keeping, not the run."""
        table = self._table(part)
        if self._full:
            return
        try:
            which, file = self._own = self._own or self._new_file()
            place = file.tell()
            channels = values.shape[2] if values.ndim == 3 else 0
            values = np.ascontiguousarray(values)
            file.write(_HEADER.pack(*values.shape[:2], channels, zlib.adler32(values.data)))
            file.write(values.data)
            file.flush()
        except OSError as error:
            self._full = True
            log.warning("data.decoded_folder: nothing more is kept in %s (%s)", self.folder, error)
            return
        table[number] = which << _PLACE_BITS | place

    def _new_file(self) -> tuple[int, BinaryIO]:
        which = 0
        while True:
            try:
                file = (self.folder / f"data-{which}.bin").open("xb")
            except FileExistsError:
                which += 1
                continue
            file.write(_MAGIC)  # no record lies at 0: a table entry of 0 means none
            return which, file
