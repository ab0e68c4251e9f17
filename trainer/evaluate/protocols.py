"""What each protocol reads, and what it measures on a batch. `report.py` turns the measurements into numbers.

The region error is given next to that of the same model run without a reference, over all regions and over those whose
colour the reference shows: nobody can know the colour of a sleeve that is not in the reference. The latter is also
split into figure and background. On references of `demo-data --bystanders --shapes` that split tells colours of the
wrong origin: right are the main character's on the figure, and the wall's behind it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from trainer.config import ConfigError
from trainer.metrics import clip, frechet
from trainer.metrics.edges import edge_f1
from trainer.metrics.entanglement import Values, entanglement_of
from trainer.metrics.regions import region_errors, shown_regions
from trainer.metrics.similarity import ms_ssim, psnr
from trainer.models.colorizer import WholeColorizer
from trainer.world import REGION_NAMES

from .sample import Sample


@dataclass(frozen=True)
class Protocol:
    """A way to choose references and to measure results."""

    name: str
    needs: tuple[str, ...]
    """parts of the data set"""
    measure: Callable[[Sample], Values]
    reference: str = "folder"
    """as in data.reference"""
    bend: float = 0.0
    """as in data.deform"""
    strangers: bool = False
    """the reference is the picture of another sample"""
    blind: int = 0
    """runs without reference that `measure` needs: 1 `Sample.without`, 2 also `Sample.base`"""


def build(
    name: str,
    colorizer: WholeColorizer,
    device: torch.device,
    inception: str | None,
    clip_file: str | None,
    bend: float,
) -> Protocol:
    """The protocol of this name. Without CLIP and Inception files the model's own reference encoder stands in.

    Its numbers are called encoder_similarity and encoder_frechet: they compare runs of one model, not papers.
    """
    if name == "regions":
        needs = ("color", "sketch", "reference", "regions", "reference_regions")
        return Protocol(name, needs, _measure_regions, blind=1)
    if name == "entanglement":
        return Protocol(name, ("color", "sketch", "reference"), _measure_entanglement, "self", strangers=True, blind=2)
    own = clip.embedding(colorizer.reference_encoder, device)
    embed = clip.clip_embedding(clip_file, device) if clip_file else own
    similarity = "clip_similarity" if clip_file else "encoder_similarity"
    if name == "deformed":

        def deformed(sample: Sample) -> Values:
            return {
                "psnr": psnr(sample.result, sample.truth),
                "ms_ssim": ms_ssim(sample.result, sample.truth),
                similarity: clip.similarity(embed(sample.result), embed(sample.truth)),
            }

        return Protocol(name, ("color", "sketch", "reference"), deformed, "self", bend)
    if name == "random":
        features, distance = frechet.inception(inception, device) if inception else (own, "encoder_frechet")

        def random(sample: Sample) -> Values:
            return {
                similarity: clip.similarity(embed(sample.result), embed(sample.references)),
                f"{distance}:result": features(sample.result),
                f"{distance}:truth": features(sample.truth),
            }

        return Protocol(name, ("color", "sketch", "reference"), random, "self", strangers=True)
    raise ConfigError(f"Unknown protocol {name!r}; choose regions, deformed, random or entanglement.")


def _measure_regions(sample: Sample) -> Values:
    labels, count = sample.batch["regions"], len(REGION_NAMES)
    lines = -sample.sketches[:, :1]
    return {
        "errors": region_errors(sample.result, sample.truth, labels, count),
        "errors_without": region_errors(sample.blind, sample.truth, labels, count),
        "edge_f1": edge_f1(sample.result, lines),
        "edge_f1_without": edge_f1(sample.blind, lines),
        "shown": shown_regions(sample.batch["reference_regions"], REGION_NAMES),
    }


def _measure_entanglement(sample: Sample) -> Values:
    return entanglement_of(sample.result, sample.blind, sample.base, sample.references, sample.sketches)
