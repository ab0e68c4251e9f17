"""A few tiny pictures and networks, so that whole training runs take a second."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import save_file

from colorize.reference.vision import ReferenceEncoder
from colorize.tiny_vae import TinyVAE
from trainer import config as configuration
from trainer.models import checkpoint
from trainer.stages.table import build_stage


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> Path:
    """Four characters in two poses: color/, sketch/, reference/, their regions/ and masks, of 64 px."""
    root = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    kinds = ("color", "sketch", "reference", "regions", "mask", "reference_regions", "reference_mask")
    for kind in kinds:
        (root / kind).mkdir()
    for character in range(4):
        paint = [tuple(int(v) for v in random.integers(0, 256, 3)) for _ in range(3)]
        for pose in range(2):
            color, sketch = Image.new("RGB", (64, 64), paint[0]), Image.new("L", (64, 64), 255)
            labels = Image.new("L", (64, 64), 0)
            for part in (1, 2):
                x, y = (int(v) for v in random.integers(16, 48, 2))
                box = (x - 12, y - 12, x + 12, y + 12)
                ImageDraw.Draw(color).ellipse(box, fill=paint[part], outline=(0, 0, 0))
                ImageDraw.Draw(sketch).ellipse(box, fill=255, outline=0)
                ImageDraw.Draw(labels).ellipse(box, fill=part)
            name = f"{character:02d}_{pose}.png"
            mask = labels.point(lambda label: 255 if label else 0)
            for kind, image in zip(kinds, (color, sketch, color, labels, mask, labels, mask), strict=True):
                image.save(root / kind / name)
    return root


@pytest.fixture(scope="session")
def frozen(tmp_path_factory) -> dict[str, str]:
    """Files of a random autoencoder and a random reference encoder of width 32."""
    folder = tmp_path_factory.mktemp("frozen")
    torch.manual_seed(0)
    vae, encoder = TinyVAE(), ReferenceEncoder(16, 8, 32, 1, 16, 32)
    save_file(vae.state_dict(), folder / "vae.safetensors")
    save_file(encoder.state_dict(), folder / "encoder.safetensors", metadata={"colorize.head_width": "16"})
    return {"vae": str(folder / "vae.safetensors"), "encoder": str(folder / "encoder.safetensors")}


@pytest.fixture(scope="session")
def v1_file(pictures, frozen, tmp_path_factory) -> str:
    """A random v1 model whose output layers are not zero, so that everything upstream matters."""
    values = {
        "run": {"stage": "v1"},
        "model": {**frozen, "model_channels": 32, "channel_mult": [1, 1, 1, 2], "num_head_channels": 16},
        "data": {"folder": str(pictures), "size": 64, "reference": "group", "groups": "names"},
    }
    torch.manual_seed(0)
    stage = build_stage(configuration.build(values), torch.device("cpu"))
    tensors, metadata = stage.export(stage.state_dict())
    generator = torch.Generator().manual_seed(5)
    for key, value in tensors.items():
        if key.startswith("model.") and value.dim() > 1 and not value.any():
            tensors[key] = torch.randn(value.shape, generator=generator) * 0.1
    file = tmp_path_factory.mktemp("v1") / "v1.safetensors"
    checkpoint.write_tensors(file, tensors, metadata)
    return str(file)


@pytest.fixture
def values(pictures, frozen, tmp_path) -> dict[str, dict]:
    """Configuration of a 6-step v1 run of the tiny networks, as nested dictionaries."""
    return {
        "run": {"stage": "v1", "output": str(tmp_path / "run"), "steps": 6},
        "model": {**frozen, "model_channels": 32, "channel_mult": [1, 1, 1, 2], "num_head_channels": 16},
        "data": {"folder": str(pictures), "size": 64, "reference": "group", "groups": "names"},
        "loss": {
            "reference_drop": 0.3,
            "latent_shuffle": 0.5,
            "noisy_reference": 0.5,
            "offset_noise": 0.05,
            "min_snr_gamma": 5.0,
        },
        "optimizer": {"lr": 1e-3, "batch": 2, "ema": 0.99, "warmup": 2, "decay": "cosine"},
        "system": {"precision": "fp32"},
        "report": {"log_every": 2, "save_every": 3, "sample_every": 0, "sample_count": 2, "sample_steps": 2},
    }


@pytest.fixture
def write_toml(tmp_path):
    """write_toml(values) -> path of a TOML file with them."""

    def write(values: dict[str, dict]) -> str:
        lines = []
        for section, content in values.items():
            lines.append(f"[{section}]")
            lines += [f"{key} = {json.dumps(value)}" for key, value in content.items()]
        path = tmp_path / "config.toml"
        path.write_text("\n".join(lines))
        return str(path)

    return write


@pytest.fixture(autouse=True)
def fresh_accelerator():
    """Accelerate keeps one state per process; every run of these tests starts its own."""
    from accelerate.state import AcceleratorState, GradientState

    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
