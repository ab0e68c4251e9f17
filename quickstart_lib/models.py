"""Checkpoints and encoders looked at before any work, from the headers of safetensors files: no tensor is read.

What a file is decides colorize/families.py, the same table the nodes use; it needs the standard library only.
"""

import importlib
import json
import struct
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from .errors import QuickstartError

SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth")
LARGEST_HEADER = 100 * 2**20  # bytes, the format's own limit
WORKFLOWS = {"xl": "xl", "xl-plugin": "xl_plugin"}  # families that need more than a checkpoint and an encoder
SIDES = {"small": 256, "v1": 512, "v1.5": 512, "v2": 768}  # pixels the models were trained at
TOWER_MARKS = ("visual.conv1.weight", "conv1.weight", "vision_model.embeddings.patch_embedding.weight")
TOKEN_WIDTHS = (("visual_projection.weight", 0), ("visual.proj", 1), ("proj", 1))  # a tensor, the dimension that tells


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint is, as far as quickstart needs it. A file that has no header to read has no family."""

    title: str
    side: int | None = None
    """Pixels of the side it was trained at."""
    sampler: dict[str, int | float | str] = field(default_factory=dict)
    """Option of job.BINDINGS -> how the model is best sampled."""
    token_width: int | None = None
    """Width of the tokens its encoder must answer."""


class _Shape:
    """Stands for a tensor whose values nobody reads."""

    is_meta = True

    def __init__(self, shape: list[int]):
        self.shape = tuple(shape)


def families() -> ModuleType:
    """The pack's table of model families."""
    return importlib.import_module("colorize.families")


def sampler_settings() -> ModuleType:
    """How the pack's models are best sampled."""
    return importlib.import_module("colorize.sampler_settings")


def header(option: str, file: Path) -> tuple[dict[str, _Shape], dict[str, str]]:
    """(name -> shape, metadata) of a safetensors file; raises when it is another kind of file or not whole."""
    try:
        with open(file, "rb") as data:
            start, size = data.read(8), file.stat().st_size
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            content = json.loads(data.read(length)) if 2 <= length <= min(LARGEST_HEADER, size) else None
    except OSError as error:
        raise QuickstartError(f"{option} is {file}, which cannot be read: {error.strerror or error}.") from error
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise QuickstartError(
            f"{option} is {file}, but that is no safetensors file{_what(start)}. Download it again, and compare its "
            "size with the one on its page."
        )
    metadata = content.pop("__metadata__", {})
    whole = 8 + length + max((entry["data_offsets"][1] for entry in content.values()), default=0)
    if size < whole:
        raise QuickstartError(
            f"{option} is {file}, which is cut off: {size / 1e6:.0f} of {whole / 1e6:.0f} MB are there. Download "
            "it again."
        )
    return {name: _Shape(entry["shape"]) for name, entry in content.items()}, metadata


def _what(start: bytes) -> str:
    marks = ((b"version ", " but a pointer to one in git LFS (run: git lfs pull)"), (b"<", " but a web page"))
    return next((text for mark, text in marks if start.startswith(mark)), "")


def checkpoint(file: Path) -> Checkpoint:
    """What a checkpoint is; raises QuickstartError when the quickstart workflow cannot use it."""
    if file.suffix.lower() != ".safetensors":
        full = sampler_options(sampler_settings().PAPER)  # nobody makes small models in these formats
        return Checkpoint(f"{file.name} (what it is shows when it is loaded)", sampler=full)
    tensors, metadata = header("--checkpoint", file)
    try:
        family = families().detect(tensors, metadata, file.name)
    except ValueError as error:  # families.CheckpointError
        raise QuickstartError(f"--checkpoint: {error}") from None
    if family.name in WORKFLOWS:
        raise QuickstartError(
            f"--checkpoint: {file.name} is {family.title}, which also needs a tagger. Use the template "
            f"{WORKFLOWS[family.name]} in ComfyUI; quickstart runs v1, v1.5 and v2."
        )
    stated = str(metadata.get("modelspec.resolution", "")).split("x")[0]
    side = int(stated) if stated.isdigit() and int(stated) >= 64 else SIDES["small" if family.is_small else family.name]
    return Checkpoint(family.title, side // 64 * 64, sampler_options(family.sampler), family.reference_dim)


def sampler_options(settings: Any) -> dict[str, int | float | str]:
    """Option of job.BINDINGS -> value, of a colorize.sampler_settings.SamplerSettings."""
    return {
        "steps": settings.steps,
        "reference_scale": settings.cfg,
        "sampler": settings.sampler,
        "scheduler": settings.scheduler,
    }


def check_encoder(file: Path, wanted: Checkpoint) -> None:
    """Raise QuickstartError when a file is no reference encoder, or one of another width than the checkpoint reads."""
    if file.suffix.lower() != ".safetensors":
        return
    tensors, metadata = header("--encoder", file)
    if not any(mark in tensors for mark in TOWER_MARKS):
        kind = families().find_layout(tensors)
        told = f"a {kind.title} checkpoint: give it with --checkpoint" if kind else "no vision encoder"
        raise QuickstartError(
            f"--encoder: {file.name} is {told}. The encoder of the official models is OpenCLIP ViT-H/14 "
            "(laion2b_s32b_b79k)."
        )
    width = next((tensors[name].shape[at] for name, at in TOKEN_WIDTHS if name in tensors), None)
    if width and wanted.token_width and width != wanted.token_width:
        raise QuickstartError(
            f"--encoder: {file.name} answers tokens of width {width}; the checkpoint ({wanted.title}) reads "
            f"{wanted.token_width}. Choose the encoder the model was trained with."
        )


def usable(option: str, folders: list[Path]) -> list[str]:
    """Names of the files in `folders` that `option` can use."""
    names: dict[str, Any] = {}
    for folder in folders:
        for file in sorted(folder.iterdir()) if folder.is_dir() else []:
            if file.suffix.lower() in SUFFIXES and file.is_file():
                try:
                    checkpoint(file) if option == "checkpoint" else check_encoder(file, Checkpoint(""))
                except QuickstartError:
                    continue
                names[file.name] = None
    return list(names)
