"""Runs a method over the pairs of a set: every setting on the same pairs, from the same noise, batch by batch.

A method is a colouriser (`ModelMaker`) or a folder of pictures that another one made (`FolderMaker`). What a batch
gives is kept on the disk (parts.py): a command that was killed goes on, a crew shares the batches, and so do the
processes of `accelerate launch`, each of which takes every n-th.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from typing import Protocol as Interface

import numpy as np
import torch
from tqdm import tqdm

from colorize import modes
from colorize.pictures.masks import without_background
from spread.crew import ALONE, Crew
from trainer.config import ConfigError, Data
from trainer.data import decode
from trainer.data.folder import FolderDataset
from trainer.data.sources import SUFFIXES, FolderSource, open_source
from trainer.models.colorizer import WholeColorizer
from trainer.models.denoising import Denoising
from trainer.pictures import Batch, contact_sheet, figure_mask, model_sketch, picture
from trainer.workers import Team

from .parts import Numbers, Parts, identity
from .protocols import Protocol
from .sample import NO_REFERENCE, Made, Pairs, Setting
from .views import Views

SHEET_BATCHES = 3
SECOND_NOISE = 1 << 20  # added to the seed of the second run without reference; torch reads 32 bits of a seed


@dataclass(frozen=True)
class Measurement:
    """What is measured on; the same for all methods and protocols of a command."""

    data: str
    count: int
    seed: int
    batch: int
    size: int = 0
    """Side of the pictures in pixels; 0: that of the set's first picture."""

    def starts(self) -> range:
        """Numbers of the first pairs of all batches."""
        return range(0, self.count, self.batch)


class Maker(Interface):
    """Something that colours sketches."""

    @property
    def settings(self) -> tuple[Setting, ...]:
        """In the order of the report."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Parts of the data set beside the protocol's."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """What its results depend on, as JSON values."""

    def made(self, batch: Batch, names: Sequence[str], start: int, protocol: Protocol) -> Made:
        """What it makes of the pairs of a batch, the first of which is pair `start`."""


@dataclass
class Measured:
    """What `measure` found."""

    values: dict[Setting, Numbers]
    sheets: list[np.ndarray]
    """(H, W, 3) of the first batches: sketch, reference, results of the settings of the first guidance scale, without
    reference (where the protocol needs that run), truth"""
    size: int
    parts: Parts


@dataclass
class Bench:
    """A method under a protocol, and the pairs on which they meet."""

    method: Maker
    protocol: Protocol
    settings: Measurement
    parts: Parts
    dataset: FolderDataset

    def batch(self, start: int) -> None:
        """Measure the batch that begins at pair `start`, and keep what is found."""
        settings, protocol, dataset, method = self.settings, self.protocol, self.dataset, self.method
        numbers = range(start, min(start + settings.batch, settings.count))
        batch = torch.utils.data.default_collate([row(dataset, i, settings.count, protocol) for i in numbers])
        names = [dataset.items.names[int(number)] for number in batch["index"]]
        made = method.made(batch, names, start, protocol)
        own = {
            title: protocol.measure(made.pairs, made.results[setting])
            for title, setting in zip(self.parts.settings, method.settings, strict=True)
        }
        sheet = _sheet(made, method.settings) if start < SHEET_BATCHES * settings.batch else None
        self.parts.write(start, own, protocol.common(made.pairs), sheet)


Making = Callable[[], tuple[Maker, Protocol]]


@dataclass
class _OwnBench:
    """The same, made by each worker for itself, for its networks do not travel."""

    making: Making
    settings: Measurement
    parts: Parts

    @functools.cached_property
    def bench(self) -> Bench:
        method, protocol = self.making()
        return Bench(method, protocol, self.settings, self.parts, pairs_of(protocol, self.settings, method.needs)[0])

    def batch(self, start: int) -> None:
        self.bench.batch(start)


def measure(
    method: Maker,
    protocol: Protocol,
    settings: Measurement,
    folder: Path,
    team: Team | None = None,
    crew: Crew = ALONE,
    making: Making | None = None,  # the method and the protocol once more, for the workers of a crew
) -> Measured:
    """Measure what is not there yet in `folder`, by this process's share of the batches; then read all of it.

    Every process of the team returns when all are done.
    """
    team = team or Team()
    dataset, size = pairs_of(protocol, settings, method.needs)
    settings_facts = {name: getattr(settings, name) for name in ("count", "seed", "batch")} | {"size": size}
    facts = {**settings_facts, "protocol": [protocol.name, protocol.bend], "data": _data_facts(dataset, settings.data)}
    titles = [f"{setting.title} at {setting.guidance}" for setting in method.settings]
    parts = Parts(folder, {**facts, "method": dict(method.facts)}, titles)
    starts = settings.starts()
    mine = [start for start in starts[team.index :: team.count] if not parts.holds(start)]
    here = Bench(method, protocol, settings, parts, dataset)
    work = here.batch if crew.alone or making is None else _OwnBench(making, settings, parts).batch
    for _ in tqdm(crew.map(work, mine), total=len(mine), unit="batch", desc=protocol.name, disable=not team.main):
        pass
    team.wait()
    found = parts.read(starts)
    values = {setting: found[title] for title, setting in zip(titles, method.settings, strict=True)}
    return Measured(values, parts.sheets(starts[:SHEET_BATCHES]), size, parts)


def pairs_of(protocol: Protocol, settings: Measurement, more: Sequence[str] = ()) -> tuple[FolderDataset, int]:
    """The pairs of a protocol, with more parts than it needs itself; and the side of their pictures."""
    size = settings.size or picture_size(settings.data)
    needs = tuple(dict.fromkeys((*protocol.needs, *more)))
    data = Data(folder=settings.data, size=size, reference=protocol.reference, deform=protocol.bend)
    dataset = FolderDataset(data, needs, seed=settings.seed)
    if len(dataset) < settings.count:
        raise ConfigError(
            f"{settings.data} holds {len(dataset)} pairs, {settings.count} are asked for; write more, or lower --count."
        )
    return dataset, size


def _data_facts(dataset: FolderDataset, folder: str) -> list[str]:
    parts = [part for part in dataset.needs if part != "reference" or dataset.data.reference == "folder"]
    folders = [name for part in parts for name in (dataset.styles if part == "sketch" else [part])]
    own = [name for name in folders if not (name.startswith("reference_") and dataset.data.reference != "folder")]
    return [str(Path(folder).resolve()), dataset.source.fingerprint(own)]


def _sheet(made: Made, settings: Sequence[Setting]) -> np.ndarray:
    pairs, first = made.pairs, settings[0].guidance
    shown = [made.results[setting] for setting in settings if setting.guidance == first]
    blind = [] if pairs.without is None else [pairs.without]
    return contact_sheet([-pairs.sketches, pairs.references, *shown, *blind, pairs.truth])


def row(dataset: FolderDataset, position: int, count: int, protocol: Protocol) -> dict[str, torch.Tensor | int]:
    """Sample `position`; where the protocol wants strangers, with the next one's picture as its reference."""
    sample = dict(dataset[position])
    if protocol.strangers:
        other = dataset[(position + 1) % count]
        sample["reference"] = other["color"]
        if "reference_mask" in sample:
            sample["reference_mask"] = other["mask"]
    return sample


@dataclass
class ModelMaker:
    """A colouriser with the settings that are measured."""

    colorizer: WholeColorizer
    settings: tuple[Setting, ...]
    seed: int
    precision: str
    """fp32 or bf16"""
    device: torch.device
    files: Mapping[str, Any] = field(default_factory=dict)
    """what tells its files from others"""
    views: Views | None = None
    """what is drawn of the first batch's sampling"""

    @property
    def needs(self) -> tuple[str, ...]:
        masked = any(setting.mode not in ("vanilla", NO_REFERENCE) for setting in self.settings)
        return ("mask", "reference_mask") if masked else ()

    @property
    def facts(self) -> dict[str, Any]:
        how = [[s.mode, s.cut_out, repr(s.how)] for s in self.settings]
        facts = {"files": dict(self.files), "how": how, "precision": self.precision, "device": self.device.type}
        if self.colorizer.fit != "stretch":
            facts["fit"] = self.colorizer.fit
        return facts if self.views is None else facts | {"views": [repr(self.views.look), self.views.suffix]}

    def made(self, batch: Batch, names: Sequence[str], start: int, protocol: Protocol) -> Made:
        """As Maker.made. All settings of a batch begin with the same noise."""
        sketches = model_sketch(batch["sketch"]).to(self.device)
        references = picture(batch["reference"]).to(self.device)
        masks, reference_masks = (
            figure_mask(batch[name]).to(self.device) if name in batch else None for name in ("mask", "reference_mask")
        )
        tokens = {False: self.colorizer.tokens(references)}
        if reference_masks is not None and any(setting.cut_out for setting in self.settings):
            cut = without_background(references, reference_masks, modes.REFERENCE_THRESHOLD)
            tokens[True] = self.colorizer.tokens(cut)
        nothing = torch.zeros_like(tokens[False])

        def generate(how: Denoising, seed: int, tokens: torch.Tensor, mode: str = "vanilla") -> torch.Tensor:
            regions = self.colorizer.regions(mode, references, masks, reference_masks)
            noise = torch.Generator().manual_seed(seed)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                return self.colorizer.generate(sketches, tokens, how, noise, regions).float().cpu()

        def run(setting: Setting) -> torch.Tensor:
            if setting.mode == NO_REFERENCE:
                return generate(setting.denoising, self.seed + start, nothing)
            return generate(setting.denoising, self.seed + start, tokens[setting.cut_out], setting.mode)

        plain = replace(self.settings[0].denoising, guidance=1.0, sketch_guidance=1.0, noise_level=0.0)
        seeds = (("without", self.seed + start), ("base", self.seed + start + SECOND_NOISE))[: protocol.blind]
        blind = {name: generate(plain, seed, nothing) for name, seed in seeds}
        pairs = Pairs(batch, sketches.cpu(), references.cpu(), picture(batch["color"]), **blind)
        if self.views is None or start:
            return Made(pairs, {setting: run(setting) for setting in self.settings})
        results = {}
        for setting in self.settings:
            with self.views.watching(self.colorizer.unet, setting.denoising) as seen:
                results[setting] = run(setting)
            self.views.keep(f"{setting.title} at {setting.guidance}", results[setting], seen)
        self.views.write(protocol.name, names)
        return Made(pairs, results)


@dataclass
class FolderMaker:
    """Pictures that another method made of the pairs which `evaluate --pairs` wrote: FOLDER/PROTOCOL/NAME.png."""

    folder: Path
    without: Path | None = None
    """what it makes of the same pairs without reference, in folders of the same names"""
    files: Mapping[str, Any] = field(default_factory=dict)
    """what tells the judges' files from others"""
    needs: tuple[str, ...] = ()

    @property
    def settings(self) -> tuple[Setting, ...]:
        return (Setting(self.folder.name),)

    @property
    def facts(self) -> dict[str, Any]:
        found = [folder for folder in (self.folder, self.without) if folder is not None]
        files = [file for folder in found for file in sorted(folder.rglob("*")) if file.is_file()]
        return {"files": dict(self.files), "results": [identity(file) for file in files]}

    def made(self, batch: Batch, names: Sequence[str], start: int, protocol: Protocol) -> Made:
        """As Maker.made. ConfigError names a picture that is missing or of another shape."""
        truth = picture(batch["color"])
        without = self._read(self.without, names, protocol, truth) if self.without and protocol.blind else None
        if protocol.name == "entanglement" and without is None:
            raise ConfigError(
                "The protocol entanglement compares with pictures of the same method without reference: name their "
                "folder with --results-without."
            )
        pairs = Pairs(batch, model_sketch(batch["sketch"]), picture(batch["reference"]), truth, without)
        return Made(pairs, {self.settings[0]: self._read(self.folder, names, protocol, truth)})

    def _read(self, folder: Path, names: Sequence[str], protocol: Protocol, like: torch.Tensor) -> torch.Tensor:
        own = folder / protocol.name if (folder / protocol.name).is_dir() else folder
        return torch.stack([_result(own, name, like.shape[-1]) for name in names])


def _result(folder: Path, name: str, size: int) -> torch.Tensor:
    """The picture (3, S, S) in [-1, 1] of a pair."""
    file = next((path for suffix in SUFFIXES if (path := folder / f"{name}{suffix}").is_file()), None)
    if file is None:
        raise ConfigError(
            f"{folder / name}.png does not exist: --results holds a picture of every pair, named like the pair's in "
            "color/ (`evaluate --pairs FOLDER` writes the pairs to colour)."
        )
    image = decode.read_given(file)
    if image.width != image.height:
        raise ConfigError(
            f"{file} is {image.width} x {image.height} pixels: pairs are squares, as `evaluate --pairs` writes them."
        )
    if image.width != size:
        image = image.resize((size, size), decode.LANCZOS)
    return picture(torch.from_numpy(np.array(image)).permute(2, 0, 1))


def picture_size(folder: str) -> int:
    """Shorter side of the set's first picture, cut to a multiple of 64 pixels."""
    source = open_source(Path(folder))
    if isinstance(source, FolderSource):
        keys = source.keys("color")
    else:
        keys = [key for file in source.files("color")[:1] for key in source.keys_of(file)]
    if not keys:
        raise ConfigError(f"{folder} holds no pictures in color/; `python -m trainer demo-data` writes such a set.")
    first = source.describe("color", min(keys))
    try:
        with source.open("color", min(keys)) as file, decode.open_picture(file) as image:
            side = min(decode.upright_size(image))
    except decode.PICTURE_ERRORS as error:
        raise ConfigError(f"{first} cannot be read ({decode.why(error)}); repair or remove it.") from None
    if side < 64:
        raise ConfigError(f"{first} is {side} pixels small; pictures need 64 pixels or more on both sides.")
    return side // 64 * 64
