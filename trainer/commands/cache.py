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
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from colorize.pictures.masks import without_figure
from colorize.reference.types import read_tokens
from trainer.cache.encodings import KEY
from trainer.cache.recipes import KINDS, WHITE_KEY, recipes, row_key
from trainer.cache.store import StoreWriter
from trainer.config import Config, ConfigError
from trainer.data.folder import FolderDataset
from trainer.losses.bleach import whiten_background
from trainer.models.frozen import frozen_encoders, second_tower
from trainer.models.precision import arithmetic, on_device
from trainer.pictures import Batch, picture
from trainer.run.datasets import build_dataset
from trainer.stages import table
from trainer.stages.v1_5 import grown_masks, is_binary
from trainer.workers import Team, device

log = logging.getLogger("trainer")

OVERRIDES = True
"""This command takes --section.key value, as train does."""


ANY_THRESHOLD = 0.5
"""Of masks of 0 and 1: every threshold between them gives the same."""


class Encoder:
    """The frozen networks of a run as functions from a batch to rows of a kind, as the stages compute them."""

    def __init__(self, config: Config, device: torch.device, kinds: Sequence[str]) -> None:
        self.config, self.device = config, device
        self.autoencoder, self.reference_encoder = frozen_encoders(config, device)
        self.tagger = second_tower(config, device) if "tagger_tokens" in kinds else None

    def moments(self, pictures: torch.Tensor) -> torch.Tensor:
        with arithmetic(self.config, self.device):
            return self.autoencoder.moments(pictures)

    def tokens(self, references: torch.Tensor) -> torch.Tensor:
        return read_tokens(self.reference_encoder.encode(references), self.config.model.tokens)

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
            return self.reference_encoder.encode(pictures)
        if kind == "tagger_tokens" and self.tagger is not None:
            return self.tagger.tokens(pictures)
        masks = grown_masks(batch["reference_mask"], self.config.data.reference_mask_cell)
        return self.tokens(without_figure(pictures, masks.float() / 255, ANY_THRESHOLD))

    @torch.no_grad()
    def white(self, like: torch.Tensor) -> torch.Tensor:
        """Tokens (N, D) of a white reference of the size of (C, H, W)."""
        return self.tokens(torch.ones(1, *like.shape, device=self.device))[0]


def threshold_matters(kind: str, sample: Batch, cell: tuple[int, ...]) -> bool:
    """Whether an encoding depends on a threshold that every step draws: then it cannot be kept."""
    masks = [sample[part][None] for part in KINDS[kind].parts if part.endswith("mask")]
    if kind == "background_tokens":
        masks = [grown_masks(mask, cell) for mask in masks]
    return not all(is_binary(mask) for mask in masks)


class _Waiting:
    """Samples of one kind and size that wait until they fill a batch."""

    def __init__(self, kind: str, encoder: Encoder, writer: StoreWriter, batch: int) -> None:
        self.kind, self.encoder, self.writer, self.batch = kind, encoder, writer, batch
        self.keys: list[bytes] = []
        self.samples: list[dict[str, torch.Tensor]] = []

    def add(self, key: bytes, sample: dict[str, torch.Tensor]) -> int:
        """Returns how many rows were written."""
        self.keys.append(key)
        self.samples.append(sample)
        return self.encode() if len(self.keys) == self.batch else 0

    def encode(self) -> int:
        if not self.keys:
            return 0
        full = (self.samples * self.batch)[: self.batch]  # always a whole batch: the run's arithmetic, to the bit
        parts = KINDS[self.kind].parts
        batch = {part: torch.stack([sample[part] for sample in full]).to(self.encoder.device) for part in parts}
        written = len(self.keys)
        for key, row in zip(self.keys, self.encoder.rows(self.kind, batch)):  # the repeated ones at the end are left
            self.writer.add(key, row)
        self.keys, self.samples = [], []
        return written


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
    share: tuple[int, int] = (1, 1),
    progress: bool = True,
) -> Summary:
    """Encode what the run of a configuration will ask for and write it to data.cache_folder.

    share: (k, n) encodes the k-th of n parts only, for several processes or machines that fill one folder. Raises
    ConfigError.
    """
    folder = config.data.cache_folder
    if not folder:
        raise ConfigError("data.cache_folder is empty: name the folder to write, e.g. --data.cache_folder cache.")
    kinds = table.row(config).encodings(config)
    if not 1 <= share[0] <= share[1]:
        raise ConfigError(f"--share {share[0]}/{share[1]} is not a part: write k/n with k from 1 to n.")
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    summary = Summary(*({kind: 0 for kind in kinds} for _ in range(3)))
    encoder = Encoder(config, device, kinds)
    values = {"fp32": torch.float32, "bf16": torch.bfloat16}[config.data.cache_values]
    with contextlib.ExitStack() as stack:
        writers = {
            kind: stack.enter_context(StoreWriter(Path(folder), recipe, values))
            for kind, recipe in recipes(config, kinds).items()
        }
        waiting: dict[tuple, _Waiting] = {}
        for sample in _samples(config, share, progress):
            for kind in kinds:
                key = row_key({part: bytes(sample[part + KEY].tolist()) for part in KINDS[kind].parts}, kind)
                if key in writers[kind]:
                    summary.there[kind] += 1
                elif threshold_matters(kind, sample, config.data.reference_mask_cell):
                    summary.left_out[kind] += 1
                else:
                    shape = tuple(sample[KINDS[kind].parts[0]].shape)
                    together = 1 if kind == "white_latents" else config.optimizer.batch
                    group = waiting.setdefault((kind, shape), _Waiting(kind, encoder, writers[kind], together))
                    summary.written[kind] += group.add(key, sample)
            if config.loss.background_bleach and "tokens" in writers and WHITE_KEY not in writers["tokens"]:
                writers["tokens"].add(WHITE_KEY, encoder.white(sample["reference"]))
        for group in waiting.values():
            summary.written[group.kind] += group.encode()
    return summary


def _samples(config: Config, share: tuple[int, int], progress: bool) -> Iterator[dict[str, torch.Tensor]]:
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
                sampler=_every_picture(dataset)[share[0] - 1 :: share[1]],
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


def _share(text: str) -> tuple[int, int]:
    first, slash, second = text.partition("/")
    if not (slash and first.isdigit() and second.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is no part; write 1/4 for the first of four")
    return int(first), int(second)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, metavar="FILE", help="TOML file of the run, or the name of a preset")
    parser.add_argument(
        "--share",
        type=_share,
        default=(1, 1),
        metavar="K/N",
        help="only the k-th of n parts, for several machines; the processes of `accelerate launch` share by themselves",
    )
    parser.epilog = "Every key can be overridden: --section.key value; data.cache_folder names the folder to write."


def run(args: argparse.Namespace, overrides: list[str]) -> None:
    config = on_device(table.load(args.config, overrides), device())
    team, (part, parts) = Team.launched(), args.share
    share = ((part - 1) * team.count + team.index + 1, parts * team.count)
    summary = build_cache(config, device(), share, progress=team.main)
    team.wait()
    if not team.main:
        return
    print("\n".join(summary.lines()))
    if team.count > 1:
        print(f"(the first of {team.count} processes; the others wrote theirs)")
    files = [file for file in Path(config.data.cache_folder).rglob("*.safetensors")]
    size = sum(file.stat().st_size for file in files) / 2**20
    print(f"{config.data.cache_folder}: {len(files)} files, {size:.0f} MiB")
