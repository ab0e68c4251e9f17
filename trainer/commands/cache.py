"""`python -m trainer cache`: encodes the pictures of a run once, so that its steps need no encoder.

Reads the configuration of the run itself, and its data set as the run will see it, so what is written is what the run
will ask for. An interrupted command continues when it is given again; what is there is not encoded twice. Encoding is
done in batches of optimizer.batch, as in the run (bleached pictures one by one, likewise): with fp32 values the losses
of a run are then the same to the bit.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from colorize.pictures.masks import without_figure
from colorize.reference.types import read_tokens
from spread.crew import ALONE, Crew
from trainer import workers
from trainer.cache.encodings import KEY
from trainer.cache.recipes import KINDS, WHITE_KEY, recipes, row_key
from trainer.cache.store import StoreWriter
from trainer.config import Config, ConfigError
from trainer.data.folder import FolderDataset
from trainer.losses.bleach import whiten_background
from trainer.models.frozen import FrozenAutoencoder, FrozenReferenceEncoder, SecondTower, frozen_encoders, second_tower
from trainer.models.precision import DTYPES, arithmetic, on_device
from trainer.pictures import Batch, picture
from trainer.run.datasets import build_dataset
from trainer.stages import table
from trainer.stages.v1_5 import grown_masks, is_binary
from trainer.workers import Team, add_crew_arguments, crew_of, device_of

log = logging.getLogger("trainer")

OVERRIDES = True
"""This command takes --section.key value, as train does."""


ANY_THRESHOLD = 0.5
"""Of masks of 0 and 1: every threshold between them gives the same."""


@dataclasses.dataclass
class _Batch:
    """What is encoded together: a whole batch, the last one with repeated samples behind those of the keys."""

    kind: str
    keys: list[bytes]
    parts: dict[str, np.ndarray]
    """Part of the samples -> (B, ...) uint8."""


@dataclasses.dataclass
class Encoder:
    """The frozen networks of a run as functions from a batch to rows of a kind, as the stages compute them."""

    config: Config
    device: torch.device

    @property
    def _whole(self) -> Config:
        """The configuration with weights as they are: rows are found by the encoder's file, whatever wrote them."""
        whole = dataclasses.replace(self.config.system, frozen_8bit=False, layer_offload=0.0)
        return dataclasses.replace(self.config, system=whole)

    @functools.cached_property
    def _frozen(self) -> tuple[FrozenAutoencoder, FrozenReferenceEncoder]:
        return frozen_encoders(self._whole, self.device)

    @functools.cached_property
    def _second(self) -> SecondTower:
        return second_tower(self._whole, self.device)

    def encode(self, batch: _Batch) -> tuple[str, list[bytes], np.ndarray]:
        """Kind, keys and rows (N, ...) of a batch."""
        parts = {part: torch.tensor(values).to(self.device) for part, values in batch.parts.items()}
        return batch.kind, batch.keys, self.rows(batch.kind, parts)[: len(batch.keys)].cpu().numpy()

    def moments(self, pictures: torch.Tensor) -> torch.Tensor:
        with arithmetic(self.config, self.device):
            return self._frozen[0].moments(pictures)

    def tokens(self, references: torch.Tensor) -> torch.Tensor:
        return read_tokens(self._frozen[1].encode(references), self.config.model.tokens)

    @torch.no_grad()
    def rows(self, kind: str, batch: Batch) -> torch.Tensor:
        """(B, ...) float32. Of masks only 0 and 255 may be in the batch: see `threshold_matters`."""
        pictures = picture(batch[KINDS[kind].parts[0]])
        if kind == "latents":
            return self.moments(pictures)
        if kind == "white_latents":
            everything = torch.ones(len(pictures), dtype=torch.bool)
            return self.moments(whiten_background(pictures, batch["mask"] > 255 * ANY_THRESHOLD, everything, 1.0))
        if kind == "tokens":
            return self.tokens(pictures)
        if kind == "clip_tokens":
            return self._frozen[1].encode(pictures)
        if kind == "tagger_tokens":
            return self._second.tokens(pictures)
        masks = grown_masks(batch["reference_mask"], self.config.data.reference_mask_cell)
        return self.tokens(without_figure(pictures, masks.float() / 255, ANY_THRESHOLD))


def threshold_matters(kind: str, sample: Batch, cell: tuple[int, ...]) -> bool:
    """Whether an encoding depends on a threshold that every step draws: then it cannot be kept."""
    masks = [sample[part][None] for part in KINDS[kind].parts if part.endswith("mask")]
    if kind == "background_tokens":
        masks = [grown_masks(mask, cell) for mask in masks]
    return not all(is_binary(mask) for mask in masks)


class _Waiting:
    """Samples of one kind and size that wait until they fill a batch."""

    def __init__(self, kind: str, batch: int) -> None:
        self.kind, self.batch = kind, batch
        self.keys: list[bytes] = []
        self.samples: list[dict[str, torch.Tensor]] = []

    def add(self, key: bytes, sample: dict[str, torch.Tensor]) -> Iterator[_Batch]:
        self.keys.append(key)
        self.samples.append(sample)
        if len(self.keys) == self.batch:
            yield self.whole()

    def whole(self) -> _Batch:
        """Always a whole batch: the run's arithmetic, to the bit."""
        full = (self.samples * self.batch)[: self.batch]
        parts = {part: torch.stack([sample[part] for sample in full]).numpy() for part in KINDS[self.kind].parts}
        batch = _Batch(self.kind, self.keys, parts)
        self.keys, self.samples = [], []
        return batch


@dataclasses.dataclass
class Summary:
    """What a pass has done, in rows by kind."""

    written: dict[str, int]
    there: dict[str, int]
    """Were in the cache before."""
    left_out: dict[str, int]
    """Depend on a threshold: they will be computed in every step."""

    def lines(self) -> list[str]:
        lines = []
        for kind in self.written:
            lines.append(f"{kind:18} {self.written[kind]:9} new {self.there[kind]:9} kept before")
            if self.left_out[kind]:
                lines[-1] += (
                    f" {self.left_out[kind]:9} left out: grey masks, whose threshold is drawn in every step; the run "
                    "computes them. `prepare --mask isnet --mask-threshold 0.5` makes masks of 0 and 255."
                )
        return lines


def build_cache(
    config: Config,
    device: torch.device | None = None,
    team: Team | None = None,
    crew: Crew = ALONE,
    progress: bool = True,
) -> Summary:
    """Encode what the run of a configuration will ask for and write it to data.cache_folder.

    This process reads the pictures, its part of them in a team, and writes; the crew encodes. Raises ConfigError.
    """
    folder = config.data.cache_folder
    if not folder:
        raise ConfigError("data.cache_folder is empty: name the folder to write, e.g. --data.cache_folder cache.")
    kinds = table.row(config).encodings(config)
    device = device or workers.device()
    summary = Summary(*({kind: 0 for kind in kinds} for _ in range(3)))
    values = DTYPES[config.data.cache_values]
    with contextlib.ExitStack() as stack:
        writers = {
            kind: stack.enter_context(StoreWriter(Path(folder), recipe, values))
            for kind, recipe in recipes(config, kinds).items()
        }
        batches = _batches(config, writers, summary, _samples(config, team or Team(), progress))
        for kind, keys, rows in crew.map(Encoder(config, device).encode, batches):
            for key, row in zip(keys, torch.tensor(rows)):
                writers[kind].keep(key, row)
            summary.written[kind] += sum(key != WHITE_KEY for key in keys)
    return summary


def _batches(
    config: Config, writers: Mapping[str, StoreWriter], summary: Summary, samples: Iterable[dict[str, torch.Tensor]]
) -> Iterator[_Batch]:
    """What is not there, batch by batch."""
    waiting: dict[tuple, _Waiting] = {}
    for sample in samples:
        for kind, writer in writers.items():
            key = row_key({part: bytes(sample[part + KEY].tolist()) for part in KINDS[kind].parts}, kind)
            if key in writer:
                summary.there[kind] += 1
            elif threshold_matters(kind, sample, config.data.reference_mask_cell):
                summary.left_out[kind] += 1
            else:
                writer.claim(key)
                shape = tuple(sample[KINDS[kind].parts[0]].shape)
                together = 1 if kind == "white_latents" else config.optimizer.batch
                yield from waiting.setdefault((kind, shape), _Waiting(kind, together)).add(key, sample)
        if config.loss.background_bleach and "tokens" in writers and writers["tokens"].claim(WHITE_KEY):
            white = np.full((1, *sample["reference"].shape), 255, np.uint8)  # of the size of (C, H, W)
            yield _Batch("tokens", [WHITE_KEY], {"reference": white})
    yield from (group.whole() for group in waiting.values() if group.keys)


def _samples(config: Config, team: Team, progress: bool) -> Iterator[dict[str, torch.Tensor]]:
    """The samples of the data set and of the held-out one, one by one, with the keys of their parts.

    Where references are other pictures of the set, every picture is shown as its own reference: as such it is the same
    for whichever picture it serves. With augment.flip every picture comes both ways.
    """
    data, flip = config.data, config.augment.flip
    if data.reference in ("group", "listed"):
        data = dataclasses.replace(data, reference="self")
    for part in (data, data.held_out()) if data.holdout else (data,):
        for rate in (0.0, 1.0) if 0 < flip < 1 else (flip,):
            shown = dataclasses.replace(
                config,
                data=part,
                augment=dataclasses.replace(config.augment, flip=rate),
            )
            dataset = build_dataset(shown)  # does not decode what is in the cache
            for problem in dataset.problems:
                log.warning("data: %s", problem)
            loader = torch.utils.data.DataLoader(
                dataset,
                sampler=_every_picture(dataset)[team.index :: team.count],
                batch_size=1,
                num_workers=data.workers,
                multiprocessing_context="spawn" if data.workers else None,
            )
            for batch in tqdm(loader, disable=not progress, unit="picture", desc=part.folder, dynamic_ncols=True):
                yield {name: values[0] for name, values in batch.items()}


def _every_picture(dataset: FolderDataset) -> list[int]:
    """Positions at which every picture stands once; an epoch in buckets may leave out some, the next one has them."""
    seen, positions = np.zeros(len(dataset), bool), []
    for position in range(4 * len(dataset)):
        number = dataset.index_at(position)
        if not seen[number]:
            seen[number] = True
            positions.append(position)
        if len(positions) == len(dataset):
            break
    return positions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, metavar="FILE", help="TOML file of the run, or the name of a preset")
    add_crew_arguments(parser, "this one")
    parser.epilog = "Every key can be overridden: --section.key value; data.cache_folder names the folder to write."


def run(args: argparse.Namespace, overrides: list[str]) -> None:
    team, crew = Team.launched(), crew_of(args, usual=1, gpu=True)
    config = table.load(args.config, overrides)
    if not crew.gpus:  # those of other machines cannot be asked from here
        config = on_device(config, device_of(crew))
    summary = build_cache(config, device_of(crew), team, crew, progress=team.main)
    team.wait()
    if not team.main:
        return
    print("\n".join(summary.lines()))
    if team.count > 1:
        print(f"(the first of {team.count} processes; the others wrote theirs)")
    files = [file for file in Path(config.data.cache_folder).rglob("*.safetensors")]
    size = sum(file.stat().st_size for file in files) / 2**20
    print(f"{config.data.cache_folder}: {len(files)} files, {size:.0f} MiB")
