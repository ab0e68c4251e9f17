"""What the quickstart tests share."""

import json
import struct
from pathlib import Path

import pytest

from tests.quickstart.pretended import FAKE, Run

ROOT = Path(__file__).parents[2]


@pytest.fixture
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture
def make_comfyui(tmp_path):
    """Returns a function that makes a folder looking like ComfyUI: make(relative name, version="0.33.0", main="")."""

    def make(name: str, version: str = "0.33.0", main: str = "") -> Path:
        folder = tmp_path / name
        (folder / "comfy").mkdir(parents=True)
        (folder / "main.py").write_text(main, encoding="utf-8")
        (folder / "requirements.txt").write_text("torch\n", encoding="utf-8")
        (folder / "comfyui_version.py").write_text(f'__version__ = "{version}"\n', encoding="utf-8")
        return folder

    return make


# names and shapes from which a file is taken for a ColorizeDiffusion v1 checkpoint of the small width
V1_TENSORS = {
    "model.diffusion_model.input_blocks.0.0.weight": [64, 4, 3, 3],
    "model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight": [256, 128],
    "control_encoder.model.0.weight": [16, 3, 3, 3],
    "control_encoder.zero_layer.0.weight": [64, 64, 1, 1],
    "control_encoder.zero_blocks.0.weight": [64, 64, 1, 1],
}
ENCODER_TENSORS = {"visual.conv1.weight": [64, 3, 14, 14], "visual.proj": [64, 128]}


@pytest.fixture
def write_header():
    """write(file, name -> shape, metadata, size): a safetensors file whose header is true and whose values are zero."""

    def write(file: Path, tensors: dict, metadata: dict | None = None, size: int = 64) -> Path:
        entries = {name: {"dtype": "U8", "shape": shape, "data_offsets": [0, size]} for name, shape in tensors.items()}
        text = json.dumps({**entries, "__metadata__": metadata or {}}).encode()
        file.write_bytes(struct.pack("<Q", len(text)) + text + bytes(size))
        return file

    return write


@pytest.fixture
def start(tmp_path, root, make_comfyui, write_header):
    """start(mode, *options, **environment): quickstart with the pretended ComfyUI in `tmp_path`; returns its Run."""
    comfyui, runs = make_comfyui("comfyui", main=FAKE), []
    write_header(tmp_path / "some.safetensors", V1_TENSORS)
    write_header(tmp_path / "encoder.safetensors", ENCODER_TENSORS)

    def begin(mode: str, *options: str, **environ: str) -> Run:
        models = ("--checkpoint", "some.safetensors", "--encoder", "encoder.safetensors")
        runs.append(Run(tmp_path, root, comfyui, mode, *models, *options, **environ))
        return runs[-1]

    yield begin
    for run in runs:
        run.process.kill()
        run.process.communicate()
