"""The entanglement meter on batches: how much of a result's structure comes from the reference."""

from __future__ import annotations

import torch

from colorize.pictures import entanglement
from colorize.pictures.ranges import model_to_unit
from trainer.models.colorizer import WholeColorizer
from trainer.models.denoising import Denoising

OTHERS = 4  # references of other pairs that tell leakage from chance

Values = dict[str, torch.Tensor]
"""Measurements by name, one row per pair."""


def next_ones(pictures: torch.Tensor) -> torch.Tensor:
    """Every row's picture (B, ...) is that of the next row, the last row's that of the first."""
    return pictures.roll(-1, dims=0)


def entanglement_of(
    result: torch.Tensor,
    without: torch.Tensor,
    base: torch.Tensor | None,
    references: torch.Tensor,
    sketches: torch.Tensor,
) -> Values:
    """What the meter shows of results (B, ...), one number per pair:

    structure          structure distance to the run without reference from the same noise, 0..1
    leakage            share of the reference's own edges that the result repeats beyond chance
    entanglement       their sum
    entanglement_none  the same of the run without reference: its distance is 0, its leakage is what accident leaves
    structure_noise    structure distance of two runs without reference from different noise: what 0.1, say, means

    All (B, 3, H, W) in [-1, 1]; sketches white on black; base: without reference, from other noise than `without` (None
    leaves structure_noise out). A row's reference is the true picture of the next row (`next_ones`). Those of the rows
    after it tell leakage from chance; never the row's own picture, whose edges a good result repeats. A batch of two
    has no such rows: shifted copies of the references stand in for them.
    """
    lines = model_to_unit(sketches[:, :1])
    others = [references.roll(-shift, 0) for shift in range(1, min(OTHERS, len(references) - 2) + 1)]
    structure = entanglement.structure_distance(result, without)
    leaked = entanglement.leakage(result, references, lines, others)
    values = {"entanglement": structure + leaked, "structure": structure, "leakage": leaked}
    values["entanglement_none"] = entanglement.leakage(without, references, lines, others)
    if base is not None:
        values["structure_noise"] = entanglement.structure_distance(base, without)
    return values


@torch.no_grad()
def mean_entanglement(
    colorizer: WholeColorizer,
    sketches: torch.Tensor,  # (B, 3, H, W) in [-1, 1], white lines on black, B >= 2
    references: torch.Tensor,  # (B, 3, H, W) in [-1, 1], the next row's picture each (see `next_ones`)
    steps: int,
    guidance: float,
    seed: int = 0,
    mode: str = "vanilla",
    masks: torch.Tensor | None = None,  # (B, 1, H, W) 0..1, as in V1Colorizer.regions
    reference_masks: torch.Tensor | None = None,
) -> dict[str, float]:
    """Means over fixed triples (sketch, reference, noise of `seed`): entanglement, structure, leakage.

    The same triples and seed at every call make a curve; a model trained on aligned references shows it rising.
    """
    if len(sketches) < 2 or len(sketches) != len(references):
        raise ValueError(
            f"{len(sketches)} sketches and {len(references)} references: the meter needs two or more of each, because "
            "the other references tell leakage from chance."
        )
    tokens = colorizer.tokens(references)
    regions = colorizer.regions(mode, references, masks, reference_masks)
    noise = [torch.Generator().manual_seed(seed) for _ in range(2)]
    result = colorizer.generate(sketches, tokens, Denoising(steps, guidance), noise[0], regions).float()
    without = colorizer.generate(sketches, torch.zeros_like(tokens), Denoising(steps, 1.0), noise[1]).float()
    with torch.autocast(result.device.type, enabled=False):  # numbers of different runs are compared
        found = entanglement_of(result, without, None, references, sketches)
    return {name: float(found[name].mean()) for name in ("entanglement", "structure", "leakage")}
