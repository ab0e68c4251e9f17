"""Model files of strangers in a run's configuration: every stage tells them before they take memory."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from colorize.tiny_vae import TinyVAE
from colorize.unet.config import UNetConfig, unet_config_from_state_dict
from colorize.unet.unet import UNet
from tests.hostile import files
from trainer import config as configuration
from trainer.config import ConfigError
from trainer.models import autoencoder
from trainer.models.colorizer import networks_from
from trainer.models.xl_colorizer import networks_from as xl_networks_from
from trainer.run import init_from
from trainer.stages import table
from trainer.stages.table import TABLE, build_stage

UNET = "model.diffusion_model."
READ = ("blocks", "ranks", "marker", "head-width", "list", "html")
"""Of the hostile files those that get far, and two that do not; tests/hostile gives all of them to the commands."""
WIDE = 100_000 // 64 * 64  # channels of a network of hundreds of gigabytes


@pytest.fixture(scope="module")
def strange(tmp_path_factory):
    folder = tmp_path_factory.mktemp("strange")
    for name in files.weights(folder):
        if name.partition(".")[0] not in READ:
            (folder / name).unlink()
    save_file(forged(4), folder / "forged.safetensors")
    save_file(forged(4) | {f"{UNET}label_emb.0.0.weight": torch.ones(8, 32)}, folder / "forged-xl.safetensors")
    save_file({"down_blocks.x": torch.ones(1), "conv_in.weight": torch.ones(1)}, folder / "down.safetensors")
    return sorted(folder.iterdir())


def forged(levels: int) -> dict[str, torch.Tensor]:
    """A U-Net of as many levels of two blocks by a few small tensors, whose sizes ask for terabytes."""
    tensors = {f"{UNET}input_blocks.0.0.weight": torch.ones(WIDE, 4, 1, 1), f"{UNET}out.2.weight": torch.ones(4, 1)}
    for block in (number for number in range(1, 3 * levels) if number % 3):
        stem = f"{UNET}input_blocks.{block}."
        tensors[f"{stem}0.in_layers.2.weight"] = torch.ones(WIDE, 1, 1, 1)
        tensors[f"{stem}1.transformer_blocks.0.attn2.to_k.weight"] = torch.ones(1, 32)
        tensors[f"{stem}1.transformer_blocks.0.norm1.weight"] = torch.ones(1)
    return tensors


def test_a_network_that_is_not_in_the_file_is_not_built():
    """The sizes come from a few tensors; 100 kB asked for 360 GB for one layer alone."""
    with pytest.raises(ConfigError, match="layout: [0-9]+ tensors are missing in the file, for example"):
        networks_from(forged(4), {})
    with pytest.raises(ConfigError, match="layout: [0-9]+ tensors are missing"):
        networks_from(forged(4), {}, (4, 0.5))
    with pytest.raises(ConfigError, match="layout: it is one of XL, which the stages"):
        networks_from(forged(3) | {f"{UNET}label_emb.0.0.weight": torch.ones(8, 32)}, {})
    with pytest.raises(ConfigError, match="XL model cannot be used: [0-9]+ tensors are missing"):
        xl_networks_from(forged(3) | {f"{UNET}label_emb.0.0.weight": torch.ones(8, 32)}, {})
    for heads in ("0", "-1", "²", "9" * 5000, "a\nb"):
        with pytest.raises(ConfigError, match="num_head_channels is .*expected a whole number from 1 to"):
            networks_from(forged(4), {"colorize.num_head_channels": heads})


def test_region_weights_that_are_in_the_file_only_in_parts_are_told():
    """Fresh weights are added to a network without any; where some are there, all must be."""
    unet = UNet(UNetConfig(4, 4, 32, (1, 1), 1, (0, 1), 16, 32, region_ranks=(2, 2)))
    weights = {UNET + key: value for key, value in unet.state_dict().items() if "lora_up_bg" not in key}
    with pytest.raises(ConfigError, match="tensors are missing in the file, for example .*lora_up_bg"):
        networks_from(weights, {"colorize.num_head_channels": "16"}, (2, 2))


def test_blocks_that_multiply_are_told():
    """Names of n blocks must not ask for n levels of n blocks of n transformers."""
    tensors = forged(3) | {f"{UNET}input_blocks.9.0.in_layers.2.weight": torch.ones(WIDE, 1, 1, 1)}
    with pytest.raises(ValueError, match="expected as many blocks on each level"):
        unet_config_from_state_dict(tensors | {f"{UNET}input_blocks.10.0.in_layers.2.weight": torch.ones(1, 1)})
    with pytest.raises(ValueError, match="one depth on a level"):
        deep = {f"{UNET}input_blocks.8.1.transformer_blocks.{n}.norm1.weight": torch.ones(1) for n in range(99)}
        unet_config_from_state_dict(forged(3) | deep)
    with pytest.raises(ValueError, match="sizes of its tensors make no U-Net"):
        unet_config_from_state_dict(forged(3) | {f"{UNET}input_blocks.0.0.weight": torch.tensor(1.0)})


def test_an_autoencoder_that_is_not_in_the_file_is_not_built():
    pytest.importorskip("diffusers")
    tensors = {
        "encoder.conv_in.weight": torch.ones(4, 3, 3, 3),
        "quant_conv.weight": torch.ones(8, 8, 1, 1),
        "post_quant_conv.weight": torch.ones(4, 4, 1, 1),
        "encoder.down.0.block.0.conv1.weight": torch.ones(WIDE, 1, 1, 1),
        "encoder.down.1.block.0.conv1.weight": torch.ones(WIDE, 1, 1, 1),
    }
    with pytest.raises(ConfigError, match="autoencoder of the file cannot be used"):
        autoencoder.from_tensors(tensors, "a.safetensors")


def stage_values(stage: str, values: dict[str, dict], v1_file: str, role: str, path: str) -> dict[str, dict]:
    """The configuration of a stage with good files but for the one in `role`."""
    sizes = {"model_channels": 32, "channel_mult": [1, 2, 2], "transformer_depth": [0, 1, 1], "num_head_channels": 16}
    model = {"vae": values["model"]["vae"], **sizes} if TABLE[stage].autoencoder else {}
    good = {"encoder": values["model"]["encoder"], "init": v1_file, "tagger": values["model"]["encoder"]}
    model |= {key: good[key] for key in TABLE[stage].files}
    data = values["data"] | ({"reference": "self", "deform": 1.0} if stage.startswith("anime") else {})
    run = values["run"] | {"stage": stage}
    return {"run": run, "model": model | {role: path}, "data": data, "system": values["system"]}


@pytest.mark.parametrize("stage", TABLE)
def test_every_stage_tells_every_file(stage, values, strange, v1_file):
    """In training and in --dry-run, whichever file of [model] it is."""
    roles = {*TABLE[stage].files, "init"} - ({"init"} if stage == "encoder" else set())
    for role in sorted(roles):
        for file in strange:
            config = configuration.build(stage_values(stage, values, v1_file, role, str(file)))
            with pytest.raises(ConfigError):
                build_stage(config, torch.device("cpu"))
            if not stage.startswith("vae"):  # its sizes are known without the file
                with pytest.raises(ConfigError):
                    table.row(config).cost(config)


def test_autoencoders_are_told(strange):
    for file in strange:
        with pytest.raises(ConfigError):
            autoencoder.load(str(file))


def test_weights_to_start_from_are_told(strange):
    for file in strange:
        with pytest.raises(ConfigError):
            init_from.start(TinyVAE(), str(file))
