"""XL without tagger (Fig. 5 of its paper): a second CLIP tower beside the first, trained and run."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from colorize import families
from tests import tiny, tiny_xl
from trainer import config as configuration
from trainer.commands.dry_run import report
from trainer.config import ConfigError
from trainer.models import checkpoint
from trainer.models.xl_colorizer import XLColorizer
from trainer.run.loop import train
from trainer.stages import table


@pytest.fixture
def clip_values(values, tmp_path) -> dict[str, dict]:
    """Configuration of a tiny XL run with two CLIP towers of 17 tokens, 40 and 24 wide."""
    for name, width in (("first", 40), ("second", 24)):
        encoder = tiny.reference_encoder(width)
        told = {"colorize.image_size": "56", "colorize.head_width": "16"}
        save_file(encoder.state_dict(), tmp_path / f"{name}.safetensors", metadata=told)
    model = {
        "vae": values["model"]["vae"],
        "encoder": str(tmp_path / "first.safetensors"),
        "tagger": str(tmp_path / "second.safetensors"),
        "second_tower": "clip",
        "model_channels": 32,
        "channel_mult": [1, 2, 2],
        "transformer_depth": [0, 1, 2],
        "num_head_channels": 16,
        "token_width": 48,
    }
    run = values["run"] | {"stage": "xl", "steps": 2}
    return values | {"run": run, "model": model, "loss": {"reference_drop": 0.3}, "gram": {"weight": 0.0}}


def test_two_towers_train_export_and_colour(clip_values, tmp_path):
    config = configuration.build(clip_values)
    assert "second tower" in report(config)
    file = train(config)
    tensors, metadata = checkpoint.read_tensors(file)
    family = families.detect(tensors, metadata)
    assert (family.name, family.second_tower, family.tagger_dim) == ("xl", "clip", 24)
    model = clip_values["model"]
    colorizer = XLColorizer.from_files(str(file), model["encoder"], model["tagger"], torch.device("cpu"))
    references = torch.rand(2, 3, 64, 64) * 2 - 1
    towers = colorizer.reference_encoder.encode(references), colorizer.tagger.network.encode(references)
    assert [tower.shape[1:] for tower in towers] == [(17, 40), (17, 24)]
    assert torch.equal(colorizer.tokens(references), colorizer.projection(*towers))

    save_file(tiny_xl.tagger_weights(), tmp_path / "tagger.safetensors", metadata=tiny_xl.TAGGER_METADATA)
    clip_values["model"] |= {"init": str(file), "vae": "", "second_tower": "tagger"}
    clip_values["model"]["tagger"] = str(tmp_path / "tagger.safetensors")
    with pytest.raises(ConfigError, match="set model.second_tower = 'clip'"):
        table.build_stage(configuration.build(clip_values), torch.device("cpu"))


def test_other_stages_do_not_know_it(clip_values):
    clip_values["run"]["stage"] = "xl_lora"
    clip_values["model"]["init"] = "model.safetensors"
    with pytest.raises(
        ConfigError, match="model.second_tower belongs to stages xl and distill, not to xl_lora: set it"
    ):
        table.checked(configuration.build(clip_values))


def test_files_without_the_marker_read_a_tagger():
    tensors = tiny_xl.checkpoint()
    assert families.detect(tensors, tiny_xl.METADATA).second_tower == "tagger"
