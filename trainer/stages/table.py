"""The stages: a row for each, and the checks of a configuration that follow from its row.

Whoever adds a stage adds its name to run.stage (config/sections.py), its module, and its row here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from colorize.unet.config import UNetConfig
from trainer import config as configuration
from trainer.config import Config, ConfigError

from . import (
    adapted,
    animediffusion,
    colorizer_cost,
    distill,
    distill_cost,
    distill_lessons,
    encoder,
    sizes,
    v1,
    v1_5,
    vae,
    xl,
    xl_cost,
    xl_regions,
)
from .row import Row
from .stage import Stage


class Option(NamedTuple):
    """A key that only some stages have."""

    off: str
    """its value elsewhere, as the file has it"""
    hint: str = ""
    """what else helps"""


OPTIONS = {
    "data.cache_folder": Option('""', " (data.decoded_folder keeps decoded pictures for every stage)"),
    "data.crop": Option("0", " (data.bucket_step makes batches of several shapes)"),
    "report.samples": Option('""'),
    "report.validate_entanglement": Option("false"),
    "model.init_from": Option('""', " and start from model.init"),
    "model.second_tower": Option('"tagger"'),
    "model.tokens": Option('"local"'),
    "model.train_encoder": Option("false"),
    "adapter.kind": Option('"none"'),
    "system.frozen_8bit": Option("false"),
    "system.layer_offload": Option("0"),
    "loss.background_bleach": Option("0"),
    "loss.background_weight": Option("1"),
    "loss.dual_condition": Option("0"),
    "loss.huber": Option("0"),
    "loss.input_perturbation": Option("0"),
    "loss.latent_shuffle": Option("0"),
    "loss.noisy_reference": Option("0"),
    "loss.pyramid_noise": Option("0"),
    "loss.reference_inpaint": Option("0"),
    "loss.sketch_drop": Option("0"),
    "loss.weighting": Option('"none"'),
    "gram.weight": Option("0"),
    "distill.method": Option('"trajectory"'),
    "distill.steps": Option("2"),
    "distill.teacher_steps": Option("4"),
    "distill.solver": Option('"ddim"'),
    "distill.guidance": Option("2"),
    "distill.own_starts": Option("0.5"),
    "distill.truth": Option("0"),
    "distill.modes": Option('["vanilla"]'),
    "distill.lora_rank": Option("0"),
}

VIT_H = "a reference encoder file (OpenCLIP ViT-H/14, or the small one)"
XL_FILES = {"encoder": "a CLIP vision tower (OpenCLIP bigG)", "tagger": "a WD tagger (.safetensors)"}
COLORED = ("color", "sketch", "reference")
LEAN = frozenset({"system.frozen_8bit", "system.layer_offload"})
"""Options of every stage that has frozen networks."""
COLORIZER = LEAN | frozenset(
    {
        "loss.background_weight",
        "loss.huber",
        "loss.input_perturbation",
        "loss.pyramid_noise",
        "loss.weighting",
        "report.samples",
    }
)
"""Options of every stage of a colouriser: those of losses/diffusion.py, and pairs of one's own."""
MASKED = (*COLORED, "mask", "reference_mask")
V1_PARTS = ("U-Net", "sketch encoder", "autoencoder")
XL_PARTS = (*V1_PARTS, "token projection")

TABLE: dict[str, Row] = {
    "v1": Row(
        build=v1.ColorizerStage,
        reads=COLORED,
        exports=V1_PARTS,
        cost=colorizer_cost.v1_cost,
        also_reads=v1.also_reads,
        files={"encoder": VIT_H},
        autoencoder=True,
        options=COLORIZER
        | frozenset(
            {
                "data.cache_folder",
                "data.crop",
                "report.validate_entanglement",
                "model.init_from",
                "model.tokens",
                "model.train_encoder",
                "adapter.kind",
                "loss.dual_condition",
                "loss.latent_shuffle",
                "loss.noisy_reference",
            }
        ),
        bucket_cells=64,
        encodings=v1.encodings,
        sizes=sizes.v1_sizes,
        check=v1.check,
    ),
    "v1_5": Row(
        build=v1_5.RegionStage,
        reads=MASKED,
        exports=(*V1_PARTS, "region LoRAs", "recovery transformer", "threshold embedding"),
        cost=colorizer_cost.v1_5_cost,
        files={"encoder": VIT_H, "init": "a trained v1 checkpoint, to which it adds region weights"},
        both_starts=True,
        options=COLORIZER
        | frozenset(
            {
                "data.cache_folder",
                "data.crop",
                "report.validate_entanglement",
                "model.init_from",
                "adapter.kind",
                "loss.background_bleach",
            }
        ),
        bucket_cells=64,
        encodings=v1_5.encodings,
    ),
    "vae": Row(
        build=vae.AutoencoderStage,
        reads=("color",),
        exports=("autoencoder",),
        cost=vae.cost,
        bucket_cells=32,
    ),
    "encoder": Row(
        build=encoder.EncoderStage,
        reads=("color", "regions"),
        exports=("reference encoder",),
        cost=encoder.cost,
    ),
    "animediffusion": Row(
        build=animediffusion.AnimeDiffusionStage,
        reads=("color",),
        exports=("noise predictor",),
        cost=animediffusion.cost,
        also_reads=animediffusion.also_reads,
        options=frozenset({"model.init_from"}),
        warps=True,
        sizes=animediffusion.network_config,
        check=animediffusion.check,
    ),
    "animediffusion_2": Row(
        build=animediffusion.ChainStage,
        reads=("color",),
        exports=("noise predictor",),
        cost=animediffusion.cost,
        also_reads=animediffusion.also_reads,
        files={"init": "a model of stage animediffusion, which it refines"},
        warps=True,
        check=animediffusion.check,
    ),
    "xl": Row(
        build=xl.XLBackboneStage,
        reads=(*COLORED, "score", "size"),
        exports=XL_PARTS,
        cost=xl_cost.xl_cost,
        also_reads=xl.also_reads,
        files=XL_FILES,
        autoencoder=True,
        options=COLORIZER
        | frozenset(
            {
                "data.cache_folder",
                "report.validate_entanglement",
                "model.init_from",
                "model.second_tower",
                "adapter.kind",
                "loss.reference_inpaint",
                "loss.sketch_drop",
                "gram.weight",
            }
        ),
        bucket_cells=32,
        encodings=xl.encodings,
        sizes=sizes.xl_sizes,
        check=xl.check,
    ),
    "xl_plugin": Row(
        build=xl_regions.XLPluginStage,
        reads=(*MASKED, "score", "size", "crop"),
        exports=(*XL_PARTS, "region LoRAs", "background plugin"),
        cost=xl_cost.xl_plugin_cost,
        files={**XL_FILES, "init": "a trained XL checkpoint, to which it adds weights"},
        options=COLORIZER | {"loss.background_bleach", "loss.reference_inpaint", "loss.sketch_drop"},
        bucket_cells=32,
        encodings=xl.encodings,
        also_reads=xl.also_reads,
        check=xl_regions.check,
    ),
    "xl_lora": Row(
        build=xl_regions.XLRegionStage,
        reads=(*MASKED, "score", "size"),
        exports=(*XL_PARTS, "region LoRAs"),
        cost=xl_cost.xl_lora_cost,
        files={**XL_FILES, "init": "a trained XL checkpoint, to which it adds weights"},
        options=COLORIZER | {"loss.background_bleach", "loss.reference_inpaint", "loss.sketch_drop"},
        bucket_cells=32,
        encodings=xl.encodings,
        also_reads=xl.also_reads,
    ),
    "distill": Row(
        build=distill.DistillStage,
        reads=COLORED,
        exports=("student U-Net", "and what model.init has beside its U-Net"),
        cost=distill_cost.cost,
        also_reads=distill.also_reads,
        files={"encoder": VIT_H, "init": "the model that teaches, of any family of colourisers"},
        both_starts=True,
        options=LEAN
        | frozenset(
            {
                "data.cache_folder",
                "model.init_from",
                "adapter.kind",
                "loss.huber",
                "model.second_tower",
                *(option for option in OPTIONS if option.startswith("distill.")),
            }
        ),
        bucket_cells=64,
        encodings=distill_lessons.encodings,
        check=distill.check,
    ),
}
"""Row of every name of run.stage."""


def row(config: Config) -> Row:
    """The row of the stage that `run.stage` names."""
    return TABLE[config.run.stage]


def needs_of(config: Config) -> tuple[str, ...]:
    """The parts and numbers of a picture that a run reads."""
    return tuple(dict.fromkeys((*row(config).reads, *row(config).also_reads(config))))


def exports_of(config: Config) -> tuple[str, ...]:
    """What stands in the file that a run writes, in words."""
    return (f"{config.adapter.kind} of the U-Net",) if adapted.wanted(config) else row(config).exports


def build_stage(config: Config, device: torch.device) -> Stage:
    """The stage `run.stage` names."""
    return row(checked(config)).build(config, device)


def load(file: str, overrides: Sequence[str] = ()) -> Config:
    """As config.load, with the checks of the stage."""
    return checked(configuration.load(file, overrides))


def checked(config: Config) -> Config:
    """The configuration as it is. ConfigError for what its stage lacks or does not have."""
    kind, stage, model = row(config), config.run.stage, config.model
    _check_options(config)
    for key, what in kind.files.items():
        if not getattr(model, key):
            raise ConfigError(f"model.{key} is empty: stage {stage} needs {what}.")
    if kind.autoencoder and not (model.vae or model.init or model.init_from):
        raise ConfigError(
            f"model.vae is empty: stage {stage} needs an autoencoder, from a file of its own or inside model.init."
        )
    if model.init and model.init_from and not kind.both_starts:
        raise ConfigError(
            "model.init and model.init_from are both set: init continues a model of this family as it is, "
            "init_from fits another one; clear one of them."
        )
    _check_buckets(config)
    kind.check(config)
    adapted.check(config)
    _check_sizes(config)
    return config


def _check_sizes(config: Config) -> None:
    """Sizes of [model], where they count: a file has its own."""
    wanted = row(config).sizes
    if wanted is None or config.model.init:
        return
    try:
        found = wanted(config)
    except ValueError as error:
        raise ConfigError(f"[model]: {error}") from None
    if isinstance(found, UNetConfig):
        sizes.check_lowest_level(config, found)


def _check_options(config: Config) -> None:
    """Keys that the stage would not read say so, instead of doing nothing."""
    for key, option in OPTIONS.items():
        section, _, name = key.partition(".")
        chosen = getattr(config, section)
        if getattr(chosen, name) == type(chosen).__dataclass_fields__[name].default or key in row(config).options:
            continue
        having = [stage for stage, kind in TABLE.items() if key in kind.options]
        stages = f"stages {', '.join(having[:-1])} and {having[-1]}" if len(having) > 1 else f"stage {having[0]}"
        raise ConfigError(f"{key} belongs to {stages}, not to {config.run.stage}: set it to {option.off}{option.hint}.")


def _check_buckets(config: Config) -> None:
    data, cells = config.data, row(config).bucket_cells
    if not data.bucket_step:
        return
    if not cells:
        raise ConfigError(f"stage {config.run.stage} needs pictures of one shape: set data.bucket_step = 0.")
    if data.bucket_step < 0 or data.bucket_step % cells or data.size % data.bucket_step:
        raise ConfigError(
            f"data.bucket_step must be a multiple of {cells} that divides data.size = {data.size}, or 0, "
            f"not {data.bucket_step}."
        )
