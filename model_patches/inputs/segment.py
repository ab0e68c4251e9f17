"""Segmentation networks as managed models: pictures and drawings to figure masks.

A loaded one is a value of ComfyUI's BACKGROUND_REMOVAL type: core's Remove Background runs it, and the masks of
core's own models (BiRefNet) go through `figure_masks` like ours.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.utils
import folder_paths
import torch

from ...colorize.families import CheckpointError
from ...colorize.pictures import images, masks
from ...colorize.pictures.isnet import ISNet, character_mask
from ...colorize.pictures.ranges import unit_to_model
from ...colorize.public_files import SEGMENTERS
from ..checkpoint.files import check_finite, read_weights
from ..checkpoint.managed import managed
from ..checkpoint.onnx_session import OnnxNetwork

FOLDER = "colorize_segmenters"  # ComfyUI's folder key; the files lie in models/background_removal
EXTENSIONS = {".safetensors", ".sft", ".ckpt", ".pth", ".pt", ".bin", ".onnx"}

ROUTES = ("pictures", "pictures (released)", "drawings")
GROUNDS = {"white": 1.0, "black": 0.0}
NOTHING = 0.5  # no pixel above it: no figure was found


def segmenter_files() -> list[str]:
    """Names of the files a segmenter can be loaded from: those of models/background_removal, .onnx included."""
    if FOLDER not in folder_paths.folder_names_and_paths:
        core = folder_paths.folder_names_and_paths.get("background_removal")
        # The very list of core's folders, so that paths added to those later count here too.
        paths = core[0] if core else [os.path.join(folder_paths.models_dir, "background_removal")]
        folder_paths.folder_names_and_paths[FOLDER] = (paths, EXTENSIONS)
    return folder_paths.get_filename_list(FOLDER)


def segmenter_path(name: str) -> str:
    """Full path of a file of `segmenter_files`. Raises CheckpointError, naming folder and address."""
    segmenter_files()
    path = folder_paths.get_full_path(FOLDER, name)
    if path is None:
        raise CheckpointError(
            f"The segmentation model {name!r} is not in models/background_removal. Put it there and refresh (R). "
            f"Files: {SEGMENTERS}."
        )
    return path


@dataclass(frozen=True, eq=False)
class LoadedSegmenter:
    """An ISNet with the patcher that owns its memory, or an .onnx file."""

    network: Callable[[torch.Tensor], torch.Tensor]
    """(1, 3, S, S) -> (1, 1, S, S) in 0..1"""
    patcher: comfy.model_patcher.ModelPatcher | None = field(repr=False)
    file_name: str
    route: str = "pictures"
    """How a picture is brought to the network: one of ROUTES."""
    size: int = masks.WORKING_SIZE
    """Side in pixels of the square the network reads."""
    provider: str = "torch"
    """What computes, for reports."""

    def encode_image(self, image: torch.Tensor) -> torch.Tensor:
        """Comfy pictures (B, H, W, C) -> masks (B, H, W); the call that core's Remove Background makes."""
        return self.figures(image)

    def figures(self, image: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Comfy pictures (B, H, W, C), their transparency (Load Image's MASK, 1 = transparent) -> (B, H, W) in 0..1.

        1 = figure; float32 on the CPU. Drawings may have any polarity. What is transparent in a picture is no figure.
        """
        if self.route == "drawings":
            pictures, opacity = images.invert(images.comfy_image_to_sketch(image, mask)), None
        else:
            colours, opacity = images.rgb_and_alpha(image, mask)
            pictures = unit_to_model(images.on_white(colours, opacity))
        device = torch.device("cpu")
        if self.patcher is not None:
            comfy.model_management.load_models_gpu([self.patcher], memory_required=self._working_memory())
            device = self.patcher.load_device
        progress = comfy.utils.ProgressBar(len(pictures))
        found = []
        with torch.no_grad():
            for picture in pictures.split(1):  # one at a time: an answer needs about 0.6 GB at 1024 pixels
                found.append(self._mask(picture.to(device).float()).float().cpu())
                progress.update(1)
        figures = torch.cat(found)
        return (figures if opacity is None else figures * opacity.cpu())[:, 0].nan_to_num(0.0)

    def _mask(self, picture: torch.Tensor) -> torch.Tensor:
        if self.route == "drawings":
            height, width = picture.shape[-2:]
            return masks.sketch_figure_mask(self.network, picture, height, width, self.size)
        if self.route == "pictures (released)":
            return masks.figure_mask(self.network, picture, self.size)
        return character_mask(self.network, picture, self.size)

    def _working_memory(self) -> int:
        return 4 * 640 * (self.size // 2) ** 2  # about 640 maps of half the side, in float32


def load_segmenter(
    path: str, route: str = "pictures", size: int = masks.WORKING_SIZE, provider: str = "auto"
) -> LoadedSegmenter:
    """Read an ISNet: tensors, or an .onnx file. Raises CheckpointError, or RuntimeError without onnxruntime.

    route: one of ROUTES. size: side in pixels of the square the network reads; the .onnx file may fix it.
    """
    if route not in ROUTES:
        raise ValueError(f"made_for is {route!r}; choose one of {', '.join(ROUTES)}.")
    name = os.path.basename(path)
    if name.lower().endswith(".onnx"):
        onnx = OnnxNetwork(path, provider)
        if len(onnx.shape) != 4 or isinstance(onnx.shape[1], int) and onnx.shape[1] != 3:
            raise CheckpointError(
                f"The file {name!r} reads {onnx.shape}, not pictures (count, 3, height, width). "
                "Use isnetis.onnx of skytnt/anime-seg."
            )
        fixed = onnx.shape[-1]
        return LoadedSegmenter(
            onnx, None, name, route, fixed if isinstance(fixed, int) else size, f"onnxruntime, {onnx.provider}"
        )
    state_dict, _ = read_weights(path)
    try:
        network = ISNet.from_state_dict(state_dict)
    except ValueError as error:
        raise CheckpointError(
            f"The file {name!r} cannot be used as segmenter: {error} Use {SEGMENTERS}. For BiRefNet use ComfyUI's Load "
            "Background Removal Model; its output goes to Segment Character as well."
        ) from error
    check_finite(network.state_dict(), name)
    return LoadedSegmenter(network, managed(network), name, route, size)


def figure_masks(segmenter: Any, image: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Masks (B, H, W) in 0..1 on the CPU of our own segmenters and of core's BACKGROUND_REMOVAL models.

    image, mask: as for `LoadedSegmenter.figures`. Warns when there is no figure in a picture.
    """
    if isinstance(segmenter, LoadedSegmenter):
        found = segmenter.figures(image, mask)
    elif hasattr(segmenter, "encode_image"):
        colours, opacity = images.rgb_and_alpha(image, mask)
        found = segmenter.encode_image(images.on_white(colours, opacity).movedim(1, -1))
        found = found.float().cpu().reshape(-1, *found.shape[-2:]).nan_to_num(0.0).clamp(0, 1)
        found = found if opacity is None else found * opacity[:, 0].cpu()
    else:
        raise ValueError(
            f"segmenter is a {type(segmenter).__name__}. Connect Load Segmenter, or ComfyUI's Load Background Removal "
            "Model."
        )
    for number, row in enumerate(found, start=1):
        if not bool((row > NOTHING).any()):
            logging.warning(
                "Segment Character found no figure in picture %d of %d (largest value %.2f). For a drawing use "
                "sketch-segment with made_for drawings, for a colour picture isnetis with made_for pictures.",
                number, len(found), row.max().item(),
            )  # fmt: skip
    return found


def cut_out(image: torch.Tensor, figure: torch.Tensor, ground: str, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Comfy pictures with everything but the figure (B, H, W) replaced.

    ground: "white" or "black" (B, H, W, 3), or "transparent" (B, H, W, 4). The picture's own transparency is laid on
    white first.
    """
    colours = images.on_white(*images.rgb_and_alpha(image, mask)).cpu()
    opacity = figure[:, None]
    if ground == "transparent":
        picture = torch.cat([colours, opacity], dim=1)
    elif ground in GROUNDS:
        picture = colours * opacity + (GROUNDS[ground] * (1 - opacity))
    else:
        raise ValueError(f"ground is {ground!r}; choose one of white, black, transparent.")
    return picture.movedim(1, -1)
