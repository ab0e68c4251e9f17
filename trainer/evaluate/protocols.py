"""What each protocol reads, and what it measures on a batch. `report.py` turns the measurements into numbers.

The region error is given next to that of the same model run without a reference, over all regions and over those whose
colour the reference shows: nobody can know the colour of a sleeve that is not in the reference. The latter is also
split into figure and background. On references of `demo-data --bystanders --shapes` that split tells colours of the
wrong origin: right are the main character's on the figure, and the wall's behind it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from trainer.config import ConfigError
from trainer.metrics import clip, frechet
from trainer.metrics.edges import edge_f1
from trainer.metrics.entanglement import Values, entanglement_of
from trainer.metrics.regions import region_errors, shown_regions
from trainer.metrics.similarity import ms_ssim, psnr
from trainer.models.colorizer import TokenReader
from trainer.world import REGION_NAMES

from .sample import Pairs

NAMES = ("regions", "deformed", "random", "entanglement")
PICTURES = ("color", "sketch", "reference")


def _nothing(pairs: Pairs) -> Values:
    return {}


@dataclass(frozen=True)
class Protocol:
    """A way to choose references and to measure results."""

    name: str
    needs: tuple[str, ...]
    """parts of the data set"""
    measure: Callable[[Pairs, torch.Tensor], Values]
    """of results (B, 3, H, W) of the pairs"""
    common: Callable[[Pairs], Values] = _nothing
    """what all results of the pairs share: of the truth, and of the run without reference"""
    reference: Literal["folder", "self"] = "folder"
    """as in data.reference"""
    bend: float = 0.0
    """as in data.deform"""
    strangers: bool = False
    """the reference is the picture of another sample"""
    blind: int = 0
    """runs without reference that are measured, too: 1 `Pairs.without`, 2 also `Pairs.base`"""


@dataclass(frozen=True)
class Judges:
    """The networks that judge pictures, and what their numbers are called.

    Without CLIP and Inception files the model's own reference encoder stands in. Its numbers are called
    encoder_similarity and encoder_frechet: they compare runs of one model, not papers.
    """

    embed: clip.Embed | None
    similarity: str
    features: frechet.Features | None
    distance: str

    @classmethod
    def of(
        cls, encoder: TokenReader | None, device: torch.device, inception: str | None, clip_file: str | None
    ) -> Judges:
        """From files, or from the encoder in their place; None where there is neither."""
        own = clip.embedding(encoder, device) if encoder is not None else None
        embed = clip.clip_embedding(clip_file, device) if clip_file else own
        features, distance = frechet.inception(inception, device) if inception else (own, "encoder_frechet")
        return cls(embed, "clip_similarity" if clip_file else "encoder_similarity", features, distance)


NOBODY = Judges(None, "", lambda pictures: pictures, "")
"""For pairs that are written, not judged."""


def build(name: str, judges: Judges, bend: float) -> Protocol:
    """The protocol of this name. ConfigError where it needs a judge that is not there."""
    if name == "regions":
        needs = (*PICTURES, "regions", "reference_regions")
        return Protocol(name, needs, _measure_regions, _common_regions, blind=1)
    if name == "entanglement":
        return Protocol(name, PICTURES, _measure_entanglement, reference="self", strangers=True, blind=2)
    if name == "deformed":
        return Protocol(name, PICTURES, _deformed(judges), reference="self", bend=bend)
    if name == "random":
        measure, common = _random(judges)
        return Protocol(name, PICTURES, measure, common, "self", strangers=True)
    raise ConfigError(f"Unknown protocol {name!r}; choose one of {', '.join(NAMES)}.")


def _deformed(judges: Judges) -> Callable[[Pairs, torch.Tensor], Values]:
    def measure(pairs: Pairs, result: torch.Tensor) -> Values:
        values = {"psnr": psnr(result, pairs.truth), "ms_ssim": ms_ssim(result, pairs.truth)}
        if judges.embed is not None:
            values[judges.similarity] = clip.similarity(judges.embed(result), judges.embed(pairs.truth))
        return values

    return measure


def _random(judges: Judges) -> tuple[Callable[[Pairs, torch.Tensor], Values], Callable[[Pairs], Values]]:
    embed, features = judges.embed, judges.features
    if features is None:
        raise ConfigError(
            "The protocol random compares features of pictures: give --inception for FID, or --encoder, whose features "
            "then stand in."
        )

    def measure(pairs: Pairs, result: torch.Tensor) -> Values:
        values = {f"{judges.distance}:result": features(result)}
        if embed is not None:
            values[judges.similarity] = clip.similarity(embed(result), embed(pairs.references))
        return values

    def common(pairs: Pairs) -> Values:
        return {f"{judges.distance}:truth": features(pairs.truth)}

    return measure, common


def _measure_regions(pairs: Pairs, result: torch.Tensor) -> Values:
    return {
        "errors": region_errors(result, pairs.truth, pairs.batch["regions"], len(REGION_NAMES)),
        "edge_f1": edge_f1(result, -pairs.sketches[:, :1]),
    }


def _common_regions(pairs: Pairs) -> Values:
    values = {"shown": shown_regions(pairs.batch["reference_regions"], REGION_NAMES)}
    if pairs.without is None:
        return values
    blind = _measure_regions(pairs, pairs.without)
    return values | {f"{name}_without": value for name, value in blind.items()}


def _measure_entanglement(pairs: Pairs, result: torch.Tensor) -> Values:
    return entanglement_of(result, pairs.blind, pairs.base, pairs.references, pairs.sketches)
