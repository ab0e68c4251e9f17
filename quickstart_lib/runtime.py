"""Where a run computes: which ComfyUI, which Python, and the server with the run's model files."""

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from . import comfyui, environment
from .plan import MODEL_FOLDERS, PACK
from .server import Server, place
from .terminal import Status

NO_GPU_IN_TORCH = (
    "There is an NVIDIA driver, but this torch sees no GPU: computing on the CPU. To use the GPU, start quickstart "
    "with --torch cuda, or with the Python of a ComfyUI that does: python quickstart.py --use-current-environment"
)


def choose_environment(
    chosen: argparse.Namespace, comfy: Path, cache: Path, extras: Sequence[str], status: Status
) -> environment.Environment:
    """The environment the options ask for."""
    if chosen.use_current_environment:
        return environment.current(comfy, PACK, extras)
    wishes = environment.Wishes(chosen.torch, chosen.rebuild, chosen.verbose)
    return environment.prepare(comfy, PACK, extras, cache, status, wishes)


def find_comfyui(chosen: argparse.Namespace, cache: Path, status: Status) -> Path:
    """ComfyUI's folder, as the options ask for."""
    return comfyui.find_or_fetch(chosen.comfyui, typed_pack(), os.environ, Path.home(), cache, status)


def typed_pack() -> Path:
    """The pack's folder as the person named it: a link inside custom_nodes tells where ComfyUI is."""
    return Path(os.path.abspath(sys.argv[0])).parent if Path(sys.argv[0]).name == "quickstart.py" else PACK


def tell_device(env: environment.Environment, chosen: argparse.Namespace, status: Status) -> None:
    """Say so when there is a GPU that will not be used."""
    if env.device == "cpu" and not chosen.cpu and shutil.which("nvidia-smi"):
        status.line(NO_GPU_IN_TORCH)


def upload_all(server: Server, files: dict[str, Path]) -> dict[str, str]:
    """Upload what a workflow is given (option -> file); returns option -> value for the workflow."""
    return {option: server.upload(file, f"quickstart_{option}{file.suffix.lower()}") for option, file in files.items()}


def place_models(server: Server, files: dict[str, Path]) -> dict[str, str]:
    """Make the model files (option -> file) the server's; returns option -> name for the workflow."""
    for option, file in files.items():
        place(file, server.base / "models" / MODEL_FOLDERS[option] / file.name)
    return {option: file.name for option, file in files.items()}
