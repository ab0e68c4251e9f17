"""A folder of drawings in the colours of one key or more, from files to files, with a few frames in memory at a time.

quickstart runs `main` with an environment's Python. Its job is a JSON file:
    keys     [{"frame": NUMBER, "file": FILE}, ...]  coloured keys, and which of the drawings each colours
    hints    the same: corrections, dots of colour on transparent pictures over drawings
    frames   [{"sketch": FILE, "picture": FILE, "target": FILE}, ...]  every drawing, the model's picture of it, and
             where to write the new one; with "layers": FILE a layered document, too
    work     a folder that belongs to the job: what is found out is kept there, so the same job goes on after a stop
    sheet    FILE: all frames at a glance
    palette  FILE, may be missing: further colours of the shot
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from ..pictures import artist_lines, images, palette
from ..pictures.flatten import ONE_COLOUR, Flats
from ..pictures.hints import Hints, fixed_entries
from ..pictures.layer_files import save_layers
from ..pictures.layers import composite, stack
from ..pictures.palette import Palette
from ..pictures.regions import RegionMap, find_regions
from ..pictures.shade import shade
from .carrying import GIVEN, STEPS, Carrier, known, outwards, together, weighed
from .contact_sheet import ContactSheet
from .matching import match
from .review import Unsure, flicker_map, unsure_regions
from .shapes import Shapes, shapes_of
from .shot_flats import joined, key_flats, settled, with_hints
from .spool import Spool, whole
from .strangers import BACK, Strangers

SHADOW_TONES = 1  # of layered documents


@dataclass(frozen=True)
class Progress:
    """A step of the work was done."""

    done: int
    of: int


@dataclass(frozen=True)
class Written:
    """A frame's picture is there."""

    frame: int
    unsure: list[Unsure]
    flicker: float
    """share of the picture that changed its colour though its pieces match"""


def comfy_picture(file: Path) -> torch.Tensor:
    """(1, H, W, 3 or 4) in 0..1 of a picture file, turned as ComfyUI's Load Image turns it, which made the model's
    pictures; four channels where it has transparency."""
    with Image.open(file) as image:
        clear = "A" in image.getbands() or "transparency" in image.info
        levels = np.array(ImageOps.exif_transpose(image).convert("RGBA" if clear else "RGB"))
    return torch.from_numpy(levels).float()[None] / 255


def _colours(file: Path) -> np.ndarray:
    picture = comfy_picture(file)
    return images.on_white(*images.rgb_and_alpha(picture))[0].movedim(0, -1).numpy()


class FolderShot:
    """One job, see the module's text."""

    def __init__(self, job: dict[str, Any]):
        self._frames: list[dict[str, str]] = job["frames"]
        self._spool = Spool(Path(job["work"]))
        self._sheet = Path(job["sheet"])
        self._keys, self._certain = dict[int, np.ndarray](), set[int]()
        self._palette: Palette | None = None
        self._more = palette.load(job["palette"]) if job.get("palette") else None
        for row in job["keys"]:
            self._add_key(int(row["frame"]), Path(row["file"]))
        for row in job.get("hints", ()):
            self._add_hints(int(row["frame"]), Path(row["file"]))

    @property
    def palette(self) -> Palette:
        """The colours of the shot."""
        if self._palette is None:
            raise ValueError("The shot has no key; name at least one.")
        return self._palette

    def _add_key(self, frame: int, file: Path) -> None:
        painted = key_flats(self.regions(frame), _colours(file), None if self._palette else self._more)
        if self._palette is None:
            self._palette, self._keys[frame] = painted.palette, painted.entry
        else:
            self._palette, self._keys[frame] = joined(self._palette, painted)

    def _add_hints(self, frame: int, file: Path) -> None:
        colours, alpha = images.rgb_and_alpha(comfy_picture(file), name="hints")
        if alpha is None:
            raise ValueError(f"{file.name} is opaque everywhere: paint dots of colour on a transparent layer, as PNG.")
        hints = Hints(torch.cat([colours, alpha], dim=1)[0].movedim(0, -1).numpy())
        self._palette, fixed = fixed_entries(hints, self.regions(frame), self.palette, ONE_COLOUR)
        if fixed is not None:
            self._keys[frame] = with_hints(self._keys.get(frame), fixed)
            self._certain.add(frame)

    def drawing(self, frame: int) -> torch.Tensor:
        """Comfy picture of a drawing."""
        return comfy_picture(Path(self._frames[frame]["sketch"]))

    def regions(self, frame: int) -> RegionMap:
        """A drawing's regions, found once."""
        if not self._spool.has("regions", frame):
            self._spool.put_regions(frame, find_regions(self.drawing(frame)).maps[0])
        return self._spool.regions(frame)

    def work(self) -> Iterator[Progress | Written]:
        """Do everything that is left. Raises ValueError where a frame cannot be matched, and OSError for files."""
        steps = len(self._frames) * (len(self._keys) + 2) - len(self._keys)
        done = 0
        for stage in (self._carry(), self._settle()):
            for _ in stage:
                done += 1
                yield Progress(done, steps)
        for written in self._write():
            done += 1
            yield written
            yield Progress(done, steps)

    def _carry(self) -> Iterator[int]:
        """Walk away from every key, and keep what is believed of every frame."""
        for key, entry in self._keys.items():
            name, shapes, belief = f"walk{key}", self._shapes(key), known(entry, len(self.palette.entries))
            for direction in outwards(key, len(self._frames)):
                carrier = Carrier(shapes, belief)
                for place, frame in enumerate(direction):
                    if not self._spool.has(name, frame):
                        self._spool.put(name, frame, belief=carrier.next(self._shapes(frame)))
                    elif self._needed(name, direction[place + 1 : place + 1 + max(STEPS)]):
                        carrier.remember(self._shapes(frame), self._spool.get(name, frame)["belief"])
                    yield frame

    def _needed(self, name: str, following: range) -> bool:
        """Whether one of the following frames is still to be found out."""
        return not all(self._spool.has(name, frame) for frame in following)

    def _shapes(self, frame: int) -> Shapes:
        return shapes_of(self.regions(frame))

    def _belief(self, frame: int) -> np.ndarray:
        colours, found = len(self.palette.entries), []
        for key, entry in self._keys.items():
            if key == frame:
                found.append(GIVEN * known(entry, colours))
            else:
                found.append(weighed(self._spool.get(f"walk{key}", frame)["belief"], key in self._certain))
        return together(found)

    def _settle(self) -> Iterator[int]:
        """Which thing every piece is, and what the model says of it."""
        self._strangers = Strangers(len(self.palette.entries))
        everything = range(len(self._frames))
        for frame in everything:
            if self._spool.has("things", frame):
                had = self._spool.get("things", frame)
                if self._needed("things", everything[frame + 1 : frame + 1 + max(BACK)]):
                    self._strangers.remember(self._shapes(frame), had["things"])
            else:
                regions, belief = self.regions(frame), self._belief(frame)
                flats, sure = settled(regions, _colours(Path(self._frames[frame]["picture"])), self.palette, belief)
                things = self._strangers.next(shapes_of(regions), belief, regions.region_of)
                had = {"things": things, "entry": flats.entry, "sure": sure, "areas": regions.areas}
                self._spool.put("things", frame, **had)
            self._strangers.vote(had["things"], had["entry"], had["areas"])
            yield frame

    def _write(self) -> Iterator[Written]:
        """Write what is not there yet, and the sheet."""
        sheet: ContactSheet | None = None
        before: tuple[Shapes, Flats] | None = None
        for number, frame in enumerate(self._frames):
            had, regions = self._spool.get("things", number), self.regions(number)
            flats = Flats(regions, self.palette, self._strangers.entries(had["things"]))
            shapes = shapes_of(regions)
            flicker = np.zeros(regions.pieces.shape, np.float32)
            if before is not None:
                flicker = flicker_map(before[1], flats, match(before[0], shapes))
            unsure = unsure_regions(flats, had["sure"], number, had["things"])
            shown = self._picture(number, flats)
            sheet = sheet or ContactSheet(len(self._frames), *regions.pieces.shape)
            open_ = (~had["sure"]).astype(np.float32)[regions.pieces]
            sheet.add(number, Path(frame["sketch"]).stem, shown, open_, flicker, unsure)
            before = shapes, flats
            yield Written(number, unsure, round(float((flicker > 0).mean()), 6))
        if sheet is not None:
            _save(sheet.picture, self._sheet)

    def _picture(self, number: int, flats: Flats) -> np.ndarray:
        """(H, W, 3) uint8: the flats under the drawing's lines, which are written where that was not done."""
        frame = self._frames[number]
        lines = artist_lines.line_layer(self.drawing(number), None, "auto")[0].movedim(0, -1).numpy()
        shown = composite(stack(flats, lines))[..., :3]
        if not Path(frame["target"]).is_file():
            _save(shown, Path(frame["target"]))
        if frame.get("layers") and not Path(frame["layers"]).is_file():
            tones = shade(flats, _colours(Path(frame["picture"])), SHADOW_TONES)
            save_layers(stack(flats, lines, tones, "palette colours"), frame["layers"])
        return shown


def _save(picture: np.ndarray, target: Path) -> None:
    """Write a PNG; its name appears when the file is whole."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with whole(target) as part:
        Image.fromarray(picture).save(part, format="PNG")


def main(job_file: str, told_file: str) -> None:
    """Do a job; what is done is told in a file, a JSON line each."""
    job = json.loads(Path(job_file).read_text(encoding="utf-8"))
    with open(told_file, "w", encoding="utf-8") as told:
        for event in FolderShot(job).work():
            told.write(json.dumps(asdict(event)) + "\n")
            told.flush()
