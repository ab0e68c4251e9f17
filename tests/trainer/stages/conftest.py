"""Tiny runs of the XL stages."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from colorize.reference.wd_tagger import WDTagger
from tests.trainer.stages.xl_runs import encoder_file, randomised
from trainer import config as configuration
from trainer.models import checkpoint
from trainer.stages.table import build_stage

TAGGER = dict(classes=6, embed_dim=8, depths=(1, 1), heads=(1, 2), image_size=32, window=4)


@pytest.fixture(scope="session")
def tagger(tmp_path_factory) -> str:
    """File of a random tagger of 16 tokens of width 16."""
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("tagger") / "tagger.safetensors"
    metadata = {"colorize.image_size": "32", "colorize.window_size": "4"}
    save_file(WDTagger(**TAGGER).model.state_dict(), path, metadata=metadata)
    return str(path)


@pytest.fixture(scope="session")
def wide_encoder(tmp_path_factory) -> str:
    return encoder_file(tmp_path_factory.mktemp("wide"), 32)


@pytest.fixture
def xl(values, tagger, wide_encoder) -> dict[str, dict]:
    """Configuration of a 6-step XL run with everything on."""
    model = {
        "vae": values["model"]["vae"],
        "encoder": wide_encoder,
        "tagger": tagger,
        "model_channels": 32,
        "channel_mult": [1, 2, 2],
        "transformer_depth": [0, 1, 2],
        "num_head_channels": 16,
        "token_width": 48,
    }
    loss = {"reference_drop": 0.3, "offset_noise": 0.05, "sketch_drop": 0.2, "reference_inpaint": 0.5}
    gram = {"weight": 1.0, "start": 0.33}
    return values | {"run": values["run"] | {"stage": "xl"}, "model": model, "loss": loss, "gram": gram}


@pytest.fixture
def backbone(xl, tmp_path) -> str:
    """An exported XL model with random weights."""
    stage = randomised(build_stage(configuration.build(xl), torch.device("cpu")))
    path = tmp_path / "backbone.safetensors"
    checkpoint.write_tensors(path, *stage.export(stage.state_dict()))
    return str(path)
