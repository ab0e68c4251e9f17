"""Training pictures in plain folders: color/, sketch/ and, where references are files of their own, reference/.

A sketch file has black lines on white, as artists hand them in; the tensors this module gives keep that polarity.
The order of the pictures is a pure function of (seed, position), so a resumed run sees what an unbroken one would.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from trainer.config import ConfigError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


@dataclass(frozen=True)
class Item:
    """One training picture: files that share a stem, and the group it belongs to."""

    stem: str
    color: Path
    sketch: Path
    reference: Path | None
    regions: Path | None
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


def _tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


class FolderDataset(torch.utils.data.Dataset):
    """Indexed by position in the endless stream of the run, not by file: `dataset[position]`.

    Gives those uint8 tensors that `needs` names: color (3, S, S), sketch (1, S, S) black on white, reference (3, S, S),
    regions (labels, 1, S, S); and index and reference_index, numbers of the picture and its reference in the folder.
    """

    def __init__(
        self,
        folder: str,
        size: int,
        reference: str = "folder",
        seed: int = 0,
        cache: bool = False,
        needs: Sequence[str] = ("color", "sketch", "reference"),
    ):
        self.size, self.reference, self.seed, self.needs = size, reference, seed, tuple(needs)
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
        colors, sketches, references, regions = (_files(root / n) for n in ("color", "sketch", "reference", "regions"))
        for folder, missing in (
            ("sketch", colors.keys() - sketches.keys()),
            ("color", sketches.keys() - colors.keys()),
        ):
            if missing:
                self.problems.append(
                    f"{len(missing)} pictures have no file in {folder}/, e.g. {min(missing)}; they are left out"
                )
        stems = sorted(colors.keys() & sketches.keys())
        if self.reference == "folder":
            if missing := [s for s in stems if s not in references]:
                self.problems.append(
                    f"{len(missing)} pictures have no file in reference/, e.g. {missing[0]}; they are left out"
                )
            stems = [s for s in stems if s in references]
        if "regions" in self.needs and (missing := [s for s in stems if s not in regions]):
            raise ConfigError(
                f"{len(missing)} pictures have no label map in {root / 'regions'}, e.g. {missing[0]}; "
                "this stage trains on data of `python -m trainer demo-data`."
            )
        if not stems:
            raise ConfigError(
                f"{root} holds no usable pictures: color/ {len(colors)}, sketch/ {len(sketches)}, "
                f"reference/ {len(references)} files; files of one picture share their name."
            )
        return [
            Item(s, colors[s], sketches[s], references.get(s), regions.get(s), s.rpartition("_")[0] or s) for s in stems
        ]

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
        if kind == "regions":
            with Image.open(path) as labels:
                return torch.from_numpy(np.array(cover(labels, self.size, place, Image.Resampling.NEAREST)))[None]
        image = read_rgb(path)
        if kind == "reference":  # squashed, as the reference encoder will see it
            return _tensor(image.resize((self.size, self.size), Image.Resampling.LANCZOS))
        tensor = _tensor(cover(image, self.size, place))
        return tensor.float().mean(0, keepdim=True).round().to(torch.uint8) if kind == "sketch" else tensor

    def __getitem__(self, position: int) -> dict[str, torch.Tensor | int]:
        index = self.index_at(position)
        item = self.items[index]
        random = np.random.default_rng((self.seed, position))
        place = (0.5, 0.5) if self._kept is not None else tuple(random.random(2))
        reference, reference_index = item.reference or item.color, index
        if self.reference == "group" and len(members := self.groups[item.group]) > 1:
            others = [m for m in members if m != index]
            reference_index = others[random.integers(len(others))]
            reference = self.items[reference_index].color
        elif self.reference == "self":
            reference = item.color
        files = {"color": item.color, "sketch": item.sketch, "reference": reference, "regions": item.regions}
        batch: dict[str, torch.Tensor | int] = {kind: self._read(files[kind], kind, place) for kind in self.needs}
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
