"""How `prepare` makes a sketch or a mask of a picture: the table of methods, their weight files, and running them.

A `Method` is what the user asked for, small enough to be sent to worker processes and to be hashed; `load` turns it
into a callable. The networks are those of the nodes (colorize/sketch/extractors), without ComfyUI.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from colorize.pictures import images, masks
from colorize.pictures.drawn_figure import drawn_figures
from colorize.pictures.isnet import ISNet, character_mask
from colorize.pictures.ranges import levels_to_model, model_to_unit
from colorize.public_files import LINE_EXTRACTORS, SEGMENTERS, line_extractor_addresses
from colorize.sketch.extractors import WITHOUT_NETWORK, load_network, without_network, working
from trainer.config import ConfigError
from trainer.models.checkpoint import read_tensors

NETWORK_FILES = {
    "sketchkeras": "model.pth",
    "anime2sketch": "netG.pth",
    "manga_line": "erika.pth",
    "lineart_sk": "sk_model.pth",
    "lineart_sk_coarse": "sk_model2.pth",
}
"""Method -> the public name of its weights; as .safetensors under the same stem they are found too."""
SKETCHES = (*WITHOUT_NETWORK, *NETWORK_FILES)
DRAWING = "drawing"
"""The mask method that needs no file: the figure as the picture's own lines enclose it."""
MASKS = {"isnet": "isnetis.safetensors", DRAWING: ""}
"""Method -> the public name of its weights."""
DRAWING_SIDE = 512
"""Pictures of more pixels than this square's are made smaller to look for the figure."""
WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin")
VERSION = 1
"""Part of every fingerprint: goes up when the same options make other pixels."""

Apply = Callable[[Image.Image], np.ndarray]
"""RGB picture -> (H, W) uint8 of the same size: dark lines on white, or white figure on black."""


@dataclass(frozen=True)
class Method:
    """One thing that is made of every picture."""

    name: str
    """One of SKETCHES or MASKS."""
    weights: str = ""
    """File of the network's weights; empty for the methods without."""
    weights_hash: str = ""
    """Of that file's bytes."""
    options: dict[str, Any] = field(default_factory=dict)
    """Of a sketch: side, in pixels of the square whose area is worked on, 0 = the method's own; of xdog: sigma. Of a
    mask by a network: size, side in pixels of the square it reads, and threshold, 0..1, 0 = soft masks."""

    @property
    def fingerprint(self) -> str:
        """Hash of everything but the picture that the result depends on; not of where the weights lie."""
        described = asdict(self) | {"weights": "", "version": VERSION}
        return hashlib.blake2b(json.dumps(described, sort_keys=True).encode(), digest_size=16).hexdigest()


def sketch_method(name: str, weights: Sequence[str] = (), **options: Any) -> Method:
    """The method of a name in SKETCHES, its weights found among `weights` (files and folders). Raises ConfigError."""
    if name not in SKETCHES:
        raise ConfigError(f"Unknown sketch method {name!r}; choose among {', '.join(SKETCHES)}.")
    if name in WITHOUT_NETWORK:
        return Method(name, options=options)
    public = NETWORK_FILES[name]
    path = find_weights(public, weights, _is_extractor(name))
    if path is None:
        raise ConfigError(
            f"Sketches by {name} need the file {public}, which is not {_searched(weights)}. Give the file or its "
            f"folder with --weights. Public address: {line_extractor_addresses(public)}. Without a file, the methods "
            f"{' and '.join(WITHOUT_NETWORK)} work."
        )
    return Method(name, str(path), _file_hash(path), options)


def mask_method(name: str, weights: Sequence[str] = (), **options: Any) -> Method:
    """The method of a name in MASKS, likewise."""
    if name not in MASKS:
        raise ConfigError(f"Unknown mask method {name!r}; choose none or {', '.join(MASKS)}.")
    if name == DRAWING:  # always 0 and 255
        return Method(name, options={"side": DRAWING_SIDE})
    path = find_weights(MASKS[name], weights, _is_segmenter)
    if path is None:
        raise ConfigError(
            f"Masks by {name} need the file {MASKS[name]}, which is not {_searched(weights)}. Give the file or its "
            f"folder with --weights. Files: {SEGMENTERS} (.safetensors, .pth or .ckpt here, not .onnx)."
        )
    return Method(name, str(path), _file_hash(path), options)


def _searched(weights: Sequence[str]) -> str:
    return f"in {', '.join(map(str, weights))}" if weights else "given"


def find_weights(public: str, places: Sequence[str], fits: Callable[[Path], bool]) -> Path | None:
    """The weight file of a public name: the first file whose tensors fit, in a folder among those with its stem."""
    stem = Path(public).stem
    for place in map(Path, places):
        if not place.exists():
            raise ConfigError(f"--weights {place} does not exist; give weight files or folders that hold them.")
        if place.is_dir():
            for suffix in WEIGHT_SUFFIXES:
                if (path := place / f"{stem}{suffix}").is_file() and fits(path):
                    return path
        elif fits(place):
            return place
    return None


def _is_extractor(name: str) -> Callable[[Path], bool]:
    """Whether a file's tensors are those of a method's network. The two of lineart_sk differ by their names only."""
    title = LINE_EXTRACTORS[NETWORK_FILES[name]][0].partition(",")[0]

    def fits(path: Path) -> bool:
        tensors, _ = read_tensors(path)  # a damaged file is an error, another network is not
        try:
            found = load_network(tensors)
        except ValueError:
            return False
        if not found.title.startswith(title):
            return False
        return title != "lineart_sk" or (path.stem == "sk_model2") == (name == "lineart_sk_coarse")

    return fits


def _is_segmenter(path: Path) -> bool:
    tensors, _ = read_tensors(path)
    try:
        ISNet.from_state_dict(tensors)
    except ValueError:
        return False
    return True


def _file_hash(path: Path) -> str:
    hashed = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(2**20):
            hashed.update(block)
    return hashed.hexdigest()


# -- running -----------------------------------------------------------------------------------------------------------


def load(method: Method, device: torch.device) -> Apply:
    """The method, ready to run on a device. Raises ConfigError when its file holds another network."""
    if method.name == DRAWING:
        return functools.partial(_drawn_mask, method.options["side"])
    if method.name in MASKS:
        return _load_mask(method, device)
    options = dict(method.options)
    side = options.pop("side", 0)
    if method.name in WITHOUT_NETWORK:
        return lambda image: _drawing(without_network(_picture(image, device), method.name, side, **options))
    try:
        network = load_network(read_tensors(Path(method.weights))[0]).to(device)
    except ValueError as error:
        raise ConfigError(f"{method.weights} cannot be used for {method.name}: {error}") from None
    return lambda image: _drawing(working.extract(network, _picture(image, device), side or working.SIDE))


def _load_mask(method: Method, device: torch.device) -> Apply:
    try:
        network = ISNet.from_state_dict(read_tensors(Path(method.weights))[0]).to(device)
    except ValueError as error:
        raise ConfigError(f"{method.weights} cannot be used for {method.name}: {error}") from None
    size, threshold = method.options.get("size", masks.WORKING_SIZE), method.options.get("threshold", 0.0)

    def apply(image: Image.Image) -> np.ndarray:
        mask = character_mask(network, _picture(image, device), size).nan_to_num(0.0)
        return _bytes(masks.binary(mask, threshold) if threshold else mask)

    return apply


def _drawn_mask(side: int, image: Image.Image) -> np.ndarray:
    """The figure that the lines of a picture enclose, (H, W) of 0 and 255. ValueError where there are no lines.

    The lines are XDoG's, which lead to better figures than standard line art's (docs/LOG.md).
    """
    scale = min(1.0, side / math.sqrt(image.width * image.height))
    small = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    lines = without_network(_picture(small, torch.device("cpu")), "xdog")
    drawing = model_to_unit(images.invert(lines))
    figure = drawn_figures(drawing.movedim(1, -1).expand(-1, -1, -1, 3))[:, None]
    return _bytes((images.resize(figure, image.height, image.width) > 0.5).float())


def _picture(image: Image.Image, device: torch.device) -> torch.Tensor:
    """RGB picture -> (1, 3, H, W) in -1..1."""
    values = torch.from_numpy(np.array(image)).to(device)
    return levels_to_model(values.permute(2, 0, 1)[None].float())


def _drawing(sketch: torch.Tensor) -> np.ndarray:
    """Model sketch (1, 1, H, W) -> dark lines on white, uint8 (H, W)."""
    return _bytes(model_to_unit(images.invert(sketch)))


def _bytes(values: torch.Tensor) -> np.ndarray:
    """(1, 1, H, W) in 0..1 -> (H, W) uint8."""
    return (values[0, 0].clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
