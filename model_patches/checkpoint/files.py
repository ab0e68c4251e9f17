"""Reading weight files safely: tensors and text only, and every way a file can be broken has its own message."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterable, Mapping

import comfy.utils
import folder_paths
import torch

from ...colorize import weight_files
from ...colorize.families import CheckpointError

READ_ADVICE = "Compare its size with the download page, and download it again."


def read_weights(path: str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """(tensors, metadata) of a .safetensors, .ckpt, .pt, .pth or .bin file; metadata is empty for the latter kinds.

    Pickle files are read with torch's weights_only mode, which runs no code. Raises CheckpointError.
    """
    name = os.path.basename(path)
    if not os.path.isfile(path):
        raise CheckpointError(f"The file {path!r} does not exist. Refresh the node list (R) and choose again.")
    if os.path.getsize(path) == 0:
        raise CheckpointError(f"The file {name!r} is empty. {READ_ADVICE}")
    with open(path, "rb") as file:
        start = file.read(64)
    if start.strip().lower().startswith((b"<!doctype", b"<html")):
        raise CheckpointError(
            f"The file {name!r} is a web page, not a checkpoint: the site asked for a login or a confirmation. "
            "Download it again in the browser."
        )
    pickled = start.startswith((b"PK", b"\x80"))  # torch's zip files and plain pickles
    try:
        weight_files.check_before_reading(path)
    except ValueError as error:
        raise CheckpointError(str(error)) from None
    try:
        state_dict, metadata = comfy.utils.load_torch_file(path, safe_load=True, return_metadata=True)
    except MemoryError as error:
        raise CheckpointError(
            f"The file {name!r} needs more memory than there is. Close other programs, or choose a smaller file."
        ) from error
    except OSError:
        raise
    except Exception as error:  # torch and safetensors raise many types for damaged files
        if not (pickled and isinstance(error, pickle.UnpicklingError)):
            detail = str(error).split("\n", 1)[0][:200]
            raise CheckpointError(
                f"The file {name!r} cannot be read: it is damaged or not complete ({detail}). {READ_ADVICE}"
            ) from error
        raise CheckpointError(
            f"The file {name!r} holds Python objects besides tensors, which could run code, so it is not opened. "
            "Use the .safetensors version, or one that contains weights only."
        ) from error
    if not isinstance(state_dict, Mapping):
        raise CheckpointError(
            f"The file {name!r} holds a {type(state_dict).__name__}, not named tensors. Choose a checkpoint."
        )
    tensors = {str(key): value for key, value in state_dict.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise CheckpointError(f"The file {name!r} holds no tensors. Choose a checkpoint.")
    try:
        weight_files.check_tensors(tensors, os.path.getsize(path), name)
    except ValueError as error:
        raise CheckpointError(str(error)) from None
    return tensors, dict(metadata or {})


def check_finite(state_dict: Mapping[str, torch.Tensor], name: str) -> None:
    """Raise CheckpointError when a floating tensor holds NaN or infinity, naming the first ones."""
    broken = [key for key, value in state_dict.items() if not _is_finite(value)]
    if broken:
        raise CheckpointError(
            f"The file {name!r} has NaN or infinite values in {len(broken)} of {len(state_dict)} tensors, for "
            f"example {', '.join(broken[:3])}. It would only paint black or noise: download it again, or take an "
            "earlier checkpoint of the training."
        )


def _is_finite(tensor: torch.Tensor) -> bool:
    if not tensor.is_floating_point() or tensor.is_meta or tensor.numel() == 0:
        return True
    if tensor.element_size() == 1:  # float8 has no isfinite of its own
        tensor = tensor.to(torch.float16)
    return bool(torch.isfinite(tensor).all())


def add_model_folder(key: str, extensions: Iterable[str]) -> None:
    """Make models/`key` and files with these extensions known to ComfyUI under `key`. Safe to call again.

    Folders that extra_model_paths.yaml gave to the key stay; a key made there has no extensions, which means any file.
    """
    folder_paths.add_model_folder_path(key, os.path.join(folder_paths.models_dir, key))
    folders, known = folder_paths.folder_names_and_paths[key]
    if not set(extensions) <= set(known):
        folder_paths.folder_names_and_paths[key] = (folders, {*known, *extensions})
