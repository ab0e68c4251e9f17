"""The sections of a configuration: every key with its meaning, its unit and what it may be."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Literal

from .section import Amount, ConfigError, Count, Precision, Probability, Range, Section, Share, Weight


@dataclass(frozen=True)
class RunSettings(Section):
    stage: Literal[
        "v1", "v1_5", "vae", "encoder", "animediffusion", "animediffusion_2", "xl", "xl_plugin", "xl_lora", "distill"
    ] = "v1"
    """What is trained: the colouriser; its region weights for split attention (v1.5); the small autoencoder; the small
    reference encoder; AnimeDiffusion's first phase (noise prediction) and its second (the whole sampling chain); the XL
    colouriser, its background plugin, or its region weights; or a student that needs a few steps and no guidance, of a
    colouriser of any family."""
    output: str = "runs/unnamed"
    """Folder of this run: checkpoints, log, sample sheets. Starting again with the same folder resumes."""
    steps: Count = 1000
    """Optimiser steps of the whole run."""
    epochs: Weight = 0.0
    """Length of the run in passes over the pictures, in the place of `steps`; 0 leaves it to them."""
    seed: Amount = 0
    """Every random choice is derived from this number and the step."""


@dataclass(frozen=True)
class Model(Section):
    init: str = ""
    """Checkpoint (.safetensors) to start from; empty starts from random weights."""
    init_from: str = ""
    """Checkpoint of another model (Stable Diffusion, Waifu Diffusion, another width) whose weights are fitted to the
    configured sizes where names agree; the rest starts random. See init_from.py. Stage v1_5 takes its region weights
    and recovery from there; the model they are trained on stays `init`. Stage distill begins with a student, a whole
    model or its LoRA for `init`."""
    vae: str = ""
    """File with the autoencoder (first_stage_model.* or bare names); empty takes the one inside `init`."""
    encoder: str = ""
    """File with the reference encoder (stages v1 and v1_5: OpenCLIP ViT-H/14; XL: bigG)."""
    train_encoder: bool = False
    """Train the reference encoder too (stage v1): the tower and the projection of its features, not the features
    themselves. The run then exports a second file, NAME-encoder.safetensors."""
    tokens: Literal["local", "cls"] = "local"
    """Which tokens of the reference encoder cross-attention reads (stage v1): the local ones, or the class token alone,
    as the paper's CLS model does. Attention over one token is the linear layer that the paper puts in its place."""
    tagger: str = ""
    """File with the WD tagger (.safetensors) whose patch features are part of the reference (XL stages)."""
    second_tower: Literal["tagger", "clip"] = "tagger"
    """What model.tagger names: a tagger, or a second CLIP vision tower, all of whose tokens take the place of the
    tagger's features (stage xl; the paper's baseline without tagger, Fig. 5)."""
    prediction_type: Literal["v", "eps"] = "v"
    """What the U-Net answers."""
    model_channels: Count = 320
    """Width of the U-Net's first level, for random initialisation."""
    channel_mult: tuple[int, ...] = (1, 2, 4, 4)
    """Width of each level over model_channels, for random initialisation."""
    num_head_channels: Count = 64
    """Width of one attention head."""
    transformer_depth: tuple[int, ...] = (0, 2, 10)
    """Transformer blocks in a row on each level, for random initialisation (stage xl); 0 has no attention there."""
    token_width: Count = 2048
    """Width of the reference tokens, for random initialisation (stage xl)."""
    region_rank_figure: float = 4
    """Rank of the figure's LoRA (stage v1_5): a whole number from 1 on, or a fraction of each layer's smaller side."""
    region_rank_background: float = 0.5
    """Rank of the background's LoRA (stage v1_5), likewise."""
    recovery_layers: Amount = 6
    """Layers of the recovery transformer, which makes tokens of a whole background (stage v1_5); 0 trains region
    weights without it, which read the background's tokens as they are (an ablation of the paper, 4.2)."""
    residual_blocks: Count = 2
    """Residual blocks per level, for random initialisation (stage animediffusion)."""
    attention_heads: Count = 4
    """Heads of the bottleneck's attention (stages animediffusion, animediffusion_2); files do not tell it."""
    attention_levels: tuple[int, ...] = ()
    """Levels, 0 the full size, whose residual blocks are followed by attention in encoder and decoder, as the paper's
    Fig. 2 draws it in the deeper ones; empty as in the released network, for random initialisation (stage
    animediffusion)."""
    cbam: bool = False
    """Channel and spatial attention in the decoder, for random initialisation (stage animediffusion)."""
    encoder_size: Count = 112
    """Side of the reference encoder's input in pixels (stage encoder)."""
    encoder_patch: Count = 8
    """Side of one patch in pixels (stage encoder)."""
    encoder_width: Count = 192
    """Width of the tower and of its tokens (stage encoder)."""
    encoder_layers: Count = 4
    """Transformer blocks of the tower (stage encoder)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("region_rank_figure", "region_rank_background"):
            rank = getattr(self, name)
            if rank <= 0 or (rank >= 1 and rank != int(rank)):
                raise ConfigError(f"model.{name} is a whole number from 1 on, or a fraction below 1, not {rank}.")


@dataclass(frozen=True)
class Data(Section):
    folder: str = ""
    """Folder with color/, sketch/ and, for reference = "folder", reference/: pictures (same file stems), or zip shards
    (the member 0001/10001.png lies in 0001.zip of every part)."""
    index: tuple[str, ...] = ()
    """Index files (.json or .parquet) of the pictures to train on: names in the folder or its data_index/, or paths.
    Empty lists the folder. See data/index.py."""
    min_score: float = 0.0
    """Least aesthetic score, of an index; pictures without one count as 5.51 (released XL trainer: 5.5)."""
    min_side: Amount = 0
    """Least shorter side in pixels of the files, where the index gives it (released XL trainer: 768)."""
    sketch_styles: tuple[str, ...] = ()
    """Styles of sketches to draw from, one per picture and step: of sketch/<style>/ or sketch_<style>/; "sketch" is the
    folder itself. Empty takes all that are there."""
    bucket_step: int = 0
    """Batches of several shapes: the sides are multiples of this many pixels and add up to twice `size` (v1: 64, XL:
    32). 0 cuts squares. Needs sizes: from an index, else every file's header is read once."""
    bucket_ratio: Annotated[float, Range(1, what="at least 1")] = 2.0
    """Longest side over shortest of a bucket at most (released: 1.8 for XL at 1024 px, 1.7 for v1 at 768 px)."""
    bucket_sides: Literal["sum", "short"] = "sum"
    """What the buckets have in common: sides that add up to twice `size`, or a shorter side of `size` (which then costs
    more memory the longer the other is)."""
    bucket_order: Literal["balanced", "released"] = "balanced"
    """Batches of one bucket, every picture once per epoch; or as the released XL trainer composes them, by orientation
    and similar ratio, with what fills no batch left out."""
    size: Count = 512
    """Side of the square training pictures in pixels; a multiple of 64."""
    crop: Amount = 0
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
    deform: Annotated[float, Range(0, 1, "a strength between 0 and 1")] = 0.0
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
    workers: Amount = 0
    """Processes that read pictures; 0 reads in the training process."""
    decoded_folder: str = ""
    """Folder for decoded and resized pictures (about 1.8 MB per picture at 512 px): what was decoded once is read from
    there. Unlike `cache_folder` it leaves random cuts and encoders as they are. Empty: none."""
    holdout: str = ""
    """Folder of held-out pictures, laid out as `folder`, for report.validate_every."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size % 64:
            nearest = max(64, round(self.size / 64) * 64)
            raise ConfigError(f"data.size must be a multiple of 64, not {self.size}; the nearest is {nearest}.")
        if self.crop % 64 or self.crop > self.size:
            raise ConfigError(f"data.crop must be a multiple of 64 up to data.size, or 0, not {self.crop}.")
        if len(cell := self.reference_mask_cell) not in (0, 2) or min(cell, default=1) < 1:
            raise ConfigError(f"data.reference_mask_cell is a height and a width in pixels, or empty, not {cell}.")
        if min(self.line_sigmas, default=1.0) <= 0:
            raise ConfigError(f"data.line_sigmas are widths above 0 in pixels, not {self.line_sigmas}.")

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
class Augment(Section):
    """Random changes of training samples (data/augment/). Probabilities are between 0 and 1; 0 switches off."""

    flip: Probability = 0.0
    """Probability that picture, sketch and mask are mirrored, and, drawn apart, the reference."""
    zoom: Annotated[float, Range(1, what="a factor of at least 1")] = 1.0
    """Pictures are enlarged by up to this factor before a random place is cut (released v1.5: 544 / 512)."""
    mask_grow: Probability = 0.0
    """Probability that a reference mask is grown to cells of 60 x 40 pixels (released XL trainer: 0.33)."""
    mask_erase: Probability = 0.0
    """Probability that, not grown, it may lose a rectangle to the figure, every second time (released: 0.33)."""
    mask_box: Probability = 0.0
    """Probability that, neither grown nor erased, it becomes the rectangle around the figure."""
    mask_dilation: int = 1
    """Odd side in pixels of the square by which it is dilated otherwise (released: 21); 1 leaves it."""
    sketch_border: Amount = 0
    """Widest white border in pixels that is laid over sketches, at random (released XL trainer: 201 at 1024 px)."""
    sketch_faint: Probability = 0.0
    """Probability of light, uneven lines."""
    sketch_grain: Probability = 0.0
    """Probability of pencil on rough paper."""
    sketch_gaps: Probability = 0.0
    """Probability of lines that do not close."""
    sketch_double: Probability = 0.0
    """Probability of a second, lighter stroke beside every line."""
    sketch_trace: Probability = 0.0
    """Probability of coloured trace marks, as animators draw around shadows; sketches then have three channels."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mask_dilation < 1 or self.mask_dilation % 2 == 0:
            raise ConfigError(f"augment.mask_dilation is an odd number of pixels, not {self.mask_dilation}.")

    def sketch_rates(self) -> dict[str, float]:
        """Probability of every style of data/augment/lines.py."""
        return {style: getattr(self, f"sketch_{style}") for style in ("double", "gaps", "faint", "grain", "trace")}


@dataclass(frozen=True)
class System(Section):
    precision: Precision = "bf16"
    """Arithmetic of the forward pass; weights and optimiser stay fp32."""
    gradient_checkpointing: bool = False
    """Recompute blocks (stage animediffusion_2: steps of the chain) in the backward pass: less memory, about a third
    more time."""
    frozen_8bit: bool = False
    """Keep the weights of frozen networks in 8 bits, a quarter of the memory: U-Net and sketch encoder where a stage
    freezes them, a teacher, and the encoders. They are multiplied with in `precision`, and files get the whole ones."""
    layer_offload: Share = 0.0
    """Share of frozen networks' weights that rest in CPU memory; each comes to the device when its layer works, forward
    and backward, and leaves it. Slower by the time of the copies; best together with frozen_8bit."""
    channels_last: bool = True
    """Memory layout of convolutions; faster on CPUs and recent GPUs."""
    compile: str = ""
    """Backend of torch.compile for the trained networks: "inductor", or "aot_eager" to look for faults; empty compiles
    nothing."""
    peak_tflops: Weight = 0.0
    """Peak of the device in TFLOP/s at this precision, for the utilisation in the log; 0 takes it from a table of
    common GPUs."""
    deepspeed: str = ""
    """A DeepSpeed JSON config, or the name of one in presets/deepspeed ("zero2"): its "auto" values are filled from
    this configuration. Needs the package deepspeed (Linux) and `accelerate launch`."""
    trust_checkpoint: bool = False
    """Whether a run with DeepSpeed may be resumed. DeepSpeed keeps its state in pickles, which can run any program when
    they are read: true only for runs of your own."""
    threads: Amount = 0
    """CPU threads; 0 leaves torch's default."""


@dataclass(frozen=True)
class Report(Section):
    log_every: Count = 10
    """Steps between two lines of log.jsonl."""
    sample_every: Amount = 500
    """Steps between two sample sheets; 0 draws none."""
    sample_at_start: bool = False
    """Whether a sheet, and a validation where there are any, also show the model before the first step."""
    sample_count: Amount = 6
    """Rows of a sample sheet."""
    samples: str = ""
    """Folder of pairs of your own for the sheets: sketch/ and reference/ with equal names (v1_5 and the region stages
    of XL: mask/ and reference_mask/ too; color/ where the true pictures are known). A sheet then shows the model before
    the first step as well. Empty: held-out pictures, or the first of the set."""
    sample_steps: Annotated[int, Range(1, 999, "a number from 1 to 999")] = 20
    """Denoising steps of a sample."""
    guidance: float = 2.0
    """Reference guidance of a sample."""
    save_every: Count = 1000
    """Steps between two checkpoints; the last step is always saved."""
    save_minutes: Weight = 0.0
    """Minutes after which a checkpoint is written whatever save_every says; 0 writes none by the clock."""
    keep: Amount = 2
    """Newest checkpoints kept, 0 keeps all; older ones are deleted, except the best by validation."""
    validate_every: Amount = 0
    """Steps between two validations on data.holdout; 0 never validates. The checkpoint with the lowest loss is kept."""
    validate_count: Count = 32
    """Samples of a validation: always the same ones, with the same draws."""
    validate_bins: Count = 10
    """Equal parts of the noise schedule whose losses are told apart; every sample is asked once in each."""
    validate_entanglement: bool = False
    """Whether a validation also colours the first held-out sketches (one batch, two or more) with and without another
    picture as reference, and says how much structure comes from it (stages v1, v1_5, xl)."""
    wandb: str = ""
    """Project of Weights & Biases (package wandb) that gets the numbers and sheets too; empty: none. Nothing leaves the
    computer until `wandb sync`, unless the variable WANDB_MODE is set to online."""
