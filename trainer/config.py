"""The trainer's configuration: typed sections, a TOML file, `--section.key value` on the command line.

Every field carries its meaning and unit below it. An unknown key fails with the closest known name.
"""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

PRESETS = Path(__file__).parent / "presets"

# Keys that hold paths of this computer.
PATHS = (
    ("run", "output"),
    ("model", "init"),
    ("model", "vae"),
    ("model", "encoder"),
    ("data", "folder"),
    ("system", "deepspeed"),
)


class ConfigError(ValueError):
    """A mistake in the configuration; the text says where and what to write instead."""


@dataclass(frozen=True)
class Run:
    stage: Literal["v1", "v1_5", "vae", "encoder"] = "v1"
    """What is trained: the colouriser; its region weights for split attention (v1.5); the small autoencoder; the small
    reference encoder."""
    output: str = "runs/unnamed"
    """Folder of this run: checkpoints, log, sample sheets. Starting again with the same folder resumes."""
    steps: int = 1000
    """Optimiser steps of the whole run."""
    seed: int = 0
    """Every random choice is derived from this number and the step."""


@dataclass(frozen=True)
class Model:
    init: str = ""
    """Checkpoint (.safetensors) to start from; empty starts from random weights."""
    vae: str = ""
    """File with the autoencoder (first_stage_model.* or bare names); empty takes the one inside `init`."""
    encoder: str = ""
    """File with the reference encoder (stages v1 and v1_5)."""
    prediction_type: Literal["v", "eps"] = "v"
    """What the U-Net answers."""
    model_channels: int = 320
    """Width of the U-Net's first level, for random initialisation."""
    channel_mult: tuple[int, ...] = (1, 2, 4, 4)
    """Width of each level over model_channels, for random initialisation."""
    num_head_channels: int = 64
    """Width of one attention head."""
    region_rank_figure: float = 4
    """Rank of the figure's LoRA (stage v1_5): a whole number from 1 on, or a fraction of each layer's smaller side."""
    region_rank_background: float = 0.5
    """Rank of the background's LoRA (stage v1_5), likewise."""
    recovery_layers: int = 6
    """Layers of the recovery transformer, which makes tokens of a whole background (stage v1_5)."""
    encoder_size: int = 112
    """Side of the reference encoder's input in pixels (stage encoder)."""
    encoder_patch: int = 8
    """Side of one patch in pixels (stage encoder)."""
    encoder_width: int = 192
    """Width of the tower and of its tokens (stage encoder)."""
    encoder_layers: int = 4
    """Transformer blocks of the tower (stage encoder)."""


@dataclass(frozen=True)
class Data:
    folder: str = ""
    """Folder with color/, sketch/ and, for reference = "folder", reference/ (same file stems)."""
    size: int = 512
    """Side of the square training pictures in pixels; a multiple of 64."""
    crop: int = 0
    """Side of random crops in pixels, a multiple of 64 (stages v1, v1_5); 0 takes whole pictures. References stay
    whole."""
    reference: Literal["folder", "group", "self"] = "folder"
    """Where the reference comes from: reference/<stem>, another picture of the group (stem before the last "_"),
    or the picture itself. Stage v1_5 also reads mask/ and, for "folder", reference_mask/."""
    deform: float = 0.0
    """Strength 0..1 of the random bending of references (deform training), for reference = "self"."""
    reference_mask_cell: tuple[int, ...] = ()
    """Height and width in pixels of the cells to which reference masks are grown, so that the figure's outline cannot
    be read off its background (stage v1_5; released trainer: 60, 40); empty keeps the masks as they are."""
    cache: bool = False
    """Keep decoded pictures, latents and reference tokens in memory."""
    workers: int = 0
    """Processes that read pictures; 0 reads in the training process."""


@dataclass(frozen=True)
class Loss:
    reference_drop: float = 0.5
    """Probability that a sample trains without its reference."""
    reference_drop_end: float = -1.0
    """Where reference_drop arrives at the end of the run, linearly (v1.5: from 0.8 to 0.5); negative keeps it."""
    dual_condition: float = 0.0
    """Weight of the second error of dual-conditioned training (stage v1; paper: 4), which costs a second forward pass;
    0 switches it off."""
    background_bleach: float = 0.0
    """Probability that picture, sketch and reference of a sample have a white background (stage v1_5)."""
    latent_shuffle: float = 0.0
    """Probability that a batch has its local tokens permuted."""
    noisy_reference: float = 0.0
    """Probability that a batch has noise added to its tokens (noisy training, eq. 3)."""
    noisy_variant: Literal["paper", "released"] = "released"
    """Which step's noise the tokens get: see losses/noisy_reference.py."""
    offset_noise: float = 0.0
    """Per-channel noise offset; the released configs use 0.05."""
    min_snr_gamma: float = 0.0
    """Clamp of the min-SNR weight; 0 switches the weights off, 5 is the usual value."""


@dataclass(frozen=True)
class Optimizer:
    lr: float = 1e-5
    """Peak learning rate."""
    betas: tuple[float, ...] = (0.9, 0.999)
    """Decay rates of AdamW's moments."""
    weight_decay: float = 0.01
    """Decoupled weight decay of AdamW."""
    warmup: int = 0
    """Steps over which the learning rate rises from 0."""
    decay: Literal["constant", "cosine"] = "constant"
    """Shape of the learning rate after the warm-up; cosine ends at a hundredth of the peak."""
    clip: float = 1.0
    """Largest norm of the gradient; 0 switches clipping off."""
    batch: int = 8
    """Samples of one process and micro step."""
    accumulate: int = 1
    """Micro steps per optimiser step."""
    ema: float = 0.0
    """Decay of the moving average of the weights; 0 switches it off, 0.9999 is the usual value."""
    ema_device: Literal["same", "cpu"] = "same"
    """Where the moving average lives; cpu frees accelerator memory."""
    freeze: tuple[str, ...] = ()
    """Prefixes of parameter names that are not trained."""


@dataclass(frozen=True)
class System:
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"
    """Arithmetic of the forward pass; weights and optimiser stay fp32."""
    gradient_checkpointing: bool = False
    """Recompute blocks in the backward pass: less memory, about a third more time."""
    channels_last: bool = True
    """Memory layout of convolutions; faster on CPUs and recent GPUs."""
    deepspeed: str = ""
    """A DeepSpeed JSON config (ZeRO); needs deepspeed and `accelerate launch`."""
    threads: int = 0
    """CPU threads; 0 leaves torch's default."""


@dataclass(frozen=True)
class Report:
    log_every: int = 10
    """Steps between two lines of log.jsonl."""
    sample_every: int = 500
    """Steps between two sample sheets; 0 draws none."""
    sample_count: int = 6
    """Rows of a sample sheet."""
    sample_steps: int = 20
    """Denoising steps of a sample."""
    guidance: float = 2.0
    """Reference guidance of a sample."""
    save_every: int = 1000
    """Steps between two checkpoints; the last step is always saved."""
    keep: int = 2
    """Checkpoints kept; older ones are deleted."""


@dataclass(frozen=True)
class Config:
    run: Run = field(default_factory=Run)
    model: Model = field(default_factory=Model)
    data: Data = field(default_factory=Data)
    loss: Loss = field(default_factory=Loss)
    optimizer: Optimizer = field(default_factory=Optimizer)
    system: System = field(default_factory=System)
    report: Report = field(default_factory=Report)

    def __post_init__(self):
        if not self.data.folder:
            raise ConfigError(
                "data.folder is empty: name the folder with color/ and sketch/ (python -m trainer demo-data makes one)."
            )
        if self.data.size % 64:
            nearest = max(64, round(self.data.size / 64) * 64)
            raise ConfigError(f"data.size must be a multiple of 64, not {self.data.size}; the nearest is {nearest}.")
        if self.data.crop % 64 or self.data.crop > self.data.size:
            raise ConfigError(f"data.crop must be a multiple of 64 up to data.size, or 0, not {self.data.crop}.")
        for name in ("reference_drop", "latent_shuffle", "noisy_reference", "background_bleach"):
            if not 0 <= getattr(self.loss, name) <= 1:
                raise ConfigError(f"loss.{name} is a probability between 0 and 1, not {getattr(self.loss, name)}.")
        if self.loss.reference_drop_end > 1:
            raise ConfigError(
                "loss.reference_drop_end is a probability, or negative to keep loss.reference_drop, "
                f"not {self.loss.reference_drop_end}."
            )
        if not 0 <= self.data.deform <= 1:
            raise ConfigError(f"data.deform is a strength between 0 and 1, not {self.data.deform}.")
        if self.data.deform and self.data.reference != "self":
            raise ConfigError(
                'data.deform bends the picture into its own reference: set data.reference = "self", or data.deform = 0.'
            )
        if len(cell := self.data.reference_mask_cell) not in (0, 2) or min(cell, default=1) < 1:
            raise ConfigError(f"data.reference_mask_cell is a height and a width in pixels, or empty, not {cell}.")
        for name in ("region_rank_figure", "region_rank_background"):
            rank = getattr(self.model, name)
            if rank <= 0 or (rank >= 1 and rank != int(rank)):
                raise ConfigError(f"model.{name} is a whole number from 1 on, or a fraction below 1, not {rank}.")
        for section, name in (
            ("model", "recovery_layers"),
            ("run", "steps"),
            ("optimizer", "batch"),
            ("optimizer", "accumulate"),
            ("report", "log_every"),
            ("report", "save_every"),
        ):
            if getattr(getattr(self, section), name) < 1:
                raise ConfigError(f"{section}.{name} must be at least 1.")
        if self.run.stage in ("v1", "v1_5") and not self.model.encoder:
            raise ConfigError(
                f"model.encoder is empty: stage {self.run.stage} needs a reference encoder file "
                "(OpenCLIP ViT-H/14, or the small one)."
            )
        if self.run.stage == "v1_5" and not self.model.init:
            raise ConfigError("model.init is empty: stage v1_5 adds region weights to a trained v1 checkpoint.")
        for name in ("dual_condition", "latent_shuffle", "noisy_reference"):
            if self.run.stage == "v1_5" and getattr(self.loss, name):
                raise ConfigError(f"loss.{name} is a strategy of stage v1; set it to 0 for stage v1_5.")
        if self.run.stage == "v1" and not (self.model.vae or self.model.init):
            raise ConfigError(
                "model.vae is empty: stage v1 needs an autoencoder, from a file of its own or inside model.init."
            )
        if self.system.deepspeed and self.optimizer.ema:
            raise ConfigError(
                "optimizer.ema does not work with system.deepspeed, which shards the weights; set optimizer.ema = 0."
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dictionaries, as printed and saved beside the run."""
        return dataclasses.asdict(self)

    def shareable(self) -> dict[str, Any]:
        """As `to_dict`, with paths reduced to their last part: what exported files carry."""
        values = self.to_dict()
        for section, key in PATHS:
            values[section][key] = Path(values[section][key]).name
        return values


def _unknown(kind: str, name: str, known: Sequence[str]) -> ConfigError:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}."
    return ConfigError(f"Unknown {kind} {name!r}; {hint}")


def _convert(value: Any, kind: Any, where: str) -> Any:
    """Check a TOML or command-line value against a field's type and convert it."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    text = isinstance(value, str)
    try:
        if origin is Literal:
            if value not in arguments:
                raise _unknown(f"value of {where}", str(value), [str(a) for a in arguments])
            return value
        if origin is tuple:
            items = [v for v in value.replace(",", " ").split()] if text else list(value)
            return tuple(_convert(item, arguments[0], where) for item in items)
        if kind is bool:
            if isinstance(value, bool):
                return value
            if text and value.lower() in ("true", "false", "1", "0", "yes", "no"):
                return value.lower() in ("true", "1", "yes")
        elif kind is int:
            if not isinstance(value, bool) and (text or int(value) == value):
                return int(value)
        elif kind is float:
            if not isinstance(value, bool):
                return float(value)
        elif kind is str and text:
            return value
    except ConfigError:
        raise
    except (TypeError, ValueError, AttributeError):
        pass
    raise ConfigError(f"{where} = {value!r} is not a {getattr(kind, '__name__', kind)}.")


def build(values: dict[str, dict[str, Any]]) -> Config:
    """A checked Config from nested dictionaries."""
    sections = {f.name: f.default_factory for f in dataclasses.fields(Config)}
    built = {}
    for section, content in values.items():
        if section not in sections:
            raise _unknown("section", section, list(sections))
        if not isinstance(content, dict):
            raise ConfigError(f"{section} is a section, not a value: write [{section}] and its keys below it.")
        kinds = typing.get_type_hints(sections[section])
        for key in content:
            if key not in kinds:
                raise _unknown(f"key in [{section}]", key, list(kinds))
        built[section] = sections[section](**{k: _convert(v, kinds[k], f"{section}.{k}") for k, v in content.items()})
    return Config(**built)


def find_file(name: str) -> Path:
    """A TOML file by path, or a preset by its bare name."""
    for path in (Path(name), PRESETS / name, PRESETS / f"{name}.toml"):
        if path.is_file():
            return path
    presets = ", ".join(sorted(p.stem for p in PRESETS.glob("*.toml")))
    raise ConfigError(f"No configuration file {name!r}; give a path or one of the presets: {presets}.")


def load(file: str, overrides: Sequence[str] = ()) -> Config:
    """Read a TOML file (or preset) and apply overrides of the form --section.key value or --section.key=value."""
    path = find_file(file)
    try:
        values: dict[str, dict[str, Any]] = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}.") from None
    rest = list(overrides)
    while rest:
        option = rest.pop(0)
        name, separator, value = option.removeprefix("--").partition("=")
        section, dot, key = name.partition(".")
        if not option.startswith("--") or not dot:
            raise ConfigError(f"{option!r} is not an override; write --section.key value.")
        if not separator:
            if not rest:
                raise ConfigError(f"{option} needs a value.")
            value = rest.pop(0)
        values.setdefault(section, {})[key] = value
    return build(values)
