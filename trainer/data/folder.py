"""Training pictures in plain folders or zip shards (layouts: sources.py), with or without an index file (index.py).

Figure masks (white figure on black, grey PNGs) lie in mask/, those of references in reference_mask/.
A sketch file has black lines on white, as artists hand them in; the tensors this module gives keep that polarity.
What stands at a position of the run is a pure function of (seed, position), so a resumed run sees what an unbroken one
would. A picture that cannot be read is replaced by another one, counted and listed; it does not end a run.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from trainer.cache.encodings import CachedParts
from trainer.config import Augment, Data
from trainer.data import buckets, decode, deform, index
from trainer.data.augment import border, lines, masks
from trainer.data.decoded import DecodedStore
from trainer.data.listing import LABEL_PARTS, Groups, Items, group_problems, list_pictures
from trainer.data.reading import REFERENCE_PARTS, PartReader, PictureReading, source_part
from trainer.data.sources import Unreadable, open_source, sketch_styles
from trainer.failures import Failure

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

    how = PictureReading()
    """How files become pixels; a kind of pictures that a released loader reads otherwise has its own."""

    def __init__(
        self,
        data: Data,
        needs: Sequence[str] = ("color", "sketch", "reference"),
        *,
        seed: int = 0,
        batch: int = 1,  # pictures of a batch over all processes, for buckets
        augment: Augment | None = None,
        cached: CachedParts | None = None,  # which encodings are there already
        unreadable: Path | None = None,  # file to which pictures that cannot be read are appended, one JSON per line
    ) -> None:
        self.data, self.seed = data, seed
        self.needs = tuple(need for need in needs if need not in VALUES and need not in OTHER_PARTS)
        self.others = tuple(need for need in needs if need in OTHER_PARTS)
        self.values = tuple(need for need in needs if need in VALUES)
        self.augment, self.cached, self.unreadable = augment or Augment(), cached, unreadable
        self.centred = self.how.centred or data.cache or cached is not None  # what is kept is cut in the middle
        root = Path(data.folder)
        self.source = open_source(root)
        self.styles = sketch_styles(root, data.sketch_styles) if "sketch" in self.needs else []
        parts, measure = self._parts(), bool(data.bucket_step or self.values)
        listed, rows, self.problems = list_pictures(
            self.source, parts, data.index, data.min_score, data.min_side, measure
        )
        self.items = Items(listed, rows, data.groups)
        self._groups: Groups | None = None
        self._numbers: tuple[np.ndarray, np.ndarray] | None = None
        if data.reference == "group":
            self.problems += group_problems(self.groups, self.items.names, data.groups)
        self.order = self._order(batch)
        self.reader = PartReader(self.source, self.items.names, data, self.how, self._store(parts))
        self._warned: set[str] = set()

    # -- what there is -------------------------------------------------------------------------------------------------

    def _parts(self) -> dict[str, list[str]]:
        """Every part a picture must have, with the folders that may hold it."""
        reference = self.data.reference
        parts = dict.fromkeys(["color", *(["reference"] if reference == "folder" else [])])
        parts |= dict.fromkeys(source_part(part, reference) for part in self.needs)
        return {part: self.styles if part == "sketch" else [part] for part in parts}

    def _order(self, batch: int) -> buckets.Order:
        data = self.data
        if not data.bucket_step:
            return self._squares()
        width, height = (self.items.listed[name][self.items.rows] for name in ("width", "height"))
        if unknown := int(((width < 1) | (height < 1)).sum()):
            self.problems.append(f"{unknown} pictures are of unknown size and go to the square bucket")
        canvases = buckets.table(data.size, data.bucket_step, data.bucket_ratio, data.bucket_sides)
        if data.bucket_order == "released":
            width, height = (np.where(side < 1, data.size, side) for side in (width, height))
            return buckets.ReleasedOrder(width, height, canvases, batch, self.seed)
        return buckets.BucketOrder(buckets.nearest(width, height, canvases), canvases, batch, self.seed)

    def _squares(self) -> buckets.PermutedOrder:
        return buckets.PermutedOrder(len(self), (self.data.size, self.data.size), self.seed)

    def _store(self, parts: Mapping[str, Sequence[str]]) -> DecodedStore | None:
        """The decoded pictures of this data set in this state, size and buckets."""
        data, items = self.data, self.items
        if not data.decoded_folder:
            return None
        what = f"{data.size} {data.bucket_step} {data.bucket_ratio} {self.how.picture_filter}".encode()
        what += b"" if data.bucket_sides == "sum" else data.bucket_sides.encode()
        files = self.source.fingerprint([f for folders in parts.values() for f in folders]).encode()
        state = hashlib.sha256(what + files + np.ascontiguousarray(items.listed["key"][items.rows]).tobytes())
        return DecodedStore(Path(data.decoded_folder) / state.hexdigest()[:32], len(items))

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
            other.order = self._squares()
            other.reader = self.reader.without_stores()  # they hold pictures of the buckets' sizes
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
        raise Failure(
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
        moves = deform.draw_moves(random, self.data.deform) if self.data.deform else None
        random = np.random.default_rng((self.seed, position, 0))  # apart: what is added here moves nothing above
        augment = self.augment
        zoom = 1 + (augment.zoom - 1) * random.random()
        flips = (random.random(2) < augment.flip).tolist()
        style = self._style_of(number, random)

        batch: dict[str, torch.Tensor] = {}
        numbers = {kind: shown if kind in REFERENCE_PARTS else number for kind in self.needs}
        files = {kind: self.reader.file(kind, numbers[kind], style) for kind in self.needs}
        known: set[str] = set()
        if self.cached is not None:
            keys = {kind: files[kind].key(canvas, flips[int(kind in REFERENCE_PARTS)]) for kind in self.needs}
            known = self.cached.encoded(keys) - self.cached.pixels
            batch |= _key_rows(keys)
        for kind in self.needs:
            side = kind in REFERENCE_PARTS
            if kind in known:  # whoever asks for the encoding never looks at the pixels
                height, width = (self.data.size, self.data.size) if side else canvas
                batch[kind] = torch.zeros(3, height, width, dtype=torch.uint8)
                continue
            values = self.reader.read(files[kind], canvas, place, zoom)
            batch[kind] = values.flip(-1) if flips[int(side)] else values
        if moves is not None:
            grid = deform.sampling_grid(moves, self.data.size, self.data.size, self.data.deform_kind)
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
            if other != number and (self.data.reference != "group" or other not in self.groups.members(number)):
                break
        shown = self._reference_of(other, random)
        batch: dict[str, torch.Tensor | int] = {"other_index": shown}
        for name in self.others:
            kind = OTHER_PARTS[name]
            file = self.reader.file(kind, shown)
            if self.cached is not None and name == "other_reference":
                key = file.key(canvas, mirrored=False)
                batch |= _key_rows({name: key})
                if kind in self.cached.encoded({kind: key}):
                    batch[name] = torch.zeros(3, self.data.size, self.data.size, dtype=torch.uint8)
                    continue
            batch[name] = self.reader.read(file, canvas)
        return batch

    def _reference_of(self, number: int, random: np.random.Generator) -> int:
        if self.data.reference == "group" and len(members := self.groups.members(number)) > 1:
            others = members[members != number]
            return int(others[random.integers(len(others))])
        if self.data.reference == "listed":
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

    how = PictureReading(decode.BILINEAR, centred=True, luma=True)


class SamplePairs(FolderDataset):
    """Pairs of a sketch and a reference to be looked at. Without color/ the sketch is also the picture beside them."""

    def __init__(self, data: Data, needs: Sequence[str]) -> None:
        self.painted = (Path(data.folder) / "color").is_dir()
        super().__init__(data, needs if self.painted else [need for need in needs if need != "color"])

    def _parts(self) -> dict[str, list[str]]:
        parts = super()._parts()
        return parts if self.painted else {**parts, "color": self.styles}

    def _sample(self, position: int, number: int, canvas: buckets.Canvas) -> dict[str, torch.Tensor | int]:
        batch = super()._sample(position, number, canvas)
        sketch = batch["sketch"]
        if not self.painted and isinstance(sketch, torch.Tensor):
            batch["color"] = sketch.expand(3, -1, -1).contiguous()
        return batch
