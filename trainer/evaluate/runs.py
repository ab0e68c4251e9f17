"""Runs a colouriser over the pairs of a set: every mode and guidance scale on the same pairs, from the same noise."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from colorize import modes
from colorize.pictures.masks import without_background
from trainer.config import ConfigError
from trainer.data import decode
from trainer.data.folder import FolderDataset
from trainer.data.sources import FolderSource, open_source
from trainer.metrics.entanglement import Values
from trainer.models.colorizer import WholeColorizer
from trainer.models.denoising import Denoising
from trainer.pictures import Batch, contact_sheet, model_sketch, picture

from .protocols import Protocol
from .sample import Sample

SHEET_BATCHES = 3
CUT_OUT = " cut out"  # after a mode's name: its figure read the reference without its background
SECOND_NOISE = 1 << 20  # added to the seed of the second run without reference; torch reads 32 bits of a seed


@dataclass(frozen=True)
class Measurement:
    """What is run; the same for all protocols of a command."""

    data: str
    modes: tuple[str, ...]
    scales: tuple[float, ...]
    count: int
    steps: int
    seed: int
    batch: int
    precision: str
    cut_out: bool = False
    """Measure every masked mode a second time, with the figure's tokens from the reference on white."""

    @property
    def runs(self) -> tuple[str, ...]:
        """Names of the runs at one scale: the modes, then those with a cut-out reference."""
        masked = tuple(mode for mode in self.modes if mode != "vanilla")
        return self.modes + tuple(mode + CUT_OUT for mode in masked if self.cut_out)


def measure(
    colorizer: WholeColorizer, protocol: Protocol, settings: Measurement, device: torch.device
) -> tuple[dict[tuple[str, float], Values], list[np.ndarray], int]:
    """({(run, scale): values}, sheets (H, W, 3) of the first batches, side of the pictures in pixels).

    A sheet's columns: sketch, reference, one result per run at the first scale, without reference
    (where the protocol needs that run), truth.
    """
    size = picture_size(settings.data)
    masked = any(mode != "vanilla" for mode in settings.modes)
    needs = (*protocol.needs, *(("mask", "reference_mask") if masked else ()))
    dataset = FolderDataset(settings.data, size, protocol.reference, settings.seed, needs=needs, bend=protocol.bend)
    if len(dataset) < settings.count:
        raise ConfigError(
            f"{settings.data} holds {len(dataset)} pairs, {settings.count} are asked for; write more, or lower --count."
        )
    parts: dict[tuple[str, float], list[Values]] = {(m, s): [] for s in settings.scales for m in settings.runs}
    sheets: list[np.ndarray] = []
    for start in tqdm(range(0, settings.count, settings.batch), unit="batch", desc=protocol.name):
        numbers = range(start, min(start + settings.batch, settings.count))
        batch = torch.utils.data.default_collate([row(dataset, i, settings.count, protocol) for i in numbers])
        runs, fixed = _runs(colorizer, batch, settings, protocol.blind, start, device)
        for key, result in runs.items():
            parts[key].append(protocol.measure(Sample(batch=batch, result=result, **fixed)))
        if len(sheets) < SHEET_BATCHES:
            shown = [runs[name, settings.scales[0]] for name in settings.runs]
            blind = [fixed[name] for name in ("without",) if name in fixed]
            columns = [-fixed["sketches"], fixed["references"], *shown, *blind, fixed["truth"]]
            sheets.append(contact_sheet(columns))
    values = {key: {k: torch.cat([p[k] for p in rows]) for k in rows[0]} for key, rows in parts.items()}
    return values, sheets, size


def row(dataset: FolderDataset, position: int, count: int, protocol: Protocol) -> dict[str, torch.Tensor | int]:
    """Sample `position`; where the protocol wants strangers, with the next one's picture as its reference."""
    sample = dict(dataset[position])
    if protocol.strangers:
        other = dataset[(position + 1) % count]
        sample["reference"] = other["color"]
        if "reference_mask" in sample:
            sample["reference_mask"] = other["mask"]
    return sample


def _runs(
    colorizer: WholeColorizer, batch: Batch, settings: Measurement, blind: int, start: int, device: torch.device
) -> tuple[dict[tuple[str, float], torch.Tensor], dict[str, torch.Tensor]]:
    """Results by (run, scale), and what they have in common."""
    sketches, references = model_sketch(batch["sketch"]).to(device), picture(batch["reference"]).to(device)
    masks, reference_masks = (
        batch[name].to(device).float() / 255 if name in batch else None for name in ("mask", "reference_mask")
    )
    tokens = {"": colorizer.tokens(references)}
    if settings.cut_out and reference_masks is not None:
        tokens[CUT_OUT] = colorizer.tokens(without_background(references, reference_masks, modes.REFERENCE_THRESHOLD))

    def run(name: str, scale: float, seed: int) -> torch.Tensor:
        mode = name.removesuffix(CUT_OUT)
        return generate(scale, seed, tokens[name[len(mode) :]], mode)

    def generate(scale: float, seed: int, tokens: torch.Tensor, mode: str = "vanilla") -> torch.Tensor:
        regions = colorizer.regions(mode, references, masks, reference_masks)
        noise = torch.Generator().manual_seed(seed)
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
            return colorizer.generate(sketches, tokens, Denoising(settings.steps, scale), noise, regions).float().cpu()

    seed = settings.seed + start
    fixed = {"sketches": sketches.cpu(), "references": references.cpu(), "truth": picture(batch["color"])}
    for name, noise in (("without", seed), ("base", seed + SECOND_NOISE))[:blind]:
        fixed[name] = generate(1.0, noise, torch.zeros_like(tokens[""]))
    return {(name, s): run(name, s, seed) for s in settings.scales for name in settings.runs}, fixed


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
            side = min(image.size)
    except decode.PICTURE_ERRORS as error:
        raise ConfigError(f"{first} cannot be read ({decode.why(error)}); repair or remove it.") from None
    if side < 64:
        raise ConfigError(f"{first} is {side} pixels small; pictures need 64 pixels or more on both sides.")
    return side // 64 * 64
