"""Files of a run: resumable checkpoints, and the one safetensors file that the nodes load.

A checkpoint is a folder `step-00001000/` with everything a resume needs, each part named:
model.safetensors (fp32 weights), ema.safetensors, optimizer.pt, state.json. Folders are written under a temporary name
and renamed, so a crash leaves the previous one whole. With DeepSpeed the folder is the one accelerate writes.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from trainer.config import ConfigError

NAME = re.compile(r"step-(\d+)$")


def read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata of a .safetensors file, or of a .ckpt/.pt file through weights_only loading."""
    if not path.is_file():
        raise ConfigError(f"{path} does not exist.")
    if path.suffix in (".ckpt", ".pt", ".pth", ".bin"):
        try:
            loaded = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise ConfigError(
                f"{path} is not a plain tensor file ({error}); convert it to safetensors where you trust it."
            ) from None
        return dict(loaded.get("state_dict", loaded)), {}
    try:
        with safe_open(path, framework="pt") as file:
            return {k: file.get_tensor(k) for k in file.keys()}, file.metadata() or {}
    except SafetensorError as error:
        raise ConfigError(f"{path} is not a whole safetensors file ({error}); download or export it again.") from None


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file through a temporary name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, temporary, metadata=dict(metadata))
    temporary.replace(path)


def folders(output: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    return sorted((p for p in output.glob("step-*") if NAME.match(p.name)), key=lambda p: int(NAME.match(p.name)[1]))


def save(output: Path, step: int, parts: Mapping[str, Any], config: Mapping[str, Any], keep: int) -> Path:
    """Write a checkpoint; `parts` maps model, optimizer and, where there is one, ema to their state dicts."""
    final = output / f"step-{step:08d}"
    temporary = output / f".{final.name}.part"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for name, state in parts.items():
        if name == "optimizer":
            torch.save(state, temporary / "optimizer.pt")
        else:
            write_tensors(temporary / f"{name}.safetensors", state, {})
    (temporary / "state.json").write_text(json.dumps({"step": step, "config": config}, indent=1))
    shutil.rmtree(final, ignore_errors=True)
    temporary.rename(final)
    for old in folders(output)[:-keep] if keep > 0 else []:
        shutil.rmtree(old)
    return final


def load(folder: Path) -> tuple[int, dict[str, Any], dict[str, Any]]:
    """-> step, parts by name, config of the run that wrote the checkpoint."""
    state = json.loads((folder / "state.json").read_text())
    parts: dict[str, Any] = {p.stem: read_tensors(p)[0] for p in folder.glob("*.safetensors")}
    if (folder / "optimizer.pt").is_file():
        parts["optimizer"] = torch.load(folder / "optimizer.pt", map_location="cpu", weights_only=True)
    return state["step"], parts, state["config"]


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
