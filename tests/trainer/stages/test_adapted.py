"""Stages v1, v1_5 and xl with [adapter]: what is trained and kept, resuming, the file for ComfyUI, the merged model."""

import json
from pathlib import Path

import pytest
import torch

from colorize import families
from tests.trainer.stages.xl_runs import first_batch
from trainer import config as configuration
from trainer.__main__ import main
from trainer.config import ConfigError
from trainer.draws import Draws
from trainer.models import checkpoint
from trainer.run import loop, memory
from trainer.stages import table
from trainer.stages.table import build_stage


def with_adapter(values: dict, init: str, kind: str = "lora", **adapter) -> dict:
    model = {"init": init, "encoder": values["model"]["encoder"], "recovery_layers": 2}
    optimizer = {"lr": 1e-2, "batch": 2, "ema": 0.9}
    return values | {"model": model, "adapter": {"kind": kind, "rank": 2, **adapter}, "optimizer": optimizer}


def train(values: dict, **run) -> Path:
    return loop.train(configuration.build(values | {"run": values["run"] | run}))


@pytest.mark.parametrize("kind", ["lora", "dora", "loha", "lokr"])
def test_six_steps_equal_three_and_three(values, v1_file, tmp_path, kind):
    adapted = with_adapter(values, v1_file, kind)
    adapted["loss"] = {"reference_drop": 0.3, "offset_noise": 0.05}
    whole = train(adapted, output=str(tmp_path / "straight"))
    train(adapted, output=str(tmp_path / "broken"), steps=3)
    parts = train(adapted, output=str(tmp_path / "broken"))
    (ours, metadata), (theirs, _) = checkpoint.read_tensors(whole), checkpoint.read_tensors(parts)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert all(key.startswith("diffusion_model.") for key in ours) and len(ours) > 100
    assert metadata["modelspec.architecture"] == f"colorize-diffusion-v1/{kind}"
    assert json.loads(metadata["colorize.config"])["adapter"]["kind"] == kind
    saved = checkpoint.folders(parts.parent)[-1]
    size = sum(file.stat().st_size for file in saved.glob("*.safetensors"))
    assert size < 4 * parts.stat().st_size + 10**6  # nothing frozen is saved
    adapted["adapter"]["rank"] = 4
    with pytest.raises(ConfigError, match="holds a run with other adapters: set adapter.rank = 2 as it began"):
        train(adapted, output=str(tmp_path / "broken"))


def test_the_merged_model_is_the_model_with_the_adapter(values, v1_file, tmp_path, capsys):
    """The losses of the trained stage are those of the merged file, and only weights of the U-Net differ in it."""
    adapted = with_adapter(values, v1_file, "dora", rank=4, layers="transformers") | {"loss": {"reference_drop": 0.0}}
    file = train(adapted)
    whole = tmp_path / "whole.safetensors"
    assert main(["convert", str(file.parent), "--merge", "--dtype", "fp32", "--output", str(whole)]) == 0
    before, (after, metadata) = checkpoint.read_tensors(Path(v1_file))[0], checkpoint.read_tensors(whole)
    assert before.keys() == after.keys() and metadata["colorize.family"] == "v1"
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed and all("diffusion_model" in key and key.endswith(".weight") for key in changed)
    assert families.detect(after, metadata).name == "v1"
    stage = build_stage(configuration.build(adapted), torch.device("cpu"))
    stage.load_state_dict(checkpoint.read_tensors(file)[0])
    plain = dict(values) | {"model": {"init": str(whole), "encoder": values["model"]["encoder"]}}
    other = build_stage(configuration.build(plain | {"loss": adapted["loss"]}), torch.device("cpu"))
    batch = first_batch(stage.config)
    ours, theirs = (part(batch, Draws(0, 0, [0, 1]))["denoising"] for part in (stage, other))
    assert torch.allclose(ours, theirs, rtol=1e-4)
    assert main(["convert", str(file.parent), "--output", str(tmp_path / "lora.safetensors")]) == 0
    small, _ = checkpoint.read_tensors(tmp_path / "lora.safetensors")
    assert all(value.dtype == torch.float16 for value in small.values())


def test_adapters_of_both_regions(values, v1_file, tmp_path):
    """Of a v1.5 model, whose region weights and recovery stay as they are; a v1 model is refused there."""
    region = values | {"run": values["run"] | {"stage": "v1_5"}, "loss": {"background_bleach": 0.3}}
    model = {"init": v1_file, "encoder": values["model"]["encoder"], "recovery_layers": 2}
    base = train(region | {"model": model, "optimizer": {"lr": 1e-2, "batch": 2}}, steps=2)
    with pytest.raises(ConfigError, match='no region weights.* set adapter.kind = "none", or .* run.stage = "v1"'):
        build_stage(configuration.build(with_adapter(region, v1_file)), torch.device("cpu"))
    adapted = with_adapter(region, str(base), layers="attention")
    file = train(adapted, output=str(tmp_path / "adapted"), steps=2)
    tensors, metadata = checkpoint.read_tensors(file)
    assert metadata["colorize.family"] == "v1.5" and not any("lora_down_fg" in key for key in tensors)
    assert any("attn2.to_v.lora_up" in key and tensors[key].any() for key in tensors)
    output = tmp_path / "whole.safetensors"
    assert main(["convert", str(file.parent), "--merge", "--output", str(output), "--dtype", "fp32"]) == 0
    before, after = (checkpoint.read_tensors(path)[0] for path in (base, output))
    same = {key for key in before if torch.equal(before[key], after[key])}
    assert {key for key in before if ".lora_" in key or not key.startswith("model.")} <= same < before.keys()


def test_xl_with_frozen_weights_of_half_the_size(xl, backbone, tmp_path):
    """bf16 multiplies with the same numbers, whichever type they lie in; sheets and the Gram loss go as well."""
    losses = {}
    for frozen in ("fp32", "bf16"):
        model = xl["model"] | {"init": backbone, "vae": ""}
        adapted = xl | {"model": model, "adapter": {"kind": "lora", "rank": 2, "frozen": frozen}}
        adapted["system"] = {"precision": "bf16"}
        file = train(adapted, output=str(tmp_path / frozen), steps=4)
        lines = (tmp_path / frozen / "log.jsonl").read_text().splitlines()
        losses[frozen] = [json.loads(line)["denoising"] for line in lines]
        assert checkpoint.read_tensors(file)[1]["colorize.family"] == "xl"
    assert losses["fp32"] == pytest.approx(losses["bf16"], rel=0.01)
    config = configuration.build(adapted)
    cost = table.row(config).cost(config)
    assert list(cost.trained) == ["lora of the U-Net"] and cost.activations
    assert cost.halved == ("U-Net", "sketch encoder") and {"U-Net", "tagger"} <= cost.frozen.keys()
    assert memory.estimate(config, 0, cost.frozen_bytes, 0).frozen < 4 * sum(cost.frozen.values())


def test_what_does_not_go_together_is_refused(values, v1_file, tmp_path, capsys):
    adapted = with_adapter(values, v1_file)
    cases = [
        ({"model": values["model"]}, 'adapter.kind = "lora" changes a trained model: name its file in model.init'),
        ({"model": adapted["model"] | {"train_encoder": True}}, "train_encoder trains other weights"),
        ({"adapter": {"kind": "lora", "frozen": "bf16"}}, 'adapter.frozen = "bf16" .* system.precision = "fp32"'),
        (
            {"run": values["run"] | {"stage": "vae"}, "loss": {}},
            "adapter.kind belongs to stages v1, v1_5, xl and distill",
        ),
    ]
    for changes, words in cases:
        with pytest.raises(ConfigError, match=words):
            table.checked(configuration.build(adapted | changes))
    file = train(values, steps=1)
    assert main(["convert", str(file.parent), "--merge", "--output", str(tmp_path / "x.safetensors")]) == 2
    assert "trained no adapters" in capsys.readouterr().err
