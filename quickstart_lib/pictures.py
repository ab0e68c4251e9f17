"""Pictures looked at before any work: what kind of file, how large, and whether it is whole. Nothing is decoded."""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .errors import QuickstartError

LARGEST = 178_000_000  # pixels; ComfyUI's picture reader refuses more
TURNED = (5, 6, 7, 8)  # EXIF orientations that exchange width and height


class Broken(Exception):
    """The text says what is wrong with a picture file."""


@dataclass(frozen=True)
class Picture:
    """A picture file that can be read."""

    file: Path
    size: tuple[int, int] | None
    """(width, height) as shown, in pixels; None for kinds whose size is not read."""


def examine(option: str, file: Path) -> Picture:
    """The picture a person named with `option`; raises QuickstartError when ComfyUI could not read it."""
    try:
        size = size_of(file.read_bytes())
        if size is not None and (min(size) < 1 or size[0] * size[1] > LARGEST):
            raise Broken(f"has {size[0]} x {size[1]} pixels. Give one with at most {LARGEST // 10**6} million")
    except Broken as problem:
        raise QuickstartError(f"{option} is {file}, but this file {problem}.") from None
    except OSError as error:
        raise QuickstartError(f"{option} is {file}, which cannot be read: {error.strerror or error}.") from error
    return Picture(file, size)


def size_of(data: bytes) -> tuple[int, int] | None:
    """(width, height) in pixels out of a picture file's bytes, None where it is not read; raises Broken."""
    if not data:
        raise Broken("is empty")
    for mark, at, read in KINDS:
        if data[at : at + len(mark)] == mark:
            try:
                return read(data)
            except (struct.error, IndexError):
                raise Broken("ends within its first lines: it is cut off. Save or download it again") from None
    for mark, at, what, advice in OTHERS:
        if mark in data[at : at + 512] if at == 0 and mark.startswith(b"<") else data[at : at + len(mark)] == mark:
            raise Broken(f"is {what}. {advice}")
    raise Broken("is no picture. Give a PNG, JPEG, WebP, GIF, BMP or TIFF file")


def _cut_off() -> Broken:
    return Broken("is cut off: its end is missing. Save or download it again")


def _png(data: bytes) -> tuple[int, int]:
    width, height = struct.unpack_from(">II", data, 16)
    position, pixels = 8, False
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        pixels = pixels or kind == b"IDAT"
        position += 12 + length
        if kind == b"IEND" and pixels and position <= len(data):
            return width, height
    raise _cut_off()


def _jpeg(data: bytes) -> tuple[int, int]:
    position, turned, size = 2, False, None
    while data[position] == 0xFF:
        kind = data[position + 1]
        if kind == 0xFF:  # a filling byte
            position += 1
            continue
        (length,) = struct.unpack_from(">H", data, position + 2)
        if kind == 0xE1 and data[position + 4 : position + 10] == b"Exif\0\0":
            turned = _orientation(data[position + 10 : position + 2 + length]) in TURNED
        elif 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):  # start of frame
            height, width = struct.unpack_from(">HH", data, position + 5)
            size = (height, width) if turned else (width, height)
        elif kind == 0xDA:  # the pixels; the end of the picture is the last mark of its kind
            if size is None or data.rfind(b"\xff\xd9") <= position:
                raise _cut_off()
            return size
        position += 2 + length
    raise Broken("is a damaged JPEG. Save or download it again")


def _orientation(tiff: bytes) -> int:
    """The orientation (1 to 8) in EXIF data; 1 when there is none."""
    try:
        order = {b"II": "<", b"MM": ">"}[tiff[:2]]
        (start,) = struct.unpack_from(order + "I", tiff, 4)
        (count,) = struct.unpack_from(order + "H", tiff, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, _kind, _count, value = struct.unpack_from(order + "HHIH", tiff, entry)
            if tag == 0x0112:
                return value
    except (KeyError, struct.error):
        pass
    return 1


def _webp(data: bytes) -> tuple[int, int]:
    if struct.unpack_from("<I", data, 4)[0] + 8 > len(data) + 1:
        raise _cut_off()
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack_from("<HH", data, 26)
    return width & 0x3FFF, height & 0x3FFF


def _gif(data: bytes) -> tuple[int, int]:
    if not data.rstrip(b"\0\r\n ").endswith(b"\x3b"):
        raise _cut_off()
    return struct.unpack_from("<HH", data, 6)


def _bmp(data: bytes) -> tuple[int, int]:
    (pixels,) = struct.unpack_from("<I", data, 10)
    width, height = struct.unpack_from("<ii", data, 18)
    bits, packing = struct.unpack_from("<HI", data, 28)
    rows = (width * bits + 31) // 32 * 4 * abs(height) if packing == 0 else 1
    if len(data) < pixels + rows:
        raise _cut_off()
    return width, abs(height)


def _psd(data: bytes) -> tuple[int, int]:
    height, width = struct.unpack_from(">II", data, 14)
    return width, height


def _unread(_data: bytes) -> None:
    return None


KINDS: tuple[tuple[bytes, int, Callable[[bytes], tuple[int, int] | None]], ...] = (
    (b"\x89PNG\r\n\x1a\n", 0, _png),
    (b"\xff\xd8\xff", 0, _jpeg),
    (b"WEBP", 8, _webp),
    (b"GIF8", 0, _gif),
    (b"BM", 0, _bmp),
    (b"8BPS", 0, _psd),
    (b"II*\0", 0, _unread),
    (b"MM\0*", 0, _unread),
    (b"ftypavif", 4, _unread),
)

_SAVE = "Open it in your paint program and save it as PNG"
OTHERS = (
    (b"ftyphei", 4, "a HEIC photograph, which ComfyUI cannot read", "Save it as JPEG or PNG"),
    (b"ftyphev", 4, "a HEIC photograph, which ComfyUI cannot read", "Save it as JPEG or PNG"),
    (b"ftypmif1", 4, "a HEIC photograph, which ComfyUI cannot read", "Save it as JPEG or PNG"),
    (b"<svg", 0, "an SVG drawing, which has no pixels", "Export it as PNG, 1000 pixels or larger"),
    (b"<?xml", 0, "an XML file (an SVG drawing?), which has no pixels", "Export it as PNG, 1000 pixels or larger"),
    (b"<html", 0, "a web page, not the picture", "Save the picture itself"),
    (b"<!DOCTYPE", 0, "a web page, not the picture", "Save the picture itself"),
    (b"%PDF", 0, "a PDF document", "Export the page as PNG"),
    (b"CSFCHUNK", 0, "a CLIP STUDIO PAINT document", _SAVE),
    (b"PK\x03\x04", 0, "an archive (Krita, OpenRaster or zip)", _SAVE),
    (b"gimp xcf", 0, "a GIMP document", _SAVE),
    (b"version https://git-lfs", 0, "only a pointer to a picture in git LFS", "Run: git lfs pull"),
)
