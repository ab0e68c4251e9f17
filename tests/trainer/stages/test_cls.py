"""The CLS model of the v1 paper: trained, exported, recognised, and refused where it does not belong."""

from pathlib import Path

import pytest
import torch

from colorize import families
from trainer import config as configuration
from trainer.__main__ import main
from trainer.cache.recipes import recipes
from trainer.config import ConfigError
from trainer.models import checkpoint
from trainer.models.colorizer import V1Colorizer
from trainer.run.loop import train
from trainer.stages import table


@pytest.fixture
def cls_values(values) -> dict[str, dict]:
    """Configuration of a tiny run of a CLS model."""
    values["model"]["tokens"] = "cls"
    values["loss"] |= {"latent_shuffle": 0.0, "noisy_reference": 0.0}
    return values


def test_a_run_exports_a_model_that_reads_the_class_token(cls_values, frozen, pictures, tmp_path, capsys):
    file = train(configuration.build(cls_values))
    tensors, metadata = checkpoint.read_tensors(file)
    family = families.detect(tensors, metadata)
    assert (family.name, family.tokens, family.title) == ("v1", "cls", "ColorizeDiffusion v1 (CLS)")
    assert families.detect(tensors, {"colorize.num_head_channels": "16"}).tokens == "cls"  # by the marker tensor
    colorizer = V1Colorizer.from_files(str(file), frozen["encoder"], torch.device("cpu"))
    references = torch.rand(2, 3, 64, 64) * 2 - 1
    assert torch.equal(colorizer.tokens(references), colorizer.reference_encoder.encode(references)[:, :1])
    again = tmp_path / "again.safetensors"
    assert main(["convert", str(file.parent), "--output", str(again), "--dtype", "fp32"]) == 0
    assert checkpoint.read_tensors(again)[1]["colorize.tokens"] == "cls"
    measure = ["evaluate", "--checkpoint", str(again), "--encoder", frozen["encoder"], "--data", str(pictures)]
    assert main([*measure, "--count", "2", "--steps", "1", "--mode", "vanilla", "masked",
                 "--output", str(tmp_path / "out")]) == 0  # fmt: skip
    assert "masked" in capsys.readouterr().out


def test_six_steps_equal_three_and_three(cls_values, tmp_path):
    """Bit for bit, with cached and with computed tokens."""
    results = []
    for name, steps, cache in (("whole", (6,), False), ("parts", (3, 6), True)):
        for count in steps:
            cls_values["run"] |= {"output": str(tmp_path / name), "steps": count}
            cls_values["data"]["cache"] = cache
            cls_values["optimizer"] |= {"warmup": 0, "decay": "constant"}
            file = train(configuration.build(cls_values))
        results.append(checkpoint.read_tensors(file)[0])
    assert all(torch.allclose(results[0][key], results[1][key], atol=1e-6) for key in results[0])


def test_a_file_goes_on_as_what_it_is(cls_values, tmp_path):
    config = configuration.build(cls_values)
    stage = table.build_stage(config, torch.device("cpu"))
    file = tmp_path / "cls.safetensors"
    checkpoint.write_tensors(file, *stage.export(stage.state_dict()))
    cls_values["model"] |= {"init": str(file)}
    assert table.build_stage(configuration.build(cls_values), torch.device("cpu")).config.model.tokens == "cls"
    cls_values["model"]["tokens"] = "local"
    with pytest.raises(ConfigError, match='reads cls tokens.*not local.*model.tokens = "cls"'):
        table.build_stage(configuration.build(cls_values), torch.device("cpu"))


def test_a_local_model_is_no_cls_model(cls_values, v1_file):
    cls_values["model"] |= {"init": v1_file}
    with pytest.raises(ConfigError, match='reads local tokens.*not cls.*model.tokens = "local"'):
        table.build_stage(configuration.build(cls_values), torch.device("cpu"))


def test_what_does_not_go_together_is_said(cls_values):
    cls_values["loss"]["latent_shuffle"] = 1.0
    with pytest.raises(ConfigError, match="nothing to shuffle"):
        table.checked(configuration.build(cls_values))
    cls_values["loss"]["latent_shuffle"] = 0.0
    cls_values["run"]["stage"] = "vae"
    with pytest.raises(ConfigError, match='model.tokens belongs to stage v1, not to vae: set it to "local"'):
        table.checked(configuration.build(cls_values))


def test_cached_tokens_of_the_two_kinds_are_kept_apart(cls_values):
    made = []
    for tokens in ("local", "cls"):
        cls_values["model"]["tokens"] = tokens
        made.append(recipes(configuration.build(cls_values), ("latents", "tokens")))
    assert made[0]["latents"] == made[1]["latents"] and made[0]["tokens"] != made[1]["tokens"]


def test_unknown_kinds_and_wrong_families_are_refused(v1_file):
    tensors, metadata = checkpoint.read_tensors(Path(v1_file))
    with pytest.raises(families.CheckpointError, match="tokens of the kind 'patches'"):
        families.detect(tensors, metadata | {"colorize.tokens": "patches"})
    lora = "model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_q.lora_down_fg.weight"
    with pytest.raises(families.CheckpointError, match="which only v1 models can, but it is ColorizeDiffusion v1.5"):
        families.detect(tensors | {lora: torch.zeros(4, 64)}, metadata | {"colorize.tokens": "cls"})
