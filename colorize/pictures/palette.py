"""Palettes: named colours with the share of the picture they cover; as text, as .json and as GIMP's .gpl."""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from . import oklab
from .palette_extraction import main_colours

MOST_ENTRIES = 256
HUES = (  # OKLab angles in degrees
    *((12, "pink"), (42, "red"), (72, "orange"), (95, "gold"), (118, "yellow"), (135, "lime"), (165, "green")),
    *((212, "teal"), (245, "sky blue"), (285, "blue"), (322, "purple"), (361, "pink")),
)
LINE = re.compile(r"^(#[0-9a-fA-F]{6})(?:\s+(.*?))?(?:\s+(\d{1,3}(?:\.\d*)?)\s*%)?$")
MOST_COLOURS = 4096


class PaletteError(ValueError):
    """A palette that cannot be used; the text says what to do."""


@dataclass(frozen=True)
class Entry:
    """One colour."""

    name: str
    colour: str
    """"#rrggbb", sRGB"""
    share: float = 0.0
    """of the reference's area, 0..1"""


@dataclass(frozen=True)
class Palette:
    """PALETTE: the colours of a character or a shot, the most common first."""

    entries: tuple[Entry, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.entries) <= MOST_ENTRIES:
            raise PaletteError(f"A palette has 1 to {MOST_ENTRIES} colours, not {len(self.entries)}.")

    @property
    def srgb(self) -> np.ndarray:
        """(k, 3) uint8."""
        return np.array([[int(entry.colour[i : i + 2], 16) for i in (1, 3, 5)] for entry in self.entries], np.uint8)

    @property
    def oklab(self) -> np.ndarray:
        """(k, 3) float32."""
        return oklab.from_srgb(self.srgb.astype(np.float32) / 255)

    @property
    def shares(self) -> np.ndarray:
        """(k,) share of every colour, 0..1; equal where none is known."""
        shares = np.array([entry.share for entry in self.entries], np.float32)
        return shares if shares.sum() > 0 else np.full(len(shares), 1 / len(shares), np.float32)


def palette_of(picture: np.ndarray, mask: np.ndarray | None = None, count: int | None = None) -> Palette:
    """The main colours of a picture (H, W, 3) sRGB 0..1; mask (H, W), 1 = counted; count None = as many as there are.

    Shades are folded into the colour they lie on (see palette_extraction.py).
    """
    if count is not None and not 1 <= count <= MOST_ENTRIES:
        raise PaletteError(f"A palette of {count} colours was asked for; choose 1 to {MOST_ENTRIES}, or automatic.")
    return named(*main_colours(picture, mask, count))


def named(colours: np.ndarray, shares: np.ndarray) -> Palette:
    """Palette of OKLab colours (k, 3) and their shares; colours that are equal in 8 bits become one."""
    merged: dict[str, float] = {}
    for colour, share in zip(oklab.to_srgb(colours), shares):
        code = "#" + "".join(f"{round(float(value) * 255):02x}" for value in colour)
        merged[code] = merged.get(code, 0.0) + float(share)
    entries = []
    used: dict[str, int] = {}
    for code, share in sorted(merged.items(), key=lambda item: -item[1]):
        name = colour_name(code)
        used[name] = used.get(name, 0) + 1
        entries.append(Entry(name if used[name] == 1 else f"{name} {used[name]}", code, round(share, 4)))
    return Palette(tuple(entries))


def colour_name(code: str) -> str:
    """A plain name of "#rrggbb"."""
    lab = oklab.from_srgb(np.array([int(code[i : i + 2], 16) for i in (1, 3, 5)], np.float32) / 255)
    light, chroma = float(lab[0]), float(np.hypot(lab[1], lab[2]))
    if chroma < 0.025:
        limits = ((0.25, "black"), (0.45, "dark grey"), (0.75, "grey"), (0.93, "light grey"), (2, "white"))
        return next(name for limit, name in limits if light < limit)
    angle = math.degrees(math.atan2(lab[2], lab[1])) % 360
    hue = next(name for limit, name in HUES if angle < limit)
    if hue in ("orange", "gold") and light < 0.6:
        return "dark brown" if light < 0.38 else "brown"
    depth = "dark " if light < 0.42 else "pale " if light > 0.82 and chroma < 0.1 else ""
    return depth + hue


# -- text and files ----------------------------------------------------------------------------------------------------


def to_text(palette: Palette) -> str:
    """One line per colour: "#rrggbb name 12.3%". `from_text` reads it back."""
    return "\n".join(f"{entry.colour} {entry.name} {100 * entry.share:.1f}%" for entry in palette.entries)


def from_text(text: str) -> Palette:
    """Palette of lines "#rrggbb", "#rrggbb name" or "#rrggbb name 12.3%"; empty lines and lines with ; are skipped."""
    entries = []
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith(";"):
            continue
        found = LINE.match(line)
        if not found:
            raise PaletteError(f"Line {number} of the palette is {line!r}; write #rrggbb, and a name after it.")
        code, name, share = found[1].lower(), found[2] or "", float(found[3] or 0) / 100
        entries.append(Entry(name or colour_name(code), code, share))
    if not entries:
        raise PaletteError("The palette has no colours; write one line per colour, for example: #f6d5c3 skin")
    return _checked(entries)


def _checked(entries: list[Entry]) -> Palette:
    """The palette of these entries, which may be a stranger's: no more than can be used, shares that are numbers."""
    if len(entries) > MOST_COLOURS:
        raise PaletteError(f"The palette has {len(entries)} colours; at most {MOST_COLOURS} can be told apart.")
    for entry in entries:
        if not 0 <= entry.share <= 1:
            raise PaletteError(f"The share of {entry.colour} in the palette is {entry.share}; it lies between 0 and 1.")
    named = ("".join(letter for letter in entry.name if letter.isprintable())[:100] for entry in entries)
    return Palette(tuple(replace(entry, name=name or entry.colour) for entry, name in zip(entries, named)))


def save(palette: Palette, path: str | Path) -> None:
    """Write .json (all of it) or .gpl (GIMP, Krita, Inkscape: colours and names), by the ending."""
    path = Path(path)
    if path.suffix == ".json":
        text = json.dumps({"palette": [asdict(entry) for entry in palette.entries]}, indent=1, ensure_ascii=False)
    elif path.suffix == ".gpl":
        rows = ["GIMP Palette", f"Name: {path.stem}", "Columns: 4", "#"]
        for (red, green, blue), entry in zip(palette.srgb.tolist(), palette.entries):
            rows.append(f"{red:3d} {green:3d} {blue:3d}\t{entry.name}")
        text = "\n".join(rows) + "\n"
    else:
        raise PaletteError(f"{path.name} ends in {path.suffix or 'nothing'}; palettes are saved as .json or .gpl.")
    path.write_text(text, encoding="utf-8")


def load(path: str | Path) -> Palette:
    """Read a .json or .gpl palette."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PaletteError(f"The palette {path.name} cannot be read ({error}); give a .json or .gpl file.") from None
    if path.suffix == ".gpl":
        return _from_gpl(text, path.name)
    try:
        rows = json.loads(text)["palette"]
        entries = [Entry(str(row["name"]), str(row["colour"]).lower(), float(row.get("share", 0))) for row in rows]
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        raise PaletteError(
            f'{path.name} is no palette: expected {{"palette": [{{"name": ..., "colour": "#rrggbb"}}, ...]}}. Save one '
            "with Palette from Reference to see the form."
        ) from None
    from_text("\n".join(entry.colour for entry in entries))  # says which colour is none
    return _checked(entries)


def _from_gpl(text: str, name: str) -> Palette:
    lines = text.splitlines()
    if not lines or lines[0].strip() != "GIMP Palette":
        raise PaletteError(f"{name} is no GIMP palette: its first line has to be 'GIMP Palette'.")
    entries = []
    for line in lines[1:]:
        found = re.match(r"^\s*(\d{1,3})\s+(\d{1,3})\s+(\d{1,3})\b\s*(.*)$", line)
        if found and all(int(value) < 256 for value in found.groups()[:3]):
            code = "#{:02x}{:02x}{:02x}".format(*(int(value) for value in found.groups()[:3]))
            entries.append(Entry(found[4].strip() or colour_name(code), code))
    if not entries:
        raise PaletteError(f"{name} has no colours; a line of a GIMP palette is '246 213 195 skin'.")
    return _checked(entries)
