"""Runs whose frozen weights lie in 8 bits or rest: they learn alike, export what they were given, and resume."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.trainer.stages.test_adapted import with_adapter
from tests.trainer.stages.xl_runs import regions_of
from trainer import config as configuration
from trainer.commands import cache
from trainer.config import ConfigError
from trainer.models import checkpoint
from trainer.models.lean_layers import Lean
from trainer.run import loop, memory
from trainer.stages import colorizer_cost, table
from trainer.stages.table import build_stage

CPU = torch.device("cpu")
FORMS = {
    "whole": {},
    "8 bits": {"frozen_8bit": True},
    "resting": {"layer_offload": 1.0},
    "both": {"frozen_8bit": True, "layer_offload": 0.5},
}


def train(values: dict, form: str, output: Path, **run) -> Path:
    values = values | {"system": values["system"] | FORMS[form], "run": values["run"] | run | {"output": str(output)}}
    return loop.train(table.checked(configuration.build(values)))


def losses(file: Path) -> list[float]:
    lines = map(json.loads, (file.parent / "log.jsonl").read_text().splitlines())
    return [line.get("denoising", line.get("distillation")) for line in lines]


@pytest.fixture
def regions(values, v1_file, frozen) -> dict:
    """Values of a run of six steps of region weights, which reads the autoencoder from a file of its own."""
    model = {"init": v1_file, **frozen, "recovery_layers": 2, "region_rank_background": 0.25}
    values["report"] |= {"log_every": 1, "sample_every": 6}
    optimizer = {"lr": 1e-2, "batch": 2, "ema": 0.9}
    run = values["run"] | {"stage": "v1_5"}
    return values | {"run": run, "model": model, "loss": {"reference_drop": 0.3}, "optimizer": optimizer}


@pytest.fixture
def adapters(values, v1_file) -> dict:
    values["report"]["log_every"] = 1
    return with_adapter(values, v1_file) | {"loss": {"reference_drop": 0.3}}


@pytest.fixture
def xl_regions(xl, backbone) -> dict:
    xl["report"] |= {"log_every": 1, "sample_every": 6}
    return regions_of(xl, backbone, "xl_lora")


@pytest.fixture
def xl_plugin(xl, backbone) -> dict:
    xl["report"] |= {"log_every": 1}
    return regions_of(xl, backbone, "xl_plugin")


@pytest.fixture
def student(values, v1_file, frozen) -> dict:
    values["report"] |= {"log_every": 1, "sample_every": 6}
    model = {"init": v1_file, "encoder": frozen["encoder"]}
    distill = {"teacher_steps": 4, "lora_rank": 2}
    run = values["run"] | {"stage": "distill"}
    return values | {"run": run, "model": model, "distill": distill, "loss": {"reference_drop": 0.3}}


@pytest.mark.parametrize("form", ["8 bits", "resting"])
@pytest.mark.parametrize("name", ["regions", "adapters", "xl_regions", "xl_plugin", "student"])
def test_it_learns_alike_and_exports_what_it_was_given(request, name, form, tmp_path):
    """Losses within 3 % in 8 bits (10 of a student, whose loss is a small difference), to the last bits at rest, until
    the first steps of Adam make signs of what is nearly 0; what is not trained is exported as it was, bit for bit."""
    near = 0.1 if name == "student" else 0.03
    values = request.getfixturevalue(name)
    file, plain = (train(values, chosen, tmp_path / chosen, steps=3) for chosen in (form, "whole"))
    whole, ours = losses(plain), losses(file)
    assert len(set(whole)) == 3 and (ours != whole or form == "resting")
    assert ours[0] == pytest.approx(whole[0], rel=near if form == "8 bits" else 1e-5)
    assert ours == pytest.approx(whole, rel=2 * near)
    tensors, expected = (checkpoint.read_tensors(path)[0] for path in (file, plain))
    before, _ = checkpoint.read_tensors(Path(values["model"]["init"]))
    stage = build_stage(configuration.build(values), CPU)
    trained = {name for name, parameter in stage.named_parameters() if parameter.requires_grad}
    assert {key: value.dtype for key, value in tensors.items()} == {k: v.dtype for k, v in expected.items()}
    kept = before.keys() & tensors.keys() - trained
    assert all(torch.equal(tensors[key], expected[key]) for key in kept)
    assert name == "adapters" or len(kept) > 50
    if name == "student":  # what it learned, beside what its teacher was before it came into another form
        loras = [path.with_stem(path.stem + "-lora") for path in (file, plain)]
        (lora, _), (theirs, _) = (checkpoint.read_tensors(path) for path in loras)
        assert lora.keys() == theirs.keys()
        assert all((lora[key] - theirs[key]).abs().max() < 0.02 for key in lora if key.endswith(".diff"))


def test_four_steps_are_two_and_two(regions, tmp_path):
    """Bit for bit; checkpoints hold no frozen weight, and a run may go on with whole ones, and the other way round."""
    straight = train(regions, "both", tmp_path / "straight", steps=4)
    train(regions, "both", tmp_path / "broken", steps=2)
    broken = train(regions, "both", tmp_path / "broken", steps=4)
    ours, theirs = (checkpoint.read_tensors(file)[0] for file in (straight, broken))
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    size = (checkpoint.folders(broken.parent)[-1] / "model.safetensors").stat().st_size
    train(regions, "whole", broken.parent, steps=5)
    whole = checkpoint.folders(broken.parent)[-1]
    assert whole.name == "step-00000005" and size < 0.6 * (whole / "model.safetensors").stat().st_size
    train(regions, "both", broken.parent, steps=6)
    assert checkpoint.folders(broken.parent)[-1].name == "step-00000006"


def test_frozen_networks_alone_are_lean(regions, values):
    """Of v1 trained as a whole the encoders; of region weights U-Net and sketch encoder too; a trained encoder not."""
    values["system"] |= {"frozen_8bit": True}
    regions["system"] |= {"frozen_8bit": True}

    def lean(network: torch.nn.Module) -> bool:
        return any(isinstance(layer, Lean) for layer in network.modules())

    v1 = build_stage(configuration.build(values), CPU)
    vae, encoder = v1.frozen
    assert lean(vae.network) and lean(encoder.network) and not lean(v1)
    region = build_stage(configuration.build(regions), CPU)
    assert lean(region) and lean(region._colorizer[0].sketch_encoder)
    assert not any(isinstance(layer, Lean) for name, layer in region.named_modules() if name.startswith("transformer"))
    values["model"] |= {"train_encoder": True}
    trained = build_stage(configuration.build(values), CPU)
    assert not lean(trained.frozen[1].network) and lean(trained.frozen[0].network)


def test_the_cache_holds_what_whole_encoders_say(values, tmp_path):
    """Rows are found by the encoder's file: they must not depend on the form in which a run keeps it."""
    rows = []
    for form in ("whole", "both"):
        data = values["data"] | {"cache_folder": str(tmp_path / form)}
        loss = values["loss"] | {"latent_shuffle": 0.0}
        system = values["system"] | FORMS[form]
        config = configuration.build(values | {"data": data, "system": system, "loss": loss})
        cache.build_cache(config, CPU, progress=False)
        files = sorted((tmp_path / form).rglob("*.safetensors"))
        rows.append([checkpoint.read_tensors(file)[0] for file in files])
    assert rows[0] and len(rows[0]) == len(rows[1])
    for ours, theirs in zip(*rows, strict=True):
        assert all(np.array_equal(ours[key], theirs[key]) for key in ours)


def test_the_estimate_counts_both(regions, monkeypatch):
    told = {}
    for form, system in FORMS.items():
        if form == "resting":  # it takes a while
            monkeypatch.setattr(colorizer_cost, "colorizer_activations", lambda *sizes, **options: 0)
        config = configuration.build(regions | {"system": regions["system"] | system})
        cost = table.row(config).cost(config)
        told[form] = memory.estimate(config, sum(cost.trained.values()), cost.frozen_bytes, cost.activations)
    whole, eighth = told["whole"].frozen, told["8 bits"].frozen
    assert whole == 4 * sum(cost.frozen.values()) and 0.25 * whole < eighth < 0.26 * whole
    assert (told["resting"].frozen, told["resting"].resting) == (0, whole)
    both = told["both"]
    assert both.frozen == pytest.approx(eighth / 2, abs=1) and both.frozen + both.resting == eighth
    assert "GiB per process" in str(both) and "at rest in CPU memory" in str(both)
    assert "at rest" not in str(told["whole"])
    assert 0 < told["8 bits"].activations < 1.1 * told["whole"].activations
    student = configuration.build(regions | {"run": {"stage": "distill"}, "system": FORMS["8 bits"], "loss": {}})
    cost = table.row(student).cost(student)
    assert cost.frozen_bytes > 4 * cost.frozen["teacher"] and "teacher" not in cost.quantised


def test_what_does_not_go_with_them(values, regions):
    autoencoder = values | {"run": values["run"] | {"stage": "vae"}, "loss": {}}
    cases = [
        (regions, {"compile": "inductor", "frozen_8bit": True}, 'system.frozen_8bit .* set system.compile = ""'),
        (regions, {"deepspeed": "zero2", "layer_offload": 0.5}, 'system.layer_offload .* set system.deepspeed = ""'),
        (autoencoder, {"frozen_8bit": True}, "system.frozen_8bit belongs to stages v1, v1_5"),
        (regions, {"layer_offload": 1.5}, "a share between 0 and 1"),
    ]
    for base, system, words in cases:
        optimizer = base["optimizer"] | {"ema": 0.0}
        with pytest.raises(ConfigError, match=words):
            table.checked(configuration.build(base | {"system": base["system"] | system, "optimizer": optimizer}))
    adapted = regions | {"adapter": {"kind": "lora", "frozen": "bf16"}}
    with pytest.raises(ConfigError, match='set adapter.frozen = "fp32"'):
        configuration.build(adapted | {"system": {"precision": "bf16", "frozen_8bit": True}})
