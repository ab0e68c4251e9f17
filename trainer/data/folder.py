"""Training pictures in plain folders: color/, sketch/ and, where references are files of their own, reference/.

Figure masks (white figure on black, grey PNGs) lie in mask/, those of references in reference_mask/.
A sketch file has black lines on white, as artists hand them in; the tensors this module gives keep that polarity.
The order of the pictures is a pure function of (seed, position), so a resumed run sees what an unbroken one would.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from trainer.config import ConfigError
from trainer.data import deform

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


# Parts of a sample that show the reference, and the part of the chosen picture they are in group and self references.
REFERENCE_PARTS = {"reference": "color", "reference_mask": "mask", "reference_regions": "regions"}
LABEL_PARTS = ("regions", "reference_regions")


@dataclass(frozen=True)
class Item:
    """One training picture: files that share a stem, by part, and the group it belongs to."""

    stem: str
    files: Mapping[str, Path]
    group: str


def _files(folder: Path) -> dict[str, Path]:
    return {p.stem: p for p in sorted(folder.glob("*")) if p.suffix.lower() in SUFFIXES} if folder.is_dir() else {}


def read_rgb(path: Path) -> Image.Image:
    """A picture as RGB; transparent parts become white."""
    with Image.open(path) as image:
        if image.mode in ("RGBA", "LA", "P"):
            image = image.convert("RGBA")
            return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
        return image.convert("RGB")


def cover(
    image: Image.Image,
    size: int,
    place: tuple[float, float] = (0.5, 0.5),
    resample: Image.Resampling = Image.Resampling.LANCZOS,
) -> Image.Image:
    """Resize so that the shorter side is `size`, then cut a square at `place` (0..1 along x and y)."""
    scale = size / min(image.size)
    if scale != 1:
        width, height = (max(size, round(side * scale)) for side in image.size)
        image = image.resize((width, height), resample)
    left, top = (round((side - size) * p) for side, p in zip(image.size, place, strict=True))
    return image.crop((left, top, left + size, top + size))


class FolderDataset(torch.utils.data.Dataset):
    """Indexed by position in the endless stream of the run, not by file: `dataset[position]`.

    Gives those uint8 tensors that `needs` names: color (3, S, S), sketch (1, S, S) black on white, reference (3, S, S),
    mask and reference_mask (1, S, S) 255 = figure, regions and reference_regions (labels, 1, S, S); and index and
    reference_index, numbers of the picture and its reference in the folder. `bend` 0..1 bends references (deform.py).
    """

    def __init__(
        self,
        folder: str,
        size: int,
        reference: str = "folder",
        seed: int = 0,
        cache: bool = False,
        needs: Sequence[str] = ("color", "sketch", "reference"),
        bend: float = 0.0,
    ):
        self.size, self.reference, self.seed, self.needs, self.bend = size, reference, seed, tuple(needs), bend
        self.problems: list[str] = []
        self.items = self._scan(Path(folder))
        self._kept: dict[tuple[Path, str], torch.Tensor] | None = {} if cache else None
        self._order: tuple[int, torch.Tensor] | None = None
        groups = defaultdict(list)
        for index, item in enumerate(self.items):
            groups[item.group].append(index)
        self.groups = dict(groups)
        if reference == "group" and (alone := [g for g, members in self.groups.items() if len(members) < 2]):
            self.problems.append(
                f"{len(alone)} groups hold one picture only and use it as its own reference, e.g. {alone[0]}"
            )

    def _scan(self, root: Path) -> list[Item]:
        if not root.is_dir():
            raise ConfigError(
                f"data.folder {str(root)!r} does not exist; `python -m trainer demo-data --output {root}` makes one."
            )
        parts = dict.fromkeys(["color", "sketch", *(["reference"] if self.reference == "folder" else [])])
        parts |= dict.fromkeys(self._source(part) for part in self.needs)
        found = {part: _files(root / part) for part in parts}
        stems = set(found["color"] | found["sketch"])
        for part, files in found.items():
            missing = sorted(stems - files.keys())
            if missing and part in LABEL_PARTS:
                raise ConfigError(
                    f"{len(missing)} pictures have no label map in {root / part}, e.g. {missing[0]}; only data of "
                    "`python -m trainer demo-data` has them (the same command again adds what an older set lacks)."
                )
            if missing:
                self.problems.append(
                    f"{len(missing)} pictures have no file in {part}/, e.g. {missing[0]}; they are left out"
                )
            stems -= set(missing)
        if not stems:
            counts = ", ".join(f"{part}/ {len(files)}" for part, files in found.items())
            masks = (
                " A mask is white on the figure, black elsewhere; the demo-data command adds those of its own sets."
                if not all(files for part, files in found.items() if part.endswith("mask"))
                else ""
            )
            raise ConfigError(
                f"{root} holds no usable pictures: {counts} files; files of one picture share their name.{masks}"
            )
        return [
            Item(s, {part: files[s] for part, files in found.items()}, s.rpartition("_")[0] or s) for s in sorted(stems)
        ]

    def _source(self, part: str) -> str:
        """The folder a part is read from: references that are pictures of the set have no folders of their own."""
        return part if self.reference == "folder" else REFERENCE_PARTS.get(part, part)

    def __len__(self) -> int:
        return len(self.items)

    def index_at(self, position: int) -> int:
        """Which picture stands at `position`: every epoch is a new permutation of the folder."""
        epoch, place = divmod(position, len(self.items))
        if self._order is None or self._order[0] != epoch:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            self._order = (epoch, torch.randperm(len(self.items), generator=generator))
        return int(self._order[1][place])

    def _read(self, path: Path, kind: str, place: tuple[float, float]) -> torch.Tensor:
        if self._kept is not None and (path, kind) in self._kept:
            return self._kept[path, kind]
        try:
            tensor = self._decode(path, kind, place)
        except OSError as error:
            raise RuntimeError(
                f"{path} cannot be read ({error}); repair or remove it, then start the run again."
            ) from None
        if self._kept is not None:
            self._kept[path, kind] = tensor
        return tensor

    def _decode(self, path: Path, kind: str, place: tuple[float, float]) -> torch.Tensor:
        resample = Image.Resampling.LANCZOS
        if kind in LABEL_PARTS or kind.endswith("mask"):
            labels = kind in LABEL_PARTS
            resample = Image.Resampling.NEAREST if labels else Image.Resampling.BILINEAR
            with Image.open(path) as image:
                image = image.copy() if labels else image.convert("L")
        else:
            image = read_rgb(path)
        if kind in REFERENCE_PARTS:  # squashed, as the reference encoder will see it
            image = image.resize((self.size, self.size), resample)
        else:
            image = cover(image, self.size, place, resample)
        if image.mode != "RGB":
            return torch.from_numpy(np.array(image))[None]
        tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        return tensor.float().mean(0, keepdim=True).round().to(torch.uint8) if kind == "sketch" else tensor

    def __getitem__(self, position: int) -> dict[str, torch.Tensor | int]:
        index = self.index_at(position)
        item = self.items[index]
        random = np.random.default_rng((self.seed, position))
        place = (0.5, 0.5) if self._kept is not None else tuple(random.random(2))
        reference_index = index
        if self.reference == "group" and len(members := self.groups[item.group]) > 1:
            others = [m for m in members if m != index]
            reference_index = others[random.integers(len(others))]
        shown = self.items[reference_index]
        batch: dict[str, torch.Tensor | int] = {}
        for kind in self.needs:
            files = shown.files if kind in REFERENCE_PARTS else item.files
            batch[kind] = self._read(files[self._source(kind)], kind, place)
        if self.bend:
            grid = deform.sampling_grid(deform.draw_moves(random, self.bend), self.size, self.size)
            for kind in REFERENCE_PARTS.keys() & batch.keys():
                fill = 255 if kind == "reference" else 0
                batch[kind] = deform.bend(batch[kind], grid, fill, nearest=kind in LABEL_PARTS)
        batch |= {"index": index, "reference_index": reference_index}
        return batch


class PositionSampler(torch.utils.data.Sampler):
    """Batches of positions from `start` micro steps on, to `stop`; each process takes its own share of every batch."""

    def __init__(self, start: int, stop: int, batch: int, rank: int = 0, processes: int = 1):
        self.steps, self.batch, self.rank, self.processes = range(start, stop), batch, rank, processes

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self):
        for step in self.steps:
            first = (step * self.processes + self.rank) * self.batch
            yield list(range(first, first + self.batch))
