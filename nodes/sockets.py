"""Our own socket types, the words every node shares, and the rule for the numbers they are given."""

from __future__ import annotations

import functools
import inspect
import math
import re
from collections.abc import Callable
from typing import Any

import folder_paths
import torch
from comfy_api.v0_0_2 import io

from ..model_patches.checkpoint.onnx_session import PROVIDERS

CATEGORY = "Colorize Diffusion"

ColorizerSocket = io.Custom("COLORIZER")  # model_patches.checkpoint.colorizer.Colorizer
ReferenceSocket = io.Custom("REFERENCE")  # colorize.reference.types.Reference
ReferenceEncoderSocket = io.Custom("REFERENCE_ENCODER")  # model_patches.reference.encoder.LoadedReferenceEncoder
TaggerSocket = io.Custom("COLORIZE_TAGGER")  # model_patches.reference.tagger.LoadedTagger
FrameSocket = io.Custom("COLORIZE_FRAME")  # colorize.pictures.images.Frame
RegionsSocket = io.Custom("REGIONS")  # colorize.pictures.regions.Regions
FlatsSocket = io.Custom("COLORIZE_FLATS")  # colorize.pictures.flat_batch.FlatBatch
PaletteSocket = io.Custom("PALETTE")  # colorize.pictures.palette.Palette


class Node(io.ComfyNode):
    """What every node of the pack is: a node that refuses NaN, infinity and null, and numbers and words at its sockets.

    Core compares numbers from the API with min and max, which NaN passes; it would paint a black picture silently. And
    it hands on what a graph of the API has written where an output belongs, and null where something must be given.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own = cls.__dict__.get("execute")
        if own is not None and not hasattr(own.__func__, "__wrapped__"):  # ComfyUI's locked copies of a class have it
            cls.execute = _with_finite_numbers(own.__func__)


LATENT = ("dict", "dict | None")
"""How a LATENT is annotated, and nothing else."""
WRITTEN = (bool, int, float, str, list, dict)  # what a graph of the API can have in place of a connection


def is_object(annotation: Any) -> bool:
    """Whether an argument annotated so, as text, takes objects alone: nothing that can be written into a graph."""
    if not isinstance(annotation, str):
        return False
    return not {"Any", "object", "Mapping", "Sequence", "tuple", "None", *(kind.__name__ for kind in WRITTEN)} & set(
        re.findall(r"\w+", annotation.replace("| None", ""))
    )


def is_needed(annotation: Any) -> bool:
    """Whether None is a mistake at an argument annotated so, as text."""
    return isinstance(annotation, str) and not {"None", "Any", "object"} & set(re.findall(r"\w+", annotation))


def _with_finite_numbers(execute: Callable[..., Any]) -> classmethod:
    signature = inspect.signature(execute)
    kinds = {name: given.annotation for name, given in signature.parameters.items()}
    sockets = {name for name, kind in kinds.items() if is_object(kind)}
    needed = {name for name, kind in kinds.items() if is_needed(kind)}
    latents = {name for name, kind in kinds.items() if kind in LATENT}

    @functools.wraps(execute)
    def wrapper(cls: type, *args: Any, **kwargs: Any) -> Any:
        for name, value in signature.bind_partial(cls, *args, **kwargs).arguments.items():
            check_finite(name, value)
            missing = value is None and name in needed
            if name in sockets and (isinstance(value, WRITTEN) or missing):
                raise ValueError(f"{name} is {value!r:.60}, where another node's output belongs. Connect one.")
            if name in latents and value is not None:
                check_latent(name, value)
            if missing:
                raise ValueError(f"{name} is null, which is no value. Give one; the input's tooltip says which.")
        return execute(cls, *args, **kwargs)

    return classmethod(wrapper)


def check_latent(name: str, value: Any) -> None:
    """Raise ValueError for what is no LATENT of pictures: a number, a table, several in one (a video's with sound)."""
    samples = value.get("samples") if isinstance(value, dict) else None
    if isinstance(samples, torch.Tensor) and not samples.is_nested:
        return
    nested = getattr(samples, "is_nested", False)
    found = "a bundle of several latents" if nested else "no latent" if isinstance(value, dict) else f"{value!r:.60}"
    raise ValueError(
        f"{name} is {found}, where the LATENT of pictures belongs. Connect that of Prepare Sketch, VAE Encode or Empty "
        "Latent Image."
    )


def check_finite(name: str, value: Any) -> None:
    """Raise ValueError when an input, or a number in a list or table of inputs, is NaN or infinite."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(
            f"{name} is {value}, which is no number. Give a finite number; the input's tooltip has its range."
        )
    if isinstance(value, dict):
        for key, inner in value.items():
            check_finite(f"{name}.{key}", inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            check_finite(name, inner)


LONGEST_PREFIX = 100  # letters of one part of a file name's begin: a number and a suffix still fit beside it


def plain_name(name: str) -> bool:
    """Whether a file of every system may begin so."""
    odd = any(letter < " " or letter in '<>:"|?*/\\\x7f' for letter in name)
    return not odd and name.strip(". ") != "" and len(name.encode(errors="replace")) <= LONGEST_PREFIX


def output_place(
    prefix: str, default: str, folder: str = "", width: int = 0, height: int = 0
) -> tuple[str, str, int, str]:
    """Where ComfyUI's output folder gets the next file of a prefix: (folder, name, counter, subfolder).

    prefix: what the user gave, with subfolders and variables such as %date%; an empty one means `default`. folder: in
    the output folder, out of which no prefix leads. width, height: of the picture, for variables. Raises ValueError.
    """
    parts = (prefix.strip().replace("\\", "/") or default).split("/")
    if any(letter < " " for letter in prefix) or not all(plain_name(part) for part in parts):
        raise ValueError(
            f"filename_prefix is {prefix!r:.120}, which is no begin of a file name. Write a name such as {default}, or "
            f"folder/{default}: every part has 1 to {LONGEST_PREFIX} letters, is not all dots, and has none of "
            '< > : " | ? *.'
        )
    output = folder_paths.get_output_directory()
    path = "/".join([*filter(None, [folder]), *parts])
    return tuple(folder_paths.get_save_image_path(path, output, width, height)[:4])


def share_input(name: str, default: float, tooltip: str, step: float = 0.01, advanced: bool = True) -> Any:
    """An optional number from 0 to 1: a threshold, a share of the sampling."""
    return io.Float.Input(
        name, default=default, min=0.0, max=1.0, step=step, optional=True, advanced=advanced or None, tooltip=tooltip
    )


def transparency_input(name: str, picture: str, display_name: str = "transparency") -> Any:
    """The MASK of a Load Image node where it says what is transparent. What says where a figure is is no such input."""
    return io.Mask.Input(
        name,
        display_name=display_name,
        optional=True,
        tooltip=f"Only for a {picture} with transparency: MASK of the same Load Image node, 1 = transparent. A figure "
        "that you painted in MaskEditor belongs into figure_mask instead.",
    )


def conditioning_outputs() -> list:
    """What a node gives that stands between Apply Reference and the sampler."""
    tooltip = "Goes to Apply ControlNet or to the sampler."
    return [io.Conditioning.Output(display_name=name, tooltip=tooltip) for name in ("positive", "negative")]


def provider_input() -> Any:
    """The choice of what computes an .onnx file."""
    return io.Combo.Input(
        "provider",
        options=list(PROVIDERS),
        default="auto",
        optional=True,
        advanced=True,
        tooltip="For .onnx files only. auto: the graphics card when onnxruntime offers it, else the CPU. "
        "cpu: always the CPU.",
    )
