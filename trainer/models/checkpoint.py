"""Files of a run: resumable checkpoints, and the one safetensors file that the nodes load.

A checkpoint is a folder `step-00001000/` with everything a resume needs, each part named:
model.safetensors (fp32 weights), ema.safetensors, optimizer.safetensors (packed.py), state.json. With DeepSpeed the
folder is the one accelerate writes, which holds pickles, and state.json. The newest folders of a run are kept, and the
one with the lowest validation loss, which best.json names.

Everything is written under a temporary name, brought to the disk, and renamed: whatever ends the process, at whatever
moment, a file or folder under its own name is whole, and the one before it is still there. What a crash leaves behind
is swept up by the next start.
"""

from __future__ import annotations

import contextlib
import contextvars
import json
import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from colorize import weight_files
from trainer.config import ConfigError
from trainer.json_file import JSON_ERRORS, read_object
from trainer.models import packed

NAME = re.compile(r"step-(\d{8,18})$")
BEST = "best.json"
PICKLES = (".ckpt", ".pt", ".pth", ".bin")
UNFINISHED = ".colorize-part"
"""End of the names of what is being written or deleted: nobody else's (browsers call their downloads *.part)."""


DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}
"""Kinds of numbers of networks, as safetensors calls them."""
OLD_UNFINISHED = re.compile(r"\.step-\d{8,18}(\.old)?\.part")
"""Folders that a run of an earlier version left behind when it was killed."""
SET_ASIDE = ".damaged"
"""End of the name of a checkpoint that cannot be read."""
DAMAGED = "delete this checkpoint's folder: the run goes on from the one before it"


VALUES_OF = 64
"""Tensors of so many values are read with them, also where shapes are enough: they are markers."""
_headers_only = contextvars.ContextVar("headers_only", default=False)


@contextlib.contextmanager
def headers_only() -> Iterator[None]:
    """A context in which `read_tensors` gives tensors without values (on the device "meta"), but for small ones: what a
    network of a file would be can be told without its memory."""
    before = _headers_only.set(True)
    try:
        yield
    finally:
        _headers_only.reset(before)


def _read(file: Any, name: str) -> torch.Tensor:
    """One tensor of an open safetensors file."""
    if not _headers_only.get():
        return file.get_tensor(name)
    part = file.get_slice(name)
    shape, kind = part.get_shape(), DTYPES.get(part.get_dtype())
    if math.prod(shape) <= VALUES_OF or kind is None:
        return file.get_tensor(name)
    return torch.empty(shape, dtype=kind, device="meta")


def read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata of a .safetensors file, or of a .ckpt/.pt file through weights_only loading."""
    if not path.is_file():
        raise ConfigError(f"{path} does not exist.")
    if path.suffix.lower() in PICKLES:
        return _plain_tensors(load_pickle(path), path), {}
    try:
        with safe_open(path, framework="pt") as file:
            tensors, metadata = {k: _read(file, k) for k in file.keys()}, file.metadata() or {}
    except (SafetensorError, OSError, ValueError, OverflowError, MemoryError) as error:
        raise ConfigError(f"{path} is not a whole safetensors file ({error}); download or export it again.") from None
    return _plain_tensors(tensors, path), metadata


def load_pickle(path: Path) -> Any:
    """What a .ckpt, .pt, .pth or .bin file holds, through weights_only loading. ConfigError for all others."""
    try:
        weight_files.check_before_reading(path)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for damaged files
        first = str(error).partition("\n")[0][:200]
        raise ConfigError(
            f"{path} is not a plain tensor file ({first}); convert it to safetensors where you trust it."
        ) from None


def _plain_tensors(loaded: Any, path: Path) -> dict[str, torch.Tensor]:
    """The named tensors of a file, out of the "state_dict" that training scripts put around them."""
    if isinstance(loaded, Mapping) and isinstance(loaded.get("state_dict"), Mapping):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, Mapping):
        raise ConfigError(f"{path} holds a {type(loaded).__name__}, not named tensors; choose a file of weights.")
    tensors = {str(key): value for key, value in loaded.items() if isinstance(value, torch.Tensor)}
    try:
        read = {key: value for key, value in tensors.items() if not value.is_meta}  # others: see headers_only
        weight_files.check_tensors(read, path.stat().st_size, path.name)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    return tensors


def read_names(path: Path) -> list[str]:
    """The names of the tensors in a file; of a .safetensors file only the header is read."""
    if path.suffix != ".safetensors" or not path.is_file():
        return list(read_tensors(path)[0])
    try:
        with safe_open(path, framework="pt") as file:
            return list(file.keys())
    except SafetensorError:
        return list(read_tensors(path)[0])  # whose error says what is wrong


def _to_disk(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    if path.is_dir() and os.name == "nt":  # Windows has no handle for that, and orders renames itself
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _unfinished(path: Path) -> Path:
    """Where what will be `path` is written."""
    return path.with_name(f".{path.name}{UNFINISHED}")


def _remove(path: Path) -> None:
    """Remove a file, a folder with all that is in it, or a link, but not what the link leads to."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)


def _take_place(temporary: Path, final: Path) -> None:
    """Rename what was written, files to the disk first."""
    for path in [temporary] if temporary.is_file() else [*temporary.rglob("*"), temporary]:
        _to_disk(path)
    os.replace(temporary, final)
    _to_disk(final.parent)


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file through a temporary name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _unfinished(path)
    kept = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    try:
        save_file(kept, temporary, metadata=dict(metadata))
    except SafetensorError as error:  # it tells the system's number in words only
        if (found := re.search(r"os error (\d+)", str(error))) is None:
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1])), str(path)) from None
    _take_place(temporary, path)


def write_text(path: Path, text: str) -> None:
    """Write a text file through a temporary name."""
    temporary = _unfinished(path)
    temporary.write_text(text, encoding="utf-8")
    _take_place(temporary, path)


def folders(output: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    found = (path for path in output.glob("step-*") if NAME.match(path.name) and path.is_dir())
    return sorted(found, key=step_of)


def step_of(folder: Path) -> int:
    """The step after which a checkpoint was written."""
    found = NAME.match(folder.name)
    if found is None:
        raise ValueError(f"{folder} is no checkpoint: its name is not step-NUMBER.")
    return int(found[1])


def best(output: Path) -> Path | None:
    """The checkpoint with the lowest validation loss; None where none was validated, or it is gone."""
    if not (output / BEST).is_file():
        return None
    name = read_object(output / BEST, "delete it: the next validation writes it again").get("checkpoint")
    folder = output / name if isinstance(name, str) and NAME.fullmatch(name) else None
    return folder if folder is not None and folder.is_dir() else None


def _delete(folder: Path) -> None:
    """Delete a checkpoint so that a crash in between leaves no half of it under its name."""
    gone = folder.with_name(f".{folder.name}.old{UNFINISHED}")
    _remove(gone)
    os.replace(folder, gone)
    _remove(gone)


def set_aside(folder: Path) -> Path:
    """Give a damaged checkpoint a name that is none of a checkpoint; what is there stays to be looked at."""
    aside = folder.with_name(f"{folder.name}{SET_ASIDE}")
    _remove(aside)
    os.replace(folder, aside)
    return aside


def sweep(output: Path) -> None:
    """Remove what an interrupted write or deletion left behind: our own names, and nothing else."""
    old = (path for path in output.glob(".step-*.part") if OLD_UNFINISHED.fullmatch(path.name) and path.is_dir())
    for path in (*output.glob(f".*{UNFINISHED}"), *old):
        _remove(path)


def begin(output: Path, step: int) -> Path:
    """An empty temporary folder for the checkpoint after `step`, to be finished by `commit`."""
    temporary = _unfinished(output / f"step-{step:08d}")
    _remove(temporary)
    temporary.mkdir(parents=True)
    return temporary


def commit(temporary: Path, state: Mapping[str, Any], keep: int) -> Path:
    """Give a finished checkpoint its name; then the best is noted and old checkpoints are deleted.

    state: goes into state.json: step, config, best ({"step", "validation"} or None) and what else a resume needs.
    keep: newest checkpoints to keep, 0 for all; the best stays.
    """
    output, final = temporary.parent, temporary.parent / f"step-{state['step']:08d}"
    (temporary / "state.json").write_text(json.dumps(state, indent=1), encoding="utf-8")
    if final.exists():  # of a run that was continued from before it
        _delete(final)
    _take_place(temporary, final)
    note_best(output, state.get("best"))
    kept = {best(output), *folders(output)[-keep:]}
    for old in folders(output):
        if old not in kept:
            _delete(old)
    return final


def note_best(output: Path, found: Mapping[str, Any] | None) -> None:
    """Bring best.json to what a checkpoint's state says; None, or a checkpoint that is gone, removes it."""
    path = output / BEST
    name = f"step-{found['step']:08d}" if found else ""
    if not found or not (output / name).is_dir():
        path.unlink(missing_ok=True)
        return
    text = json.dumps({"checkpoint": name, **found}, indent=1)
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)


def save(output: Path, parts: Mapping[str, Any], state: Mapping[str, Any], keep: int) -> Path:
    """Write a checkpoint; `parts` maps model, optimizer and, where there is one, ema to their state dicts.

    state and keep: see `commit`.
    """
    temporary = begin(output, state["step"])
    try:
        for name, part in parts.items():
            if name == "optimizer":
                write_tensors(temporary / "optimizer.safetensors", *packed.pack(part))
            else:
                write_tensors(temporary / f"{name}.safetensors", part, {})
        return commit(temporary, state, keep)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)  # what fills the disk must not stay on it
        raise


def read_state(folder: Path) -> dict[str, Any]:
    """What `commit` was given; for folders that accelerate wrote alone, just their step."""
    path = folder / "state.json"
    if not path.is_file():
        return {"step": step_of(folder)}
    state = read_object(path, DAMAGED)
    best = state.get("best")
    if not (
        _is_count(state.get("step"))
        and isinstance(state.get("config", {}), dict)
        and (
            best is None or isinstance(best, dict) and _is_count(best.get("step")) and _is_real(best.get("validation"))
        )
    ):
        raise ConfigError(f"{path} is no state of a run (step, config and best are of other kinds); {DAMAGED}.")
    return state


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 10**15


def _is_real(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < float("inf")


def check_whole(folder: Path) -> None:
    """ConfigError when a file of a checkpoint is missing or cut short; of the tensors only the headers are read."""
    if (folder / "pytorch_model").is_dir() or any(folder.glob("*.pkl")):  # accelerate's own, which it checks itself
        return
    state = read_state(folder)
    if "config" not in state:
        raise ConfigError(f"{folder / 'state.json'} does not exist, or says no configuration.")
    names = ["model"] if (folder / "optimizer.pt").is_file() else ["model", "optimizer"]
    averaged = state["config"].get("optimizer", {}).get("ema")
    for name in [*names, "ema"] if averaged else names:
        path = folder / f"{name}.safetensors"
        if not path.is_file():
            raise ConfigError(f"{path} does not exist.")
        try:
            with safe_open(path, framework="pt") as file:
                packed.check(file.metadata() or {}) if name == "optimizer" else None
        except (SafetensorError, *JSON_ERRORS, OSError, TypeError, LookupError) as error:
            raise ConfigError(f"{path} is not whole ({error!s:.200}).") from None


def load(folder: Path) -> tuple[int, dict[str, Any], dict[str, Any]]:
    """-> step, parts by name, config of the run that wrote the checkpoint."""
    state = read_state(folder)
    read = {path.stem: read_tensors(path) for path in folder.glob("*.safetensors")}
    parts: dict[str, Any] = {name: tensors for name, (tensors, _) in read.items()}
    if "optimizer" in read:
        try:
            parts["optimizer"] = packed.unpack(*read["optimizer"])
        except (*JSON_ERRORS, TypeError, LookupError, AttributeError, RuntimeError) as error:
            raise ConfigError(f"{folder / 'optimizer.safetensors'} is damaged ({error!r:.200}); {DAMAGED}.") from None
    elif (folder / "optimizer.pt").is_file():  # of a run before optimizer.safetensors
        parts["optimizer"] = load_pickle(folder / "optimizer.pt")
    return state["step"], parts, state.get("config", {})


def modelspec(title: str, architecture: str, resolution: int, prediction_type: str | None) -> dict[str, str]:
    """The common header of model files (modelspec 1.0.1), so that model managers can show what a file is."""
    spec = {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": architecture,
        "modelspec.implementation": "comfyui-colorize-diffusion",
        "modelspec.title": title,
        "modelspec.date": date.today().isoformat(),
        "modelspec.resolution": f"{resolution}x{resolution}",
    }
    if prediction_type:
        spec["modelspec.prediction_type"] = {"eps": "epsilon"}.get(prediction_type, prediction_type)
    return spec
