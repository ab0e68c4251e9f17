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
    ("model", "init_from"),
    ("model", "vae"),
    ("model", "encoder"),
    ("model", "tagger"),
    ("data", "folder"),
    ("data", "holdout"),
    ("data", "cache_folder"),
    ("data", "decoded_folder"),
    ("system", "deepspeed"),
)


ANIMEDIFFUSION = ("animediffusion", "animediffusion_2")
"""The two phases of AnimeDiffusion."""


XL = ("xl", "xl_plugin", "xl_lora")
"""ColorizeDiffusion XL: backbone, background plugin, region weights."""


class ConfigError(ValueError):
    """A mistake in the configuration; the text says where and what to write instead."""


@dataclass(frozen=True)
class Run:
    stage: Literal[
        "v1", "v1_5", "vae", "encoder", "animediffusion", "animediffusion_2", "xl", "xl_plugin", "xl_lora"
    ] = "v1"
    """What is trained: the colouriser; its region weights for split attention (v1.5); the small autoencoder; the small
    reference encoder; AnimeDiffusion's first phase (noise prediction) and its second (the whole sampling chain); the XL
    colouriser, its background plugin, or its region weights."""
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
    init_from: str = ""
    """Checkpoint of another model (Stable Diffusion, Waifu Diffusion, another width) whose weights are fitted to the
    configured sizes where names agree; the rest starts random. See init_from.py. Stage v1_5 takes its region weights
    and recovery from there; the model they are trained on stays `init`."""
    vae: str = ""
    """File with the autoencoder (first_stage_model.* or bare names); empty takes the one inside `init`."""
    encoder: str = ""
    """File with the reference encoder (stages v1 and v1_5: OpenCLIP ViT-H/14; XL: bigG)."""
    train_encoder: bool = False
    """Train the reference encoder too (stage v1): the tower and the projection of its features, not the features
    themselves. The run then exports a second file, NAME-encoder.safetensors."""
    tagger: str = ""
    """File with the WD tagger (.safetensors) whose patch features are part of the reference (XL stages)."""
    prediction_type: Literal["v", "eps"] = "v"
    """What the U-Net answers."""
    model_channels: int = 320
    """Width of the U-Net's first level, for random initialisation."""
    channel_mult: tuple[int, ...] = (1, 2, 4, 4)
    """Width of each level over model_channels, for random initialisation."""
    num_head_channels: int = 64
    """Width of one attention head."""
    transformer_depth: tuple[int, ...] = (0, 2, 10)
    """Transformer blocks in a row on each level, for random initialisation (stage xl); 0 has no attention there."""
    token_width: int = 2048
    """Width of the reference tokens, for random initialisation (stage xl)."""
    region_rank_figure: float = 4
    """Rank of the figure's LoRA (stage v1_5): a whole number from 1 on, or a fraction of each layer's smaller side."""
    region_rank_background: float = 0.5
    """Rank of the background's LoRA (stage v1_5), likewise."""
    recovery_layers: int = 6
    """Layers of the recovery transformer, which makes tokens of a whole background (stage v1_5)."""
    residual_blocks: int = 2
    """Residual blocks per level, for random initialisation (stage animediffusion)."""
    attention_heads: int = 4
    """Heads of the bottleneck's attention (stages animediffusion, animediffusion_2); files do not tell it."""
    cbam: bool = False
    """Channel and spatial attention in the decoder, for random initialisation (stage animediffusion)."""
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
    """Folder with color/, sketch/ and, for reference = "folder", reference/: pictures (same file stems), or zip shards
    (the member 0001/10001.png lies in 0001.zip of every part)."""
    index: tuple[str, ...] = ()
    """Index files (.json or .parquet) of the pictures to train on: names in the folder or its data_index/, or paths.
    Empty lists the folder. See data/index.py."""
    min_score: float = 0.0
    """Least aesthetic score, of an index; pictures without one count as 5.51 (released XL trainer: 5.5)."""
    min_side: int = 0
    """Least shorter side in pixels of the files, where the index gives it (released XL trainer: 768)."""
    sketch_styles: tuple[str, ...] = ()
    """Styles of sketches to draw from, one per picture and step: of sketch/<style>/ or sketch_<style>/; "sketch" is the
    folder itself. Empty takes all that are there."""
    bucket_step: int = 0
    """Batches of several shapes: the sides are multiples of this many pixels and add up to twice `size` (v1: 64, XL:
    32). 0 cuts squares. Needs sizes: from an index, else every file's header is read once."""
    bucket_ratio: float = 2.0
    """Longest side over shortest of a bucket at most (released: 1.8 for XL at 1024 px, 1.7 for v1 at 768 px)."""
    bucket_sides: Literal["sum", "short"] = "sum"
    """What the buckets have in common: sides that add up to twice `size`, or a shorter side of `size` (which then costs
    more memory the longer the other is)."""
    bucket_order: Literal["balanced", "released"] = "balanced"
    """Batches of one bucket, every picture once per epoch; or as the released XL trainer composes them, by orientation
    and similar ratio, with what fills no batch left out."""
    size: int = 512
    """Side of the square training pictures in pixels; a multiple of 64."""
    crop: int = 0
    """Side of random crops in pixels, a multiple of 64 (stages v1, v1_5); 0 takes whole pictures. References stay
    whole."""
    reference: Literal["folder", "group", "self", "listed"] = "folder"
    """Where the reference comes from: reference/<stem>, another picture of the group (see groups), the picture itself,
    or one that the index lists for it (reference_list). Stage v1_5 also reads
    mask/ and, for "folder", reference_mask/."""
    groups: Literal["folders", "names"] = "folders"
    """Which pictures are a group, for reference = "group". "folders": those in one folder below color/, or to which an
    index gives the same `group`; a picture in no folder is alone. "names": those whose names are alike up to the last
    "_", such as anna_01 and anna_02."""
    deform: float = 0.0
    """Strength 0..1 of the random bending of references (deform training), for reference = "self"."""
    deform_kind: Literal["tps", "mls_rigid", "mls_similar", "mls_affine"] = "tps"
    """Thin plate spline, or moving least squares (paper of v1)."""
    reference_mask_cell: tuple[int, ...] = ()
    """Height and width in pixels of the cells to which reference masks are grown, so that the figure's outline cannot
    be read off its background (stage v1_5; released trainer: 60, 40); empty keeps the masks as they are."""
    line_sigmas: tuple[float, ...] = (0.3, 0.4, 0.5)
    """Widths in pixels of the XDoG lines, one drawn per picture and step (stages animediffusion, animediffusion_2);
    empty takes the drawings of sketch/."""
    line_variant: Literal["paper", "released"] = "paper"
    """Formula and strength of the XDoG lines: see colorize/sketch/extractors/xdog.py."""
    cache: bool = False
    """Keep decoded pictures, latents and reference tokens in memory."""
    cache_folder: str = ""
    """Folder of encodings that `python -m trainer cache` has written (stages v1, v1_5): latents and reference tokens.
    With all of them there, the run needs no encoder in memory. Pictures that are not square are cut in the middle, as
    with `cache`. Empty: none."""
    cache_values: Literal["fp32", "bf16"] = "fp32"
    """How the encodings in cache_folder are kept: fp32 is exact, bf16 takes half the space."""
    latents: Literal["mean", "sampled"] = "mean"
    """What of the autoencoder's answer is trained on: its mean, or a sample of its distribution, new in every step (as
    the released trainers do). The small autoencoder has no distribution."""
    workers: int = 0
    """Processes that read pictures; 0 reads in the training process."""
    decoded_folder: str = ""
    """Folder for decoded and resized pictures (about 1.8 MB per picture at 512 px): what was decoded once is read from
    there. Unlike `cache_folder` it leaves random cuts and encoders as they are. Empty: none."""
    holdout: str = ""
    """Folder of held-out pictures, laid out as `folder`, for report.validate_every."""

    def held_out(self) -> Data:
        """The same for the pictures in `holdout`: all of them, as squares. No index serves them: where the run's lists
        the references, those of a group are taken."""
        return dataclasses.replace(
            self,
            folder=self.holdout,
            index=(),
            reference="group" if self.reference == "listed" else self.reference,
            min_score=0.0,
            min_side=0,
            sketch_styles=(),
            bucket_step=0,
        )


@dataclass(frozen=True)
class Augment:
    """Random changes of training samples (data/augment/). Probabilities are between 0 and 1; 0 switches off."""

    flip: float = 0.0
    """Probability that picture, sketch and mask are mirrored, and, drawn apart, the reference."""
    zoom: float = 1.0
    """Pictures are enlarged by up to this factor before a random place is cut (released v1.5: 544 / 512)."""
    mask_grow: float = 0.0
    """Probability that a reference mask is grown to cells of 60 x 40 pixels (released XL trainer: 0.33)."""
    mask_erase: float = 0.0
    """Probability that, not grown, it may lose a rectangle to the figure, every second time (released: 0.33)."""
    mask_box: float = 0.0
    """Probability that, neither grown nor erased, it becomes the rectangle around the figure."""
    mask_dilation: int = 1
    """Odd side in pixels of the square by which it is dilated otherwise (released: 21); 1 leaves it."""
    sketch_border: int = 0
    """Widest white border in pixels that is laid over sketches, at random (released XL trainer: 201 at 1024 px)."""
    sketch_faint: float = 0.0
    """Probability of light, uneven lines."""
    sketch_grain: float = 0.0
    """Probability of pencil on rough paper."""
    sketch_gaps: float = 0.0
    """Probability of lines that do not close."""
    sketch_double: float = 0.0
    """Probability of a second, lighter stroke beside every line."""
    sketch_trace: float = 0.0
    """Probability of coloured trace marks, as animators draw around shadows; sketches then have three channels."""

    def __post_init__(self):
        styles = (f"sketch_{style}" for style in self.sketch_rates())
        for name in ("flip", "mask_grow", "mask_erase", "mask_box", *styles):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"augment.{name} is a probability between 0 and 1, not {getattr(self, name)}.")
        if self.zoom < 1:
            raise ConfigError(f"augment.zoom is a factor of at least 1, not {self.zoom}.")
        if self.mask_dilation < 1 or self.mask_dilation % 2 == 0:
            raise ConfigError(f"augment.mask_dilation is an odd number of pixels, not {self.mask_dilation}.")
        if self.sketch_border < 0:
            raise ConfigError(f"augment.sketch_border is a number of pixels, not {self.sketch_border}.")

    def sketch_rates(self) -> dict[str, float]:
        """Probability of every style of data/augment/lines.py."""
        return {style: getattr(self, f"sketch_{style}") for style in ("double", "gaps", "faint", "grain", "trace")}


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
    """Probability that a batch has its references shuffled (stage v1)."""
    shuffle_variant: Literal["tokens", "patches"] = "tokens"
    """What changes places. "tokens": the encoder's local tokens, as in the v1 paper; cross-attention does not see the
    order of its tokens, so this trains the same model (see losses/latent_shuffle.py). "patches": the patches of the
    reference before the encoder, which does change what the model is told (ours)."""
    noisy_reference: float = 0.0
    """Probability that a batch has noise added to its tokens (noisy training, eq. 3)."""
    noisy_variant: Literal["paper", "released"] = "released"
    """Which step's noise the tokens get: see losses/noisy_reference.py."""
    offset_noise: float = 0.0
    """Per-channel noise offset; the released configs use 0.05."""
    min_snr_gamma: float = 0.0
    """Clamp of the min-SNR weight; 0 switches the weights off, 5 is the usual value."""
    sketch_drop: float = 0.0
    """Probability that a level of the sketch's features is left out, drawn for every level and sample by itself (stage
    xl; released: 0.1)."""
    reference_inpaint: float = 0.0
    """Probability that a sample's reference loses, to white, what lies inside another picture's figure mask (stage xl;
    released: 0.1)."""
    reduction: Literal["mean", "sum"] = "mean"
    """Of the squared error of stage animediffusion; the released trainer sums over batch, channels and pixels."""
    chain_steps: int = 10
    """Sampling steps of the chain that stage animediffusion_2 trains."""
    chain_eta: float = 0.0
    """Share 0..1 of fresh noise in the steps of that chain (paper: 0, released trainer: 1)."""
    chain_start: Literal["picture", "reference", "noise"] = "picture"
    """What that chain starts from: the picture made noise by forward_walk (paper), its warped reference made noise so
    (what inference has), or plain noise."""
    forward_walk: Literal["paper", "released"] = "paper"
    """How stage animediffusion_2 makes noise of a picture: by the network at every step (paper), or starting with
    random noise and leaving the time step out (released trainer)."""


@dataclass(frozen=True)
class Gram:
    """The loss that keeps the structure of the features free of the reference (stage xl; losses/gram.py)."""

    weight: float = 0.0
    """Weight of the loss (released: 1), which costs about half a forward and backward pass; 0 switches it off."""
    start: float = 0.33
    """Share of the run after which it begins (paper: 0.33)."""
    variant: Literal["mse", "kl", "ranking", "bce"] = "mse"
    """How two Gram matrices are compared."""
    temperature: float = 1.0
    """Of variant kl."""
    blocks: Literal["last", "released", "levels"] = "last"
    """Which transformer blocks are compared: the last of the lowest resolution (paper), those before them, or the last
    of every resolution. The third leaves the reference no way around the loss, and costs more (docs/LOG.md)."""
    other: Literal["dataset", "batch"] = "dataset"
    """Where the other reference comes from: a picture of another group of the data set (paper), which is encoded too,
    or the next sample of the batch (released), which needs optimizer.batch of at least 2."""
    normalise_rows: bool = False
    """Scale the rows of the matrices to length 1 as well."""
    standardise: bool = False
    """Standardise every channel over the picture first."""
    figure_only: bool = False
    """Compare places inside the figure mask only; reads mask/."""
    train_projection: bool = True
    """Let the gradient of the misaligned branch reach the token projection."""

    def __post_init__(self):
        if self.weight < 0:
            raise ConfigError(f"gram.weight is at least 0, not {self.weight}.")
        if not 0 <= self.start <= 1:
            raise ConfigError(f"gram.start is a share of the run between 0 and 1, not {self.start}.")
        if self.temperature <= 0:
            raise ConfigError(f"gram.temperature is above 0, not {self.temperature}.")


@dataclass(frozen=True)
class Optimizer:
    kind: Literal["adamw", "adamw8bit"] = "adamw"
    """adamw8bit keeps the moments in 8 bits, a quarter of the memory; needs the package bitsandbytes and a GPU."""
    fused: bool = True
    """One kernel for the whole update, where the device has it."""
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
    lowest_lr: float = -1.0
    """Learning rate at which the warm-up starts and the cosine ends; negative: 0 and a hundredth of the peak."""
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
    """Recompute blocks (stage animediffusion_2: steps of the chain) in the backward pass: less memory, about a third
    more time."""
    channels_last: bool = True
    """Memory layout of convolutions; faster on CPUs and recent GPUs."""
    compile: str = ""
    """Backend of torch.compile for the trained networks: "inductor", or "aot_eager" to look for faults; empty compiles
    nothing."""
    peak_tflops: float = 0.0
    """Peak of the device in TFLOP/s at this precision, for the utilisation in the log; 0 takes it from a table of
    common GPUs."""
    deepspeed: str = ""
    """A DeepSpeed JSON config, or the name of one in presets/deepspeed ("zero2"): its "auto" values are filled from
    this configuration. Needs the package deepspeed (Linux) and `accelerate launch`."""
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
    """Newest checkpoints kept, 0 keeps all; older ones are deleted, except the best by validation."""
    validate_every: int = 0
    """Steps between two validations on data.holdout; 0 never validates. The checkpoint with the lowest loss is kept."""
    validate_count: int = 32
    """Samples of a validation: always the same ones, with the same draws."""
    validate_bins: int = 10
    """Equal parts of the noise schedule whose losses are told apart; every sample is asked once in each."""
    validate_entanglement: bool = False
    """Whether a validation also colours the first held-out sketches (one batch, two or more) with and without another
    picture as reference, and says how much structure comes from it (stages v1, v1_5, xl)."""


@dataclass(frozen=True)
class Config:
    run: Run = field(default_factory=Run)
    model: Model = field(default_factory=Model)
    data: Data = field(default_factory=Data)
    augment: Augment = field(default_factory=Augment)
    loss: Loss = field(default_factory=Loss)
    gram: Gram = field(default_factory=Gram)
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
        self._check_data()
        if not 0 <= self.data.deform <= 1:
            raise ConfigError(f"data.deform is a strength between 0 and 1, not {self.data.deform}.")
        if self.data.deform and self.data.reference != "self":
            raise ConfigError(
                'data.deform bends the picture into its own reference: set data.reference = "self", or data.deform = 0.'
            )
        if self.data.cache_folder and self.run.stage not in ("v1", "v1_5", "xl"):
            raise ConfigError(
                f"data.cache_folder serves the stages v1, v1_5 and xl, not {self.run.stage}: clear it "
                "(data.decoded_folder keeps decoded pictures for every stage)."
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
            ("report", "validate_count"),
            ("report", "validate_bins"),
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
        if self.loss.latent_shuffle and self.loss.shuffle_variant == "patches" and self.data.cache_folder:
            raise ConfigError(
                'loss.shuffle_variant = "patches" changes references before the encoder, and data.cache_folder holds '
                "what the encoder said to unchanged ones: clear data.cache_folder, or set loss.shuffle_variant to "
                '"tokens".'
            )
        if self.model.init and self.model.init_from and self.run.stage != "v1_5":
            raise ConfigError(
                "model.init and model.init_from are both set: init continues a model of this family as it is, "
                "init_from fits another one; clear one of them."
            )
        if self.model.init_from and self.run.stage in ("vae", "encoder"):
            raise ConfigError(f"model.init_from does not serve stage {self.run.stage}, which starts from model.init.")
        if self.report.validate_every and not self.data.holdout:
            raise ConfigError(
                "report.validate_every needs held-out pictures: set data.holdout to their folder, "
                "or report.validate_every = 0."
            )
        if self.report.sample_every and self.report.sample_count < 1:
            raise ConfigError("report.sample_count must be at least 1; report.sample_every = 0 draws no sheets.")
        if self.report.validate_entanglement:
            if self.run.stage not in ("v1", "v1_5", "xl"):
                raise ConfigError(
                    f"report.validate_entanglement serves the stages v1, v1_5 and xl, not {self.run.stage}: set it to "
                    "false."
                )
            if self.report.validate_count < 2:
                raise ConfigError(
                    "report.validate_entanglement compares samples with each other: set report.validate_count to 2 or "
                    "more."
                )
        if self.run.stage == "v1" and not (self.model.vae or self.model.init or self.model.init_from):
            raise ConfigError(
                "model.vae is empty: stage v1 needs an autoencoder, from a file of its own or inside model.init."
            )
        if self.run.stage in ANIMEDIFFUSION:
            self._check_animediffusion()
        self._check_xl()
        if self.system.deepspeed and self.optimizer.ema:
            raise ConfigError(
                "optimizer.ema does not work with system.deepspeed, which shards the weights; set optimizer.ema = 0."
            )

    def _check_xl(self) -> None:
        model, stage = self.model, self.run.stage
        for name in ("sketch_drop", "reference_inpaint"):
            if not 0 <= getattr(self.loss, name) <= 1:
                raise ConfigError(f"loss.{name} is a probability between 0 and 1, not {getattr(self.loss, name)}.")
            if getattr(self.loss, name) and stage != "xl":
                raise ConfigError(f"loss.{name} is a strategy of stage xl; set it to 0 for stage {stage}.")
        if self.gram.weight and stage != "xl":
            raise ConfigError(f"gram.weight belongs to stage xl; set it to 0 for stage {stage}.")
        if stage not in XL:
            return
        needed = {"encoder": "a CLIP vision tower (OpenCLIP bigG)", "tagger": "a WD tagger (.safetensors)"}
        for name, what in needed.items():
            if not getattr(model, name):
                raise ConfigError(f"model.{name} is empty: stage {stage} needs {what}.")
        if stage != "xl" and not model.init:
            raise ConfigError(f"model.init is empty: stage {stage} adds weights to a trained XL checkpoint.")
        if not (model.vae or model.init or model.init_from):
            raise ConfigError(f"model.vae is empty: stage {stage} needs an autoencoder, from a file of its own.")
        if stage == "xl" and not model.init and len(model.transformer_depth) != len(model.channel_mult):
            raise ConfigError(
                f"model.transformer_depth has {len(model.transformer_depth)} numbers and model.channel_mult "
                f"{len(model.channel_mult)}; XL has three of each: [0, 2, 10] and [1, 2, 4]."
            )
        if self.gram.weight and self.gram.other == "batch" and self.optimizer.batch < 2:
            raise ConfigError(
                'gram.other = "batch" takes the reference of the next sample, but optimizer.batch is 1: set gram.other '
                '= "dataset", or a larger batch.'
            )
        for name in ("dual_condition", "latent_shuffle", "noisy_reference"):
            if getattr(self.loss, name):
                raise ConfigError(f"loss.{name} is a strategy of stage v1; set it to 0 for stage {stage}.")
        if self.data.crop:
            raise ConfigError(f"data.crop serves stages v1 and v1_5; stage {stage} has data.bucket_step instead.")

    def _check_animediffusion(self) -> None:
        if self.data.reference != "self":
            raise ConfigError(
                f"data.reference is {self.data.reference!r}: stage {self.run.stage} bends the picture into its own "
                'reference; set data.reference = "self" and data.deform = 1.'
            )
        if self.run.stage == "animediffusion_2" and not self.model.init:
            raise ConfigError("model.init is empty: stage animediffusion_2 refines a model of stage animediffusion.")
        if min(self.data.line_sigmas, default=1.0) <= 0:
            raise ConfigError(f"data.line_sigmas are widths above 0 in pixels, not {self.data.line_sigmas}.")
        if not 1 <= self.loss.chain_steps <= 999:
            raise ConfigError(f"loss.chain_steps must be 1 to 999, not {self.loss.chain_steps}.")
        if not 0 <= self.loss.chain_eta <= 1:
            raise ConfigError(f"loss.chain_eta is a share between 0 and 1, not {self.loss.chain_eta}.")

    def _check_data(self) -> None:
        """Combinations of [data] and [augment]."""
        data, augment = self.data, self.augment
        if data.bucket_step:
            cells = 64 if self.run.stage in ("v1", "v1_5") else 32
            if data.bucket_step < 0 or data.bucket_step % cells or data.size % data.bucket_step:
                raise ConfigError(
                    f"data.bucket_step must be a multiple of {cells} that divides data.size = {data.size}, or 0, "
                    f"not {data.bucket_step}."
                )
            if data.bucket_ratio < 1:
                raise ConfigError(f"data.bucket_ratio is at least 1, not {data.bucket_ratio}.")
            if data.crop or self.run.stage not in ("v1", "v1_5", "vae", *XL):
                what = "data.crop" if data.crop else f"stage {self.run.stage}"
                raise ConfigError(f"{what} needs pictures of one shape: set data.bucket_step = 0.")
        if self.model.train_encoder and (self.run.stage != "v1" or data.cache_folder):
            raise ConfigError(
                "model.train_encoder belongs to stage v1 without data.cache_folder, which keeps what the encoder said "
                "once: clear it (data.cache keeps the pictures' latents only), or set model.train_encoder = false."
            )
        if data.bucket_order == "released" and data.decoded_folder:
            raise ConfigError(
                'data.decoded_folder keeps one size per picture: use data.bucket_order = "balanced", or no folder.'
            )
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
        if data.decoded_folder and augment.zoom != 1:
            raise ConfigError("data.decoded_folder keeps one size per picture: set augment.zoom = 1.")
        if data.min_score and not data.index:
            raise ConfigError("data.min_score needs scores: name the index files in data.index.")
        if data.reference == "listed" and not data.index:
            raise ConfigError(
                'data.reference = "listed" takes the references that an index lists (reference_list): name the index '
                "files in data.index."
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
