"""Small files with random weights under the names of files that users download, so that such workflows can be run.

Layout and names are the official ones, the sizes are tiny: the pictures mean nothing, but every node runs and shows
what it would show.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors.torch import save_file

from tests import tiny, tiny_xl

HEAD = 16  # width of an attention head of the towers


def checkpoint(file: Path) -> None:
    save_file({k: v.contiguous() for k, v in tiny.checkpoint().items()}, file, metadata=tiny.METADATA)


def clip(file: Path) -> None:
    """A whole CLIP in open_clip's layout: picture tower with 257 tokens and text tower with CLIP's word list."""
    from open_clip.transformer import TextTransformer

    from colorize.reference.vision import ReferenceEncoder

    width = tiny.CONFIG.context_dim
    vision = ReferenceEncoder(image_size=224, patch_size=14, width=64, layers=2, head_width=HEAD, output_dim=width)
    text = TextTransformer(width=32, heads=2, layers=2, output_dim=width)
    weights = tiny.randomised(vision, 3) | tiny.randomised(text, 11)
    metadata = {"colorize.head_width": str(HEAD), "colorize.text_head_width": str(HEAD)}
    save_file(weights, file, metadata=metadata)


def v2_checkpoint(file: Path) -> None:
    save_file({k: v.contiguous() for k, v in tiny.checkpoint_v2().items()}, file, metadata=tiny.METADATA_V2)


def xl_checkpoint(file: Path) -> None:
    save_file(tiny_xl.checkpoint(), file, metadata=tiny_xl.METADATA)


def xl_plugin_checkpoint(file: Path) -> None:
    save_file(tiny_xl.checkpoint_plugin(), file, metadata=tiny_xl.METADATA)


def xl_vision(file: Path) -> None:
    tower = tiny.reference_encoder(tiny_xl.CLIP_WIDTH).state_dict()
    save_file(tower, file, metadata={"colorize.head_width": str(HEAD)})


def tagger(file: Path) -> None:
    """A Swin V2 tagger without its list of tags, as ComfyUI's download dialog leaves it."""
    save_file(tiny_xl.tagger_weights(), file, metadata=tiny_xl.TAGGER_METADATA)


MAKERS = {
    "mult-eps-newft.safetensors": checkpoint,
    "open_clip_model.safetensors": clip,
    "CLIP-ViT-bigG-14-laion2B-39B-b160k.safetensors": xl_vision,
    "wd-v1-4-swinv2-tagger-v2.safetensors": tagger,
}
# Checkpoints of which only the page is known, not the name there: the workflow's note says where they are.
BY_PAGE = {
    "sdxl.safetensors": xl_checkpoint,
    "xlv2.safetensors": xl_plugin_checkpoint,
    "v2.safetensors": v2_checkpoint,
}


def downloads(workflow: Path) -> list[dict]:
    """What ComfyUI offers to download for the nodes of a UI workflow that are switched on, each file once."""
    nodes = json.loads(workflow.read_text(encoding="utf-8"))["nodes"]
    found = {m["name"]: m for node in nodes if node["mode"] == 0 for m in node["properties"].get("models", [])}
    return list(found.values())


@contextmanager
def placed(workflow: Path, base: Path) -> Iterator[None]:
    """For a while, a stand-in for everything a UI workflow wants to download lies below a server's base folder."""
    files = {base / "models" / model["directory"] / model["name"] for model in downloads(workflow)}
    files |= {
        base / "models" / "checkpoints" / name for name in BY_PAGE if name in workflow.read_text(encoding="utf-8")
    }
    try:
        for file in files:
            file.parent.mkdir(parents=True, exist_ok=True)
            (MAKERS | BY_PAGE)[file.name](file)
        yield
    finally:
        for file in files:
            file.unlink(missing_ok=True)
