"""Starts the benchmarks in a process with ComfyUI and the pack: `python -m tests.bench [NAME ...]`."""

from __future__ import annotations

import importlib
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.golden.runner import comfy_command, find_comfy

ROOT = Path(__file__).resolve().parents[2]

# Benchmarks of the trainer, each a module with main(arguments); the name comes first.
WITHOUT_COMFYUI = {
    "canvas": "tests.bench.canvas",
    "flats": "tests.bench.flats",
    "gram": "tests.bench.gram",
    "index": "tests.bench.data_index",
    "loader": "tests.bench.loader",
    "student": "tests.bench.student",
    "solvers": "tests.bench.solvers",
    "train": "tests.bench.train",
}


def small_model(scratch: Path) -> tuple[Path, Path]:
    """The bundled small model and its encoder; where they are missing, random weights of their sizes in `scratch`."""
    checkpoint = ROOT / "models" / "checkpoints" / "colorize_small.safetensors"
    encoder = ROOT / "models" / "clip_vision" / "colorize_small_vision.safetensors"
    if checkpoint.is_file() and encoder.is_file():
        return checkpoint, encoder

    from safetensors.torch import save_file

    from colorize.reference.vision import ReferenceEncoder
    from colorize.unet.config import UNetConfig
    from tests import tiny

    print("The bundled small model is missing; random weights of its sizes take its place.")
    config = UNetConfig(model_channels=64, channel_mult=(1, 2, 2, 2), num_head_channels=64, context_dim=192)
    checkpoint, encoder = scratch / "small.safetensors", scratch / "small_vision.safetensors"
    save_file(tiny.checkpoint(config), checkpoint, metadata={**tiny.METADATA, "colorize.num_head_channels": "64"})
    tower = ReferenceEncoder(image_size=112, patch_size=8, width=192, layers=4, head_width=64, output_dim=192)
    save_file(tiny.randomised(tower.visual), encoder, metadata={"colorize.head_width": "64"})
    return checkpoint, encoder


def main() -> int:
    if module := WITHOUT_COMFYUI.get(next(iter(sys.argv[1:]), "")):
        return importlib.import_module(module).main(sys.argv[2:])
    comfy = find_comfy()
    if comfy is None:
        print("ComfyUI was not found. Set COMFYUI_PATH to its folder.", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint, encoder = small_model(Path(scratch))
        arguments = ["--checkpoint", checkpoint, "--encoder", encoder, *sys.argv[1:]]
        return subprocess.run(comfy_command(comfy, "tests.bench.run", *arguments), cwd=scratch).returncode


if __name__ == "__main__":
    sys.exit(main())
