"""Which kind of checkpoint is this? Decided from tensor names and sizes, never from the file's name.

`detect` reads a whole checkpoint for our loader and raises a message for the user; the strict tests by which ComfyUI's
loaders recognise our files are recognition.py. Pure Python: no ComfyUI, no tensor mathematics.

Only names, ranks and first dimensions are read wherever that is enough, because quantised tensors have packed widths.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from . import names, sampler_settings
from .sampler_settings import SamplerSettings

DEFAULT_HEAD_WIDTH = 64
SKETCH_POLARITY = "white_on_black"

PREDICTION_TYPES = ("v", "eps")
XL_NAMES = ("xl", "xl-plugin")
SMALL_WIDTH = 256
"""U-Nets narrower than this are small ones, trained at 256 pixels."""
WEIGHTS_PAGE = "https://huggingface.co/tellurion/ColorizeDiffusion"
XL_WEIGHTS_PAGE = "https://huggingface.co/tellurion/ColorizeDiffusionXL"


@dataclass(frozen=True)
class Family:
    """What `detect` found out about a checkpoint."""

    name: str
    """Short name of the family: "v1", "v1.5", "v2", "xl" or "xl-plugin"."""
    title: str
    """Name for people: "ColorizeDiffusion v1"."""
    prediction_type: str
    """What the network answers: "v" or "eps"."""
    prediction_source: str
    """Where that came from: "choice", "metadata", "marker tensor", "file name" or "default"."""
    model_channels: int
    """Width of the U-Net's first level (320 in the released files)."""
    context_dim: int
    """Width of the tokens that cross-attention reads (1024 in the released v1 files, 2048 in XL)."""
    num_head_channels: int
    """Width of one attention head (64 in the released files)."""
    sketch_polarity: str = SKETCH_POLARITY
    """Polarity the sketch encoder was trained with."""
    encoder_dim: int | None = None
    """XL: width of the image tokens that the token projection reads (1280 in the released files)."""
    tagger_dim: int | None = None
    """XL: width of the tagger's patch features that the token projection reads (1024 in the released files)."""
    tokens: str = "local"
    """Which tokens of a reference it reads: "local", or "cls" for the class token alone (v1 files of the trainer)."""
    without_recovery: bool = False
    """v1.5: whether its region weights were trained without recovery transformer (an ablation of the paper, 4.2)."""
    second_tower: str = "tagger"
    """XL: what its projection reads beside the image tokens: a "tagger", or a second "clip" (ablation of the paper)."""
    has_figure_weights: bool = False
    """XL: whether the file has region weights for the figure too, as the trainer's stage xl_lora makes them."""
    stated_sampler: SamplerSettings | None = None
    """How the file says that it is best sampled."""

    @property
    def is_small(self) -> bool:
        """Whether this is a small network, as the bundled one."""
        return self.model_channels < SMALL_WIDTH

    @property
    def sampler(self) -> SamplerSettings:
        """How the model is best sampled."""
        return self.stated_sampler or sampler_settings.of_family(self.is_small, self.is_xl)

    @property
    def has_regions(self) -> bool:
        """Whether the model has weights for figure and background (v1.5, v2, and XL trained by stage xl_lora)."""
        return self.name in ("v1.5", "v2") or self.has_figure_weights

    @property
    def recovers_background(self) -> bool:
        """Whether fig2fig reads the background through a recovery transformer (v1.5)."""
        return self.name == "v1.5" and not self.without_recovery

    @property
    def is_v2(self) -> bool:
        """Whether the model can read what picture encoders saw of a style and of a background."""
        return self.name == "v2"

    @property
    def is_xl(self) -> bool:
        """Whether this is an SDXL network, which reads a tagger's features beside the image tokens."""
        return self.name in XL_NAMES

    @property
    def has_plugin(self) -> bool:
        """Whether the file brings the background plugin."""
        return self.name == "xl-plugin"

    @property
    def reference_dim(self) -> int:
        """Width of the tokens a reference encoder must answer."""
        return self.encoder_dim or self.context_dim


@dataclass(frozen=True)
class FileLayout:
    """One row of the table of known checkpoints: each text in `has` starts some key, or is inside one after a "*"."""

    name: str
    title: str
    has: tuple[str, ...]


# The first row that fits wins, so the more specific layouts stand above v1.
LAYOUTS = (
    FileLayout(
        "animediffusion", "AnimeDiffusion", ("*encoder_block.0.conv1.2.weight", "*bottom_block.1.attention.1.weight")
    ),
    FileLayout(
        "xl-plugin",
        "ColorizeDiffusion XL with plugin",
        (names.BACKGROUND_ENCODER + "middle_block.", names.SKETCH_ENCODER + "proj_ins.", names.UNET),
    ),
    FileLayout("xl", "ColorizeDiffusion XL", (names.SKETCH_ENCODER + "proj_ins.", names.UNET)),
    FileLayout("v2", "ColorizeDiffusion v2", (names.BACKGROUND_ENCODER, names.STYLE_ENCODER)),
    FileLayout("v2", "ColorizeDiffusion v2", (names.UNET + names.WARPS,)),
    FileLayout("v1.5", "ColorizeDiffusion v1.5", (names.THRESHOLD, names.UNET)),
    FileLayout("v1.5", "ColorizeDiffusion v1.5", (names.RECOVERY + "layers.", names.UNET)),
    FileLayout("v1.5", "ColorizeDiffusion v1.5", ("*" + names.FIGURE_LORA, names.UNET)),
    FileLayout("v1", "ColorizeDiffusion v1", (names.SKETCH_ENCODER + "zero_blocks.", names.UNET + "input_blocks.")),
)

# Files that people put into the same folder by mistake: (a key starts with this, what the file is, what to do).
STRANGERS = (
    ("conditioner.embedders.", "an SDXL checkpoint", "Use ComfyUI's Load Checkpoint for it."),
    ("cond_stage_model.model.", "a Stable Diffusion 2 checkpoint", "Use ComfyUI's Load Checkpoint for it."),
    ("cond_stage_model.transformer.", "a Stable Diffusion 1 checkpoint", "Use ComfyUI's Load Checkpoint for it."),
    ("lora_unet_", "a LoRA", "Move it to models/loras and use a LoRA loader."),
    ("visual.transformer.", "a CLIP vision encoder", "Move it to models/clip_vision and use Load Reference Encoder."),
    ("vision_model.", "a CLIP vision encoder", "Move it to models/clip_vision and use Load Reference Encoder."),
    ("decoder.conv_in.", "a VAE", "Move it to models/vae and use Load VAE."),
    ("module.", "a trainer state with wrapped names", "Convert it with `python -m trainer convert` first."),
)


class CheckpointError(ValueError):
    """A file that cannot be used; the text says what was found and what to do next."""


def _starts(keys: Iterable[str], prefix: str) -> bool:
    return any(key.startswith(prefix) for key in keys)


def _label(file_name: str | None) -> str:
    return f"The file {PurePath(file_name).name!r}" if file_name else "This checkpoint"


def find_layout(keys: Iterable[str]) -> FileLayout | None:
    """The row of the table that fits these tensor names, or None."""
    keys = list(keys)

    def found(text: str) -> bool:
        return any(text[1:] in key for key in keys) if text.startswith("*") else _starts(keys, text)

    return next((layout for layout in LAYOUTS if all(found(text) for text in layout.has)), None)


def detect(
    state_dict: Mapping[str, Any],
    metadata: Mapping[str, str] | None = None,
    file_name: str | None = None,
    prediction_override: str | None = None,
) -> Family:
    """Recognise a whole checkpoint with the official names (`model.diffusion_model.*`, `control_encoder.*`, ...).

    state_dict: names -> anything with a `shape` (tensors on any device, also meta tensors).
    metadata: the text metadata of a safetensors file. prediction_override: "v", "eps", or None / "auto" to decide here.
    Raises CheckpointError, naming the file, what it seems to be and the next step.
    """
    metadata = metadata or {}
    label = _label(file_name)
    layout = find_layout(state_dict)
    if layout is None:
        raise CheckpointError(_unknown(state_dict, label))
    if layout.name == "animediffusion":
        raise CheckpointError(f"{label} is an AnimeDiffusion checkpoint. Load it with Load AnimeDiffusion.")
    if layout.name == "v1.5" and not any(names.FIGURE_LORA in key for key in state_dict):
        raise CheckpointError(
            f"{label} is incomplete: it has parts of a v1.5 checkpoint but no region weights (no tensor name contains "
            f"'{names.FIGURE_LORA}'). Download or convert it again."
        )
    if layout.name == "v2":
        _check_v2(state_dict, label)
    config = _sizes(state_dict, layout.name in XL_NAMES, label)
    tokens = tokens_read(state_dict, metadata, file_name)
    if tokens != "local" and layout.name != "v1":
        raise CheckpointError(
            f"{label} says that it reads the class token alone, which only v1 models can, but it is {layout.title}. "
            "Convert it again."
        )
    polarity = metadata.get(names.POLARITY, SKETCH_POLARITY)
    if polarity != SKETCH_POLARITY:
        raise CheckpointError(
            f"{label} was trained on sketches with the polarity {polarity!r}; this release gives a model "
            f"{SKETCH_POLARITY!r}. Train it again on white lines on black, or correct the metadata if it is wrong."
        )
    prediction, source = prediction_type(state_dict, metadata, file_name, prediction_override)
    return Family(
        name=layout.name,
        title=f"{layout.title} (CLS)" if tokens == "cls" else layout.title,
        prediction_type=prediction,
        prediction_source=source,
        num_head_channels=_head_width(state_dict, metadata, label),
        sketch_polarity=polarity,
        tokens=tokens,
        without_recovery=names.NO_RECOVERY in state_dict,
        second_tower=second_tower(state_dict),
        has_figure_weights=layout.name in XL_NAMES and any(names.XL_FIGURE_LORA in key for key in state_dict),
        stated_sampler=sampler_settings.stated(metadata),
        **config,
    )


def second_tower(state_dict: Mapping[str, Any]) -> str:
    """What a file's projection reads beside the encoder's tokens, one of reference.types.SECOND_TOWERS."""
    return "clip" if names.CLIP_PAIR in state_dict else "tagger"


def _unknown(state_dict: Mapping[str, Any], label: str) -> str:
    keys = sorted(state_dict)
    if _starts(keys, names.UNET) and names.HEAD_WIDTH in state_dict and not _starts(keys, names.SKETCH_ENCODER):
        return (
            f"{label} has a ColorizeDiffusion U-Net but no sketch encoder (no tensor begins with "
            f"'{names.SKETCH_ENCODER}'). Load the checkpoint it was made from, or use ComfyUI's Load Checkpoint to get "
            "the MODEL only."
        )
    for prefix, what, advice in STRANGERS:
        if _starts(keys, prefix):
            return f"{label} is not a ColorizeDiffusion checkpoint; it looks like {what}. {advice}"
    first = ", ".join(keys[:10]) or "none"
    return (
        f"{label} is not a known ColorizeDiffusion checkpoint: its {len(keys)} tensors fit no known family. "
        f"First names: {first}. Choose a ColorizeDiffusion checkpoint of v1, v1.5, v2 ({WEIGHTS_PAGE}) or XL "
        f"({XL_WEIGHTS_PAGE}); a state of the trainer becomes one with `python -m trainer convert`."
    )


def _check_v2(state_dict: Mapping[str, Any], label: str) -> None:
    """Raise CheckpointError unless all parts of a v2 checkpoint are there."""
    parts = {
        "U-Net": names.UNET + "input_blocks.",
        "warp modules": names.UNET + names.WARPS,
        "style modules": names.UNET + names.STYLES,
        "background encoder": names.BACKGROUND_ENCODER,
        "style encoder": names.STYLE_ENCODER,
    }
    missing = [what for what, prefix in parts.items() if not _starts(state_dict, prefix)]
    missing += [] if any(names.FIGURE_LORA in key for key in state_dict) else ["region weights"]
    if missing:
        raise CheckpointError(
            f"{label} is an incomplete v2 checkpoint: it has no {' and no '.join(missing)}. Download or convert it "
            "again."
        )


def _sizes(state_dict: Mapping[str, Any], xl: bool, label: str) -> dict[str, int]:
    """Widths of U-Net, sketch encoder and, for XL, token projection; raises when one is missing or they differ."""

    def width(key: str, dimension: int = 0) -> int:
        if key not in state_dict:
            raise CheckpointError(f"{label} is incomplete: tensor {key!r} is missing. Download or convert it again.")
        shape = tuple(state_dict[key].shape)
        if len(shape) <= dimension or not shape[dimension]:
            raise CheckpointError(f"{label} is damaged: tensor {key!r} has the shape {shape}. Download it again.")
        return int(shape[dimension])

    first = width(f"{names.UNET}input_blocks.0.0.weight")
    context = width(f"{names.UNET}middle_block.1.transformer_blocks.0.attn2.to_k.weight", 1)
    width(f"{names.SKETCH_ENCODER}model.0.weight")
    sketch = width(f"{names.SKETCH_ENCODER}{'proj_outs.0.weight' if xl else 'zero_layer.0.weight'}")
    if first != sketch:
        raise CheckpointError(
            f"{label} mixes two models: its U-Net is {first} channels wide, its sketch encoder {sketch}. "
            "Use U-Net and sketch encoder from the same training."
        )
    sizes = dict(model_channels=first, context_dim=context)
    if xl:
        width(f"{names.UNET}label_emb.0.0.weight")
        encoder = width(f"{names.PROJECTION}norm.weight")
        if (projected := width(f"{names.PROJECTION}proj.3.weight")) != context:
            raise CheckpointError(
                f"{label} mixes two models: its token projection makes tokens of width {projected}, its U-Net reads "
                f"{context}. Use U-Net and projection from the same training."
            )
        features = width(f"{names.PROJECTION}proj.0.weight", 1) - encoder
        tags = f"{names.PROJECTION}mlp.mlp.0.0.weight"  # a projection that reads tag logits instead of features
        sizes |= dict(encoder_dim=encoder, tagger_dim=width(tags, 1) if tags in state_dict else features)
    return sizes


BY_DEFAULT = "default"
"""Source of a prediction type where a file says nothing."""


def prediction_type(
    state_dict: Mapping[str, Any],
    metadata: Mapping[str, str] | None = None,
    file_name: str | None = None,
    override: str | None = None,
) -> tuple[str, str]:
    """("v" | "eps", source) by choice, metadata, marker tensor, file name (with a warning), else "v"."""
    metadata = metadata or {}
    if override not in (None, "auto"):
        if override not in PREDICTION_TYPES:
            raise CheckpointError(
                f"Prediction type {override!r} is unknown; choose auto, {' or '.join(PREDICTION_TYPES)}."
            )
        return override, "choice"
    for key in (names.PREDICTION, "modelspec.prediction_type", "modelspec.predict_key"):
        value = str(metadata.get(key, "")).lower()
        if value in ("v", "v_prediction"):
            return "v", "metadata"
        if value in ("eps", "epsilon"):
            return "eps", "metadata"
    if names.V_MARKER in state_dict and names.EPS_MARKER in state_dict:
        raise CheckpointError(
            f"{_label(file_name)} carries the markers of both prediction types; choose v or eps in prediction_type."
        )
    if names.V_MARKER in state_dict:
        return "v", "marker tensor"
    if names.EPS_MARKER in state_dict:
        return "eps", "marker tensor"
    if file_name and re.search(r"(?<![a-z0-9])eps(?![a-z0-9])", PurePath(file_name).name.lower()):
        logging.warning(
            "%s says nothing about its prediction type; 'eps' in its name makes it eps. "
            "If the colours come out grey or burnt, set prediction_type to v.",
            _label(file_name),
        )
        return "eps", "file name"
    return "v", BY_DEFAULT


def tokens_read(
    state_dict: Mapping[str, Any], metadata: Mapping[str, str] | None = None, file_name: str | None = None
) -> str:
    """ "cls" where metadata or marker tensor say that cross-attention reads the class token alone, else "local"."""
    told = (metadata or {}).get(names.TOKENS, "cls" if names.CLS_MARKER in state_dict else "local")
    if told not in ("local", "cls"):
        raise CheckpointError(
            f"{_label(file_name)} reads tokens of the kind {str(told)[:40]!r}, which this release does not know. "
            "Update ComfyUI-Colorize-Diffusion, or correct the metadata if it is wrong."
        )
    return told


def _head_width(state_dict: Mapping[str, Any], metadata: Mapping[str, str], label: str) -> int:
    if names.HEAD_WIDTH in metadata:
        text = metadata[names.HEAD_WIDTH]
        if not (str(text).isascii() and str(text).isdigit() and len(str(text)) < 10):
            raise CheckpointError(f"{label}: metadata {names.HEAD_WIDTH} is {str(text)[:40]!r}, not a whole number.")
        head_width = int(text)
    else:
        head_width = head_width_marker(state_dict) or DEFAULT_HEAD_WIDTH
    norm = ".transformer_blocks.0.norm1.weight"
    widths = sorted({int(value.shape[0]) for key, value in state_dict.items() if key.endswith(norm) and value.shape})
    if head_width < 1 or any(width % head_width for width in widths):
        raise CheckpointError(
            f"{label}: attention heads of {head_width} channels do not divide the U-Net's widths {widths}. Convert the "
            f"checkpoint again with `python -m trainer convert`, which writes the right value into {names.HEAD_WIDTH}."
        )
    return head_width


def head_width_marker(state_dict: Mapping[str, Any]) -> int | None:
    """Value of the marker tensor, or None when the file has none (or it holds no data, as meta tensors do).

    -1 when it holds no whole number from 1 on.
    """
    marker = state_dict.get(names.HEAD_WIDTH)
    if marker is None or getattr(marker, "is_meta", False) or marker.numel() != 1:
        return None
    value = marker.item()
    return int(value) if isinstance(value, (int, float)) and 1 <= value < 2**31 and value == int(value) else -1
