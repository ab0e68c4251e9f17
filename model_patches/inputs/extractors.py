"""Line extractors as managed models: from a file in the models folder to a drawing on the GPU."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.utils
import folder_paths
import torch

from ...colorize.families import CheckpointError
from ...colorize.public_files import LINE_EXTRACTORS, line_extractor_addresses
from ...colorize.sketch.extractors import load_network, without_network, working
from ...colorize.sketch.extractors.extractor import Extractor
from ...colorize.sketch.extractors.folding import for_inference
from ..checkpoint.files import add_model_folder, check_finite, read_weights
from ..checkpoint.managed import managed

FOLDER = "colorize_extractors"
"""Key and name of the folder below ComfyUI's models folder; extra_model_paths.yaml may add others to the key."""


def register_folder() -> None:
    """Make the folder known to ComfyUI."""
    add_model_folder(FOLDER, folder_paths.supported_pt_extensions)


def where_to_get(file_name: str) -> str:
    """What to say when a file is not there: the folder, and the public address of this file or of all known ones."""
    addresses = line_extractor_addresses(os.path.basename(file_name))
    return (
        f"The line extractor {file_name!r} is not in models/{FOLDER}. Put it there and refresh the node list (R). "
        f"Public addresses: {addresses}. Without a file, Extract Sketch works by the methods standard and xdog."
    )


@dataclass(frozen=True, eq=False)
class LoadedLineExtractor:
    """An extractor network with the patcher that owns its memory."""

    network: Extractor
    patcher: comfy.model_patcher.ModelPatcher = field(repr=False)
    file_name: str

    def extract(self, picture: torch.Tensor, side: int = 0, variant: str = "paper") -> torch.Tensor:
        """Pictures (B, 3, H, W) in -1..1 -> model sketches (B, 1, H, W); see sketch.extractors.working.extract.

        side: of the square whose area the network works on, in pixels; 0 = 768. Pictures are resized and prepared where
        they are, the network runs on its own device.
        """
        network, device = self.network, self.patcher.load_device
        side = side or working.SIDE
        squash = variant == "released"
        height, width = picture.shape[-2:]
        size = working.padded_size(network, working.working_size(height, width, side, squash))
        cuts = working.tiles(size[0], size[1], network.margin)
        at_once = min(len(picture), working.together(size))
        pixels = max((rows.stop - rows.start) * (columns.stop - columns.start) for rows, columns, _, _ in cuts)
        comfy.model_management.load_models_gpu(
            [self.patcher], memory_required=4 * network.floats_per_pixel * at_once * pixels
        )
        progress = comfy.utils.ProgressBar(math.ceil(len(picture) / at_once) * len(cuts))

        def forward(x: torch.Tensor) -> torch.Tensor:
            answer = network(x.to(device)).to(x.device)
            progress.update(1)
            comfy.model_management.throw_exception_if_processing_interrupted()
            return answer

        with torch.no_grad():
            return working.extract(network, picture, side, variant, forward)


def load_line_extractor(path: str) -> LoadedLineExtractor:
    """Read an extractor's weights (.safetensors or .pth); which network it is, its tensors say. Raises CheckpointError.

    Computed in float32: instance norm and a division by small differences lose faint lines in half precision.
    """
    name = os.path.basename(path)
    state_dict, _ = read_weights(path)
    try:
        network = load_network(state_dict)
    except ValueError as error:
        known = ", ".join(f"{file} ({title})" for file, (title, _) in LINE_EXTRACTORS.items())
        raise CheckpointError(
            f"The file {name!r} cannot be used as line extractor: {error} Known files: {known}; download the file "
            "again, or choose one of them."
        ) from None
    check_finite(network.state_dict(), name)
    patcher = managed(network)
    return LoadedLineExtractor(for_inference(network, patcher.load_device), patcher, name)


def extract_without_network(picture: torch.Tensor, method: str, side: int = 0, **settings: Any) -> torch.Tensor:
    """Pictures (B, 3, H, W) in -1..1 -> model sketches (B, 1, H, W) by "standard" line art or "xdog".

    side: of the square whose area is worked on, in pixels; 0 = the picture's own size.
    settings: sigma and threshold of colorize.sketch.extractors.lineart.standard, or the fields of xdog.XDoG there.
    """
    progress = comfy.utils.ProgressBar(len(picture))
    sketches = []
    for row in picture.split(1):
        sketches.append(without_network(row, method, side, **settings))
        progress.update(1)
        comfy.model_management.throw_exception_if_processing_interrupted()
    return torch.cat(sketches)
