"""The whole configuration, and the combinations of its keys that go together whatever is trained."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .learning import AdapterSettings, Distill, Gram, Loss, Optimizer
from .section import ConfigError
from .sections import Augment, Data, Model, Report, RunSettings, System

# Keys that hold paths of this computer.
PATHS = (
    ("run", "output"),
    ("model", "init"),
    ("model", "init_from"),
    ("model", "vae"),
    ("model", "encoder"),
    ("model", "tagger"),
    ("data", "folder"),
    ("data", "holdout"),
    ("data", "cache_folder"),
    ("data", "decoded_folder"),
    ("system", "deepspeed"),
    ("report", "samples"),
)


@dataclass(frozen=True)
class Config:
    run: RunSettings = field(default_factory=RunSettings)
    model: Model = field(default_factory=Model)
    data: Data = field(default_factory=Data)
    augment: Augment = field(default_factory=Augment)
    adapter: AdapterSettings = field(default_factory=AdapterSettings)
    loss: Loss = field(default_factory=Loss)
    gram: Gram = field(default_factory=Gram)
    distill: Distill = field(default_factory=Distill)
    optimizer: Optimizer = field(default_factory=Optimizer)
    system: System = field(default_factory=System)
    report: Report = field(default_factory=Report)

    def __post_init__(self) -> None:
        """What no stage does; what one stage does not do stands beside it (stages/table.py)."""
        if not self.data.folder:
            raise ConfigError(
                "data.folder is empty: name the folder with color/ and sketch/ (python -m trainer demo-data makes one)."
            )
        self._check_references()
        self._check_cuts()
        self._check_kept()
        self._check_report()
        self._check_fused_backward()
        self._check_lean()
        if self.system.deepspeed and self.optimizer.kind not in ("adamw", "adamw8bit"):
            raise ConfigError(
                "system.deepspeed shards the states of AdamW: set optimizer.kind = 'adamw', not "
                f"{self.optimizer.kind!r}."
            )
        if self.system.deepspeed and self.optimizer.ema:
            raise ConfigError(
                "optimizer.ema does not work with system.deepspeed, which shards the weights; set optimizer.ema = 0."
            )

    def _check_fused_backward(self) -> None:
        if not self.optimizer.fused_backward_pass:
            return
        if self.system.deepspeed:
            raise ConfigError(
                "system.deepspeed shards gradients and steps by itself: set optimizer.fused_backward_pass = false, or "
                'system.deepspeed = "".'
            )
        if self.system.precision == "fp16":
            raise ConfigError(
                "optimizer.fused_backward_pass steps before fp16's scaler has seen all gradients: set "
                "system.precision = 'bf16' or 'fp32', or optimizer.fused_backward_pass = false."
            )

    def _check_lean(self) -> None:
        """What goes with frozen weights that are not there as a whole."""
        on = [f"system.{key}" for key in ("frozen_8bit", "layer_offload") if getattr(self.system, key)]
        for key, off in (("compile", '""'), ("deepspeed", '""')):
            if on and getattr(self.system, key):
                raise ConfigError(
                    f"{on[0]} brings each frozen weight when it is used, and system.{key} wants them all there: set "
                    f"system.{key} = {off}, or leave {on[0]} out."
                )
        if self.system.frozen_8bit and self.adapter.frozen != "fp32":
            raise ConfigError(
                f'system.frozen_8bit and adapter.frozen = "{self.adapter.frozen}" are two forms of the same weights: '
                'set adapter.frozen = "fp32", or leave system.frozen_8bit out.'
            )

    def _check_references(self) -> None:
        data = self.data
        if data.deform and data.reference != "self":
            raise ConfigError(
                'data.deform bends the picture into its own reference: set data.reference = "self", or data.deform = 0.'
            )
        if data.min_score and not data.index:
            raise ConfigError("data.min_score needs scores: name the index files in data.index.")
        if data.reference == "listed" and not data.index:
            raise ConfigError(
                'data.reference = "listed" takes the references that an index lists (reference_list): name the index '
                "files in data.index."
            )

    def _check_cuts(self) -> None:
        """Crops, buckets and zooms together."""
        data, augment = self.data, self.augment
        if data.bucket_step and data.crop:
            raise ConfigError("data.crop needs pictures of one shape: set data.bucket_step = 0.")
        if data.decoded_folder and data.bucket_order == "released":
            raise ConfigError(
                'data.decoded_folder keeps one size per picture: use data.bucket_order = "balanced", or no folder.'
            )
        if data.decoded_folder and augment.zoom != 1:
            raise ConfigError("data.decoded_folder keeps one size per picture: set augment.zoom = 1.")

    def _check_kept(self) -> None:
        """What changes from step to step cannot be kept."""
        data, augment = self.data, self.augment
        kept = next((name for name in ("cache", "cache_folder") if getattr(data, name)), None)
        if kept and augment.zoom != 1:
            raise ConfigError(
                f"data.{kept} keeps one encoding of a picture, but augment.zoom shows another cut each time: set "
                f"augment.zoom = 1, or train without data.{kept} (data.decoded_folder keeps decoded pictures)."
            )
        if data.cache and augment.flip:
            raise ConfigError(
                "data.cache keeps one encoding of a picture: set augment.flip = 0, or use data.cache_folder, which "
                "keeps both."
            )
        if kept and data.bucket_order == "released" and data.bucket_step:
            raise ConfigError(
                f"data.{kept} keeps one cut of a picture, which data.bucket_order = 'released' changes from epoch "
                f"to epoch: set data.bucket_order = 'balanced', or train without data.{kept}."
            )
        if self.loss.latent_shuffle and self.loss.shuffle_variant == "patches" and data.cache_folder:
            raise ConfigError(
                'loss.shuffle_variant = "patches" changes references before the encoder, and data.cache_folder holds '
                "what the encoder said to unchanged ones: clear data.cache_folder, or set loss.shuffle_variant to "
                '"tokens".'
            )

    def _check_report(self) -> None:
        report = self.report
        if report.validate_every and not self.data.holdout:
            raise ConfigError(
                "report.validate_every needs held-out pictures: set data.holdout to their folder, "
                "or report.validate_every = 0."
            )
        if report.sample_every and report.sample_count < 1:
            raise ConfigError("report.sample_count must be at least 1; report.sample_every = 0 draws no sheets.")
        if report.validate_entanglement and report.validate_count < 2:
            raise ConfigError(
                "report.validate_entanglement compares samples with each other: set report.validate_count to 2 or more."
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dictionaries, as printed and saved beside the run."""
        return dataclasses.asdict(self)

    def shareable(self) -> dict[str, Any]:
        """As `to_dict`, with paths reduced to their last part: what exported files carry."""
        values = self.to_dict()
        for section, key in PATHS:
            values[section][key] = Path(values[section][key]).name
        values["data"]["index"] = tuple(Path(name).name for name in self.data.index)
        return values
