"""Stand-ins of the models of every shipped workflow, with which a random graph takes a fraction of a second."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from safetensors.torch import save_file

from tests import tiny
from tests.browser.stand_ins import BY_PAGE, HEAD, MAKERS

FOLDERS = {
    **{name: ("checkpoints",) for name in ("colorize_small.safetensors", "mult-eps-newft.safetensors", *BY_PAGE)},
    "open_clip_model.safetensors": ("clip_vision", "text_encoders"),
    "wd-v1-4-swinv2-tagger-v2.safetensors": ("colorize_taggers",),
}
"""Where a stand-in lies, where it is not among the reference encoders."""


def v1_5(file: Path) -> None:
    weights = {key: value.contiguous() for key, value in tiny.checkpoint_v1_5().items()}
    save_file(weights, file, metadata=tiny.METADATA_V1_5)


def tower(file: Path) -> None:
    model = tiny.reference_encoder()
    facts = {"kind": "reference_encoder", "image_size": model.image_size, "head_width": HEAD}
    metadata = {f"colorize.{name}": str(value) for name, value in facts.items()}
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, file, metadata=metadata)


def makers() -> dict[str, Callable[[Path], None]]:
    """Name of a file -> what writes it."""
    return {"colorize_small.safetensors": v1_5, "colorize_small_vision.safetensors": tower, **MAKERS, **BY_PAGE}


def place(folder: Path) -> None:
    """Put stand-ins below a server's folder of models; they come before the bundled files of the same name."""
    for name, make in makers().items():
        for kind in FOLDERS.get(name, ("clip_vision",)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            make(folder / kind / name)
