"""Networks in .onnx files through onnxruntime, which is optional: imported when such a file is loaded, not before."""

from __future__ import annotations

import importlib.metadata
import logging
import os
from types import ModuleType
from typing import Any

import torch

from ...colorize.families import CheckpointError
from .files import READ_ADVICE

BUILDS = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino", "onnxruntime-rocm")
PROVIDERS = ("auto", "cpu")
LARGEST_SIDE = 4096  # pixels that a network reads; published ones read 320 to 1024
CPU = "CPUExecutionProvider"
# In the order of preference. TensorRT is left out: it compiles for minutes at the first picture.
GPU = ("CUDAExecutionProvider", "ROCMExecutionProvider", "MIGraphXExecutionProvider", "DmlExecutionProvider")


def installed_builds() -> list[str]:
    """Which distributions of onnxruntime pip knows of. They share one folder: two of them break each other."""
    found = []
    for name in BUILDS:
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        found.append(name)
    return found


def import_onnxruntime(file_name: str) -> ModuleType:
    """The module onnxruntime, or a RuntimeError that says what to install or to remove."""
    try:
        import onnxruntime
    except Exception as error:  # a broken build raises OSError, ImportError or its own kinds
        builds = installed_builds()
        if not builds:
            raise RuntimeError(
                f"The file {file_name!r} needs onnxruntime, which is not installed. Install one build into ComfyUI's "
                "Python: pip install onnxruntime-gpu (NVIDIA) or pip install onnxruntime (CPU), or use the "
                ".safetensors version of the model, which needs neither."
            ) from error
        raise RuntimeError(
            f"The file {file_name!r} needs onnxruntime; {' and '.join(builds)} is installed but cannot be imported "
            f"({error}). {repair_advice(builds)} The .safetensors version of the model needs no onnxruntime."
        ) from error
    return onnxruntime


def repair_advice(builds: list[str]) -> str:
    """The commands that leave one working build."""
    kept = "onnxruntime-gpu" if "onnxruntime-gpu" in builds else builds[0]
    return f"Run: pip uninstall -y {' '.join(builds)}, then: pip install {kept}"


class OnnxNetwork:
    """A network of one picture input and one output, called with a float32 tensor on the CPU.

    provider: what computes, in words, for reports. note: what is wrong with the set-up, or "".
    """

    def __init__(self, path: str, provider: str = "auto") -> None:
        if provider not in PROVIDERS:
            raise ValueError(f"provider is {provider!r}; choose one of {', '.join(PROVIDERS)}.")
        self.file_name = os.path.basename(path)
        if not os.path.isfile(path):
            raise CheckpointError(f"The file {path!r} does not exist. Refresh the node list (R) and choose again.")
        onnxruntime = import_onnxruntime(self.file_name)
        available = onnxruntime.get_available_providers()
        wanted = [] if provider == "cpu" else [name for name in GPU if name in available][:1]
        self.session = self._open(onnxruntime, path, wanted)
        inputs = self.session.get_inputs()
        if len(inputs) != 1:
            raise CheckpointError(
                f"The file {self.file_name!r} reads {len(inputs)} inputs; expected one picture. Choose another file."
            )
        self.input_name = inputs[0].name
        self.shape = tuple(inputs[0].shape)
        if any(isinstance(side, int) and not 0 < side <= LARGEST_SIDE for side in self.shape):
            raise CheckpointError(
                f"The file {self.file_name!r} reads pictures of the shape {list(self.shape)}; sides are 1 to "
                f"{LARGEST_SIDE} pixels. It is damaged or was made to fill the memory: download it again."
            )
        used = self.session.get_providers()[0]
        self.provider = "CPU" if used == CPU else used.removesuffix("ExecutionProvider")
        builds = installed_builds()
        self.note = ""
        if len(builds) > 1:
            self.note = (
                f"{' and '.join(builds)} are installed together and overwrite each other. {repair_advice(builds)}"
            )
        elif wanted and used == CPU:
            self.note = f"{wanted[0]} is offered but does not start, so the CPU computes; see the log."
        if self.note:
            logging.warning("onnxruntime: %s", self.note)

    def _open(self, onnxruntime: ModuleType, path: str, wanted: list[str]) -> Any:
        try:
            return onnxruntime.InferenceSession(path, providers=[*wanted, CPU])
        except Exception as error:  # onnxruntime raises kinds of its own, for damaged files and for missing drivers
            if not wanted:
                detail = str(error).split("\n", 1)[0][:200]
                raise CheckpointError(
                    f"The file {self.file_name!r} cannot be read by onnxruntime: {detail}. {READ_ADVICE}"
                ) from error
            logging.warning("onnxruntime cannot use %s (%s); the CPU computes instead.", wanted[0], error)
            return self._open(onnxruntime, path, [])

    @property
    def batch_is_free(self) -> bool:
        """Whether several pictures may be computed at once."""
        return not isinstance(self.shape[0], int)

    def __call__(self, picture: torch.Tensor) -> torch.Tensor:
        """(B, ...) in the file's own layout -> its first output (B, ...), float32."""
        picture = picture.float().cpu()
        rows = [picture] if self.batch_is_free else picture.split(1)
        answers = [torch.from_numpy(self.session.run(None, {self.input_name: row.numpy()})[0]) for row in rows]
        return torch.cat(answers).float()
