"""Training pictures in plain folders or zip shards (layouts: sources.py), with or without an index file (index.py).

Figure masks (white figure on black, grey PNGs) lie in mask/, those of references in reference_mask/.
A sketch file has black lines on white, as artists hand them in; the tensors this module gives keep that polarity.
What stands at a position of the run is a pure function of (seed, position), so a resumed run sees what an unbroken one
would. A picture that cannot be read is replaced by another one, counted and listed; it does not end a run.
"""

from __future__ import annotations

import copy
import hashlib
import io
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from trainer.config import Augment
from trainer.data import buckets, decode, deform, index
from trainer.data.augment import border, lines, masks
from trainer.data.decoded import DecodedStore
from trainer.data.listing import LABEL_PARTS, Groups, Items, group_problems, list_pictures
from trainer.data.reading import REFERENCE_PARTS, resized
from trainer.data.sources import Unreadable, open_source, sketch_styles

log = logging.getLogger("trainer")

# Parts that show the reference of another picture, for losses that compare references.
OTHER_PARTS = {"other_reference": "reference", "other_reference_mask": "reference_mask"}
VALUES = ("score", "size", "crop")
"""What a stage may need besides pictures, float32: aesthetic score (); height and width of the file and shorter side of
the canvas (3,); top, left, height and width of the cut as fractions of the resized picture (4,)."""
REPLACEMENTS = 32
"""Other pictures that are tried in place of one that cannot be read."""


class FolderDataset(torch.utils.data.Dataset):
    """Indexed by position in the endless stream of the run, not by file: `dataset[position]`.

    Gives those uint8 tensors that `needs` names: color (3, H, W), sketch (1, H, W) black on white ((3, H, W) where
    augment.sketch_trace is not 0), reference (3, S, S), mask (1, H, W) and reference_mask (1, S, S) 255 = figure,
    regions and reference_regions (labels, likewise); the numbers of VALUES it names; and index and reference_index,
    numbers of the picture and its reference in the set. H and W are S, or with buckets those of the position's canvas.
    other_reference and other_reference_mask are those of a picture of another group, numbered by other_index.
    """

    picture_filter = decode.LANCZOS
    """How pictures are resized; masks are resized bilinearly, labels by the nearest."""
    centred = False
    """Cut the middle of every picture instead of a random place."""
    luma = False
    """A sketch in colours becomes grey by ITU-R 601 luma instead of the mean of its channels."""

    def __init__(
        self,
        folder: str,
        size: int,
        reference: str = "folder",
        seed: int = 0,
        cache: bool = False,  # keep decoded pictures in memory; they are cut in the middle
        needs: Sequence[str] = ("color", "sketch", "reference"),
        bend: float = 0.0,  # 0..1, bends references (deform.py)
        *,
        bend_kind: str = "tps",  # one of deform.KINDS
        index_files: Sequence[str] = (),
        min_score: float = 0.0,
        min_side: int = 0,
        styles: Sequence[str] = (),  # of sketches; empty takes all that are there
        bucket_step: int = 0,  # 0: squares
        bucket_ratio: float = 2.0,
        bucket_order: str = "balanced",  # or "released"
        bucket_sides: str = "sum",  # or "short"
        batch: int = 1,  # pictures of a batch over all processes, for buckets
        groups: str = "folders",  # or "names": see Data.groups
        augment: Augment | None = None,
        decoded_folder: str = "",
        cached: Any = None,  # trainer.cache's CachedParts: which encodings are there already
        unreadable: Path | None = None,  # file to which pictures that cannot be read are appended, one JSON per line
    ) -> None:
        self.size, self.reference, self.seed, self.bend, self.bend_kind = size, reference, seed, bend, bend_kind
        self.needs = tuple(need for need in needs if need not in VALUES and need not in OTHER_PARTS)
        self.others = tuple(need for need in needs if need in OTHER_PARTS)
        self.values = tuple(need for need in needs if need in VALUES)
        self.augment, self.unreadable = augment or Augment(), unreadable
        self.cached = cached
        self.centred = self.centred or cache or cached is not None
        root = Path(folder)
        self.source = open_source(root)
        self.styles = sketch_styles(root, styles) if "sketch" in self.needs else []
        measure = bool(bucket_step or self.values)
        listed, rows, self.problems = list_pictures(
            self.source, self._parts(), index_files, min_score, min_side, measure
        )
        self.items = Items(listed, rows, groups)
        self._groups: Groups | None = None
        self._numbers: tuple[np.ndarray, np.ndarray] | None = None
        if reference == "group":
            self.problems += group_problems(self.groups, self.items.names, groups)
        self.order = self._order(bucket_step, bucket_ratio, bucket_order, batch, bucket_sides)
        self._kept: dict[tuple, torch.Tensor] | None = {} if cache else None
        self._decoded = None
        if decoded_folder:
            what = f"{size} {bucket_step} {bucket_ratio} {self.picture_filter}".encode()
            what += b"" if bucket_sides == "sum" else bucket_sides.encode()
            files = self.source.fingerprint([f for folders in self._parts().values() for f in folders]).encode()
            state = hashlib.sha256(what + files + np.ascontiguousarray(listed["key"][rows]).tobytes()).hexdigest()
            self._decoded = DecodedStore(Path(decoded_folder) / state[:32], len(rows))
        self._warned: set[str] = set()

    # -- what there is -------------------------------------------------------------------------------------------------

    def _source_part(self, part: str) -> str:
        """The folder a part is read from: references that are pictures of the set have no folders of their own."""
        return part if self.reference == "folder" else REFERENCE_PARTS.get(part, part)

    def _parts(self) -> dict[str, list[str]]:
        """Every part a picture must have, with the folders that may hold it."""
        parts = dict.fromkeys(["color", *(["reference"] if self.reference == "folder" else [])])
        parts |= dict.fromkeys(self._source_part(part) for part in self.needs)
        return {part: self.styles if part == "sketch" else [part] for part in parts}

    def _order(self, step: int, ratio: float, order: str, batch: int, sides: str) -> buckets.Order:
        if not step:
            return buckets.PermutedOrder(len(self), (self.size, self.size), self.seed)
        width, height = (self.items.listed[name][self.items.rows] for name in ("width", "height"))
        if unknown := int(((width < 1) | (height < 1)).sum()):
            self.problems.append(f"{unknown} pictures are of unknown size and go to the square bucket")
        canvases = buckets.table(self.size, step, ratio, sides)
        if order == "released":
            width, height = (np.where(side < 1, self.size, side) for side in (width, height))
            return buckets.ReleasedOrder(width, height, canvases, batch, self.seed)
        return buckets.BucketOrder(buckets.nearest(width, height, canvases), canvases, batch, self.seed)

    def __len__(self) -> int:
        return len(self.items)

    @property
    def groups(self) -> Groups:
        """Which pictures are references of each other."""
        if self._groups is None:
            self._groups = Groups(self.items.groups[self.items.rows])
        return self._groups

    def index_at(self, position: int) -> int:
        """Which picture stands at `position`: every epoch is a new permutation."""
        return self.order.at(position).row

    def plain(self, squares: bool = False) -> FolderDataset:
        """The same pictures without augmentations, to keep encodings of; squares: and without buckets, to look at."""
        other = copy.copy(self)
        other.augment = Augment()
        if squares and not isinstance(self.order, buckets.PermutedOrder):
            other.order = buckets.PermutedOrder(len(self), (self.size, self.size), self.seed)
            other._decoded = other._kept = None  # they hold pictures of the buckets' sizes
        return other

    def number_of(self, path: str) -> int | None:
        """The number of the picture with this path; None when the set does not have it."""
        if self._numbers is None:
            hashes = self.items.listed["key"][self.items.rows]
            order = np.argsort(hashes).astype(np.int32)
            self._numbers = hashes[order], order
        hashes, order = self._numbers
        wanted = np.uint64(index.hash64(index.item_key(path)))
        place = int(np.searchsorted(hashes, wanted))
        return int(order[place]) if place < len(hashes) and hashes[place] == wanted else None

    def whole(self) -> FolderDataset:
        """The same samples with all their pixels, also where the encodings are in the cache: to be looked at."""
        dataset = copy.copy(self)
        if dataset.cached is not None:
            dataset.cached = dataset.cached.whole()
        return dataset

    # -- one sample ----------------------------------------------------------------------------------------------------

    def __getitem__(self, position: int) -> dict[str, torch.Tensor | int]:
        spot = self.order.at(position)
        number = spot.row
        for attempt in range(REPLACEMENTS + 1):
            try:
                return self._sample(position, number, spot.canvas)
            except Unreadable as error:
                self._note(position, error)
                last = error
                number = self.order.another(spot, np.random.default_rng((self.seed, position, attempt + 1)))
        raise RuntimeError(
            f"{last}, nor could {REPLACEMENTS} others; repair or remove them, then start the run again "
            "(`python -m trainer doctor` lists what is damaged)."
        )

    def _note(self, position: int, error: Unreadable) -> None:
        """Say and list a file that cannot be read, once per process."""
        if error.file in self._warned:
            return
        self._warned.add(error.file)
        log.warning("data: %s; another picture takes its place", error)
        if self.unreadable is not None:
            line = json.dumps({"file": error.file, "reason": error.reason, "position": position})
            with self.unreadable.open("a", encoding="utf-8") as file:
                file.write(line + "\n")

    def _sample(self, position: int, number: int, canvas: buckets.Canvas) -> dict[str, torch.Tensor | int]:
        random = np.random.default_rng((self.seed, position))
        place = tuple(random.random(2))  # drawn in any case: what follows must not depend on whether there is a cache
        place = (0.5, 0.5) if self.centred else place
        shown = self._reference_of(number, random)
        moves = deform.draw_moves(random, self.bend) if self.bend else None
        random = np.random.default_rng((self.seed, position, 0))  # apart: what is added here moves nothing above
        augment = self.augment
        zoom = 1 + (augment.zoom - 1) * random.random()
        flips = (random.random(2) < augment.flip).tolist()
        style = self._style_of(number, random)

        batch: dict[str, torch.Tensor] = {}
        numbers = {kind: shown if kind in REFERENCE_PARTS else number for kind in self.needs}
        files = {kind: self._opener(kind, numbers[kind], style) for kind in self.needs}
        known: set[str] = set()
        if self.cached is not None:
            keys = {kind: self._key(kind, files[kind](), canvas, flips) for kind in self.needs}
            known = self.cached.encoded(keys) - self.cached.pixels
            batch |= _key_rows(keys)
        for kind in self.needs:
            side = kind in REFERENCE_PARTS
            if kind in known:  # whoever asks for the encoding never looks at the pixels
                height, width = (self.size, self.size) if side else canvas
                batch[kind] = torch.zeros(3, height, width, dtype=torch.uint8)
                continue
            values = self._read(kind, numbers[kind], style, files[kind], canvas, place, zoom)
            batch[kind] = values.flip(-1) if flips[int(side)] else values
        if moves is not None:
            grid = deform.sampling_grid(moves, self.size, self.size, self.bend_kind)
            for kind in REFERENCE_PARTS.keys() & batch.keys():
                fill = 255 if kind == "reference" else 0
                batch[kind] = deform.bend(batch[kind], grid, fill, nearest=kind in LABEL_PARTS)
        self._change(batch, position)
        batch |= self._values(number, canvas, place, zoom, bool(flips[0]))
        whole: dict[str, torch.Tensor | int] = {**batch, "index": number, "reference_index": shown}
        return whole | self._other(position, number, canvas) if self.others else whole

    def _other(self, position: int, number: int, canvas: buckets.Canvas) -> dict[str, torch.Tensor | int]:
        """The parts of OTHER_PARTS that are needed, of a picture that was drawn from all other groups."""
        random = np.random.default_rng((self.seed, position, 0, 3))
        for _ in range(REPLACEMENTS):
            other = int(random.integers(len(self)))
            if other != number and (self.reference != "group" or other not in self.groups.members(number)):
                break
        shown = self._reference_of(other, random)
        batch: dict[str, torch.Tensor | int] = {"other_index": shown}
        for name in self.others:
            kind = OTHER_PARTS[name]
            opener = self._opener(kind, shown, "")
            if self.cached is not None and name == "other_reference":
                key = self._key(kind, opener(), canvas, (False, False))
                batch |= _key_rows({name: key})
                if kind in self.cached.encoded({kind: key}):
                    batch[name] = torch.zeros(3, self.size, self.size, dtype=torch.uint8)
                    continue
            batch[name] = self._read(kind, shown, "", opener, canvas, (0.5, 0.5), 1.0)
        return batch

    def _reference_of(self, number: int, random: np.random.Generator) -> int:
        if self.reference == "group" and len(members := self.groups.members(number)) > 1:
            others = members[members != number]
            return int(others[random.integers(len(others))])
        if self.reference == "listed":
            paths = self.items[number].extra.get("references", ())
            there = [found for path in paths if (found := self.number_of(path)) is not None]
            return there[random.integers(len(there))] if there else number
        return number

    def _style_of(self, number: int, random: np.random.Generator) -> str:
        """The folder of the sketch: one of those that have the picture."""
        draw = random.random()
        if len(self.styles) < 2:
            return self.styles[0] if self.styles else "sketch"
        key = self.items.names[number]
        there = [style for style in self.styles if self.source.holds(style, key)] or self.styles[:1]
        return there[int(draw * len(there))]

    def _opener(self, kind: str, number: int, style: str) -> Callable[[], BinaryIO]:
        """A function that opens a part's file. With a cache, which reads files to know them, it is read once."""
        part = style if kind == "sketch" else self._source_part(kind)
        name = self.items.names[number]
        kept: list[bytes] = []

        def open_file() -> BinaryIO:
            if self.cached is None:
                return self.source.open(part, name)
            if not kept:
                with self.source.open(part, name) as file:
                    kept.append(file.read())
            return io.BytesIO(kept[0])

        return open_file

    def _key(self, kind: str, file: BinaryIO, canvas: buckets.Canvas, flips: Sequence[bool]) -> bytes:
        """Key of a part in trainer.cache: its file's bytes, and what `_read` does to the pixels, in words."""
        from trainer.cache.recipes import part_key

        side = kind in REFERENCE_PARTS
        words = f"squash {self.size}" if side else f"cover {canvas[0]}x{canvas[1]} centre"
        words += (
            f" filter {int(self.picture_filter)}{' luma' if self.luma else ''}{' mirrored' if flips[int(side)] else ''}"
        )
        content = file.read()
        return part_key(content, kind, words + decode.turned(content))

    def _read(
        self,
        kind: str,
        number: int,
        style: str,
        opener: Callable[[], BinaryIO],
        canvas: buckets.Canvas,
        place: tuple[float, float],
        zoom: float,
    ) -> torch.Tensor:
        """One part of a sample, resized and cut, (C, H, W) uint8. Unreadable names the file that is damaged."""
        part = style if kind == "sketch" else kind
        if self._kept is not None and zoom == 1 and (number, part) in self._kept:
            return self._kept[number, part]
        store = self._decoded if zoom == 1 else None
        pixels = store.get(part, number) if store is not None else None
        if pixels is None:
            with opener() as file:
                try:
                    pixels = resized(file, kind, canvas, self.size, zoom, self.picture_filter, self.luma)
                except decode.PICTURE_ERRORS as error:
                    folder = style if kind == "sketch" else self._source_part(kind)
                    file_name = self.source.describe(folder, self.items.names[number])
                    raise Unreadable(file_name, decode.why(error)) from None
            if store is not None:
                store.put(part, number, pixels)
        if kind not in REFERENCE_PARTS:
            left, top = decode.corner(pixels.shape[1::-1], canvas, place)
            pixels = pixels[top : top + canvas[0], left : left + canvas[1]]
        tensor = torch.from_numpy(np.ascontiguousarray(pixels))
        tensor = tensor[None] if tensor.ndim == 2 else tensor.permute(2, 0, 1)
        if self._kept is not None and zoom == 1:
            self._kept[number, part] = tensor
        return tensor

    def _change(self, batch: dict[str, torch.Tensor], position: int) -> None:
        """Augmentations of what is there: the reference's mask, and the sketch. Each has random numbers of its own."""
        augment = self.augment
        if "reference_mask" in batch:
            rates = augment.mask_grow, augment.mask_erase, augment.mask_box, augment.mask_dilation
            random = np.random.default_rng((self.seed, position, 0, 1))
            batch["reference_mask"] = masks.change(batch["reference_mask"], random, *rates)
        if "sketch" in batch:
            random = np.random.default_rng((self.seed, position, 0, 2))
            if augment.sketch_border:
                batch["sketch"] = border.whiten_border(batch["sketch"], random, augment.sketch_border)
            batch["sketch"] = lines.restyle(batch["sketch"], random, augment.sketch_rates())

    def _values(
        self, number: int, canvas: buckets.Canvas, place: tuple[float, float], zoom: float, mirrored: bool
    ) -> dict[str, torch.Tensor]:
        """The entries of VALUES that are needed."""
        if not self.values:
            return {}
        item = self.items[number]
        width, height = item.size if min(item.size) > 0 else canvas[::-1]
        larger = decode.covering((width, height), canvas, zoom)
        left, top = decode.corner(larger, canvas, place)
        if mirrored:
            left = larger[0] - canvas[1] - left
        values = {
            "score": item.score,
            "size": (height, width, min(canvas)),
            "crop": decode.shown_part(larger, canvas, (left, top)),
        }
        return {name: torch.tensor(values[name], dtype=torch.float32) for name in self.values}


def _key_rows(keys: Mapping[str, bytes]) -> dict[str, torch.Tensor]:
    """Keys of parts as a batch carries them, (16,) uint8."""
    return {f"{part}_key": torch.frombuffer(bytearray(key), dtype=torch.uint8) for part, key in keys.items()}


class FaceDataset(FolderDataset):
    """Pictures for AnimeDiffusion, cut as its released loader does: the shorter side becomes `size` (Pillow's bilinear
    filter), then the middle square. No flips, no colour changes."""

    picture_filter = decode.BILINEAR
    centred = True
    luma = True
