"""From the file of one part of a sample to its pixels."""

from __future__ import annotations

import copy
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image

from trainer.cache.recipes import part_key
from trainer.config import Data
from trainer.data import decode
from trainer.data.buckets import Canvas
from trainer.data.decoded import DecodedStore
from trainer.data.listing import LABEL_PARTS
from trainer.data.sources import FolderSource, ShardSource, Unreadable

# Parts of a sample that show the reference, and the part of the chosen picture they are in references of the set.
REFERENCE_PARTS = {"reference": "color", "reference_mask": "mask", "reference_regions": "regions"}


def source_part(part: str, reference: str) -> str:
    """The folder a part is read from: references that are pictures of the set have no folders of their own."""
    return part if reference == "folder" else REFERENCE_PARTS.get(part, part)


@dataclass(frozen=True)
class PictureReading:
    """How a data set reads its pictures."""

    picture_filter: Image.Resampling = decode.LANCZOS
    """How pictures are resized; masks are resized bilinearly, labels by the nearest."""
    centred: bool = False
    """Cut the middle of every picture instead of a random place."""
    luma: bool = False
    """A sketch in colours becomes grey by ITU-R 601 luma instead of the mean of its channels."""


def resized(
    file: BinaryIO,
    kind: str,
    canvas: Canvas,
    size: int,  # side of references
    zoom: float,
    how: PictureReading,
) -> np.ndarray:
    """A file's pixels, covering the canvas `zoom` times, or squashed for references: (H, W) or (H, W, 3)."""

    def target(own: tuple[int, int]) -> tuple[int, int]:
        if kind in REFERENCE_PARTS:  # squashed, as the reference encoder will see it
            return size, size
        return decode.covering(own, canvas, zoom)

    if kind in LABEL_PARTS:
        return decode.read_resized(file, target, decode.NEAREST, "labels")
    if kind.endswith("mask"):
        return decode.read_resized(file, target, decode.BILINEAR, "L")
    pixels = decode.read_resized(file, target, how.picture_filter, "sketch" if kind == "sketch" else "RGB")
    if kind != "sketch" or pixels.ndim == 2:
        return pixels
    return decode.luma(pixels) if how.luma else decode.mean_of_channels(pixels)


@dataclass
class PartFile:
    """The file of one part of one picture."""

    reader: PartReader
    kind: str
    number: int
    """of the picture in the set"""
    folder: str
    _content: bytes | None = field(default=None, repr=False)

    def open(self) -> BinaryIO:
        if self._content is not None:
            return io.BytesIO(self._content)
        return self.reader.source.open(self.folder, self.reader.names[self.number])

    def key(self, canvas: Canvas, mirrored: bool) -> bytes:
        """Its key in trainer.cache: the file's bytes, and what `PartReader.read` does to the pixels of the middle, in
        words. The file is read once for both."""
        if self._content is None:
            with self.open() as file:
                self._content = file.read()
        how, size = self.reader.how, self.reader.size
        words = f"squash {size}" if self.kind in REFERENCE_PARTS else f"cover {canvas[0]}x{canvas[1]} centre"
        words += f" filter {int(how.picture_filter)}{' luma' if how.luma else ''}{' mirrored' if mirrored else ''}"
        return part_key(self._content, self.kind, words + decode.turned(self._content))


class PartReader:
    """Gives pixels of parts, kept in memory (data.cache) or decoded on disk (data.decoded_folder) where that is on."""

    def __init__(
        self,
        source: FolderSource | ShardSource,
        names: Sequence[str],
        data: Data,
        how: PictureReading,
        store: DecodedStore | None = None,
    ) -> None:
        self.source, self.names, self.how, self.size = source, names, how, data.size
        self._reference = data.reference
        self._store = store
        self._kept: dict[tuple[int, str], torch.Tensor] | None = {} if data.cache else None

    def without_stores(self) -> PartReader:
        """The same, remembering nothing."""
        other = copy.copy(self)
        other._store = other._kept = None
        return other

    def file(self, kind: str, number: int, style: str = "sketch") -> PartFile:
        """Where a part of a picture is; style: the folder of sketches that is taken."""
        return PartFile(self, kind, number, style if kind == "sketch" else source_part(kind, self._reference))

    def read(
        self, file: PartFile, canvas: Canvas, place: tuple[float, float] = (0.5, 0.5), zoom: float = 1.0
    ) -> torch.Tensor:
        """One part of a sample, resized and cut, (C, H, W) uint8. Unreadable names the file that is damaged."""
        kept = self._kept if zoom == 1 else None
        name = file.number, file.folder if file.kind == "sketch" else file.kind
        if kept is not None and name in kept:
            return kept[name]
        pixels = self._resized(file, name[1], canvas, zoom)
        if file.kind not in REFERENCE_PARTS:
            left, top = decode.corner(pixels.shape[1::-1], canvas, place)
            pixels = pixels[top : top + canvas[0], left : left + canvas[1]]
        tensor = torch.from_numpy(np.ascontiguousarray(pixels))
        tensor = tensor[None] if tensor.ndim == 2 else tensor.permute(2, 0, 1)
        if kept is not None:
            kept[name] = tensor
        return tensor

    def _resized(self, file: PartFile, part: str, canvas: Canvas, zoom: float) -> np.ndarray:
        store = self._store if zoom == 1 else None
        pixels = store.get(part, file.number) if store is not None else None
        if pixels is None:
            with file.open() as opened:
                try:
                    pixels = resized(opened, file.kind, canvas, self.size, zoom, self.how)
                except decode.PICTURE_ERRORS as error:
                    name = self.source.describe(file.folder, self.names[file.number])
                    raise Unreadable(name, decode.why(error)) from None
            if store is not None:
                store.put(part, file.number, pixels)
        return pixels
