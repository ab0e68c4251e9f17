"""A dry run on a fresh clone: memory of every preset without one of its files, and all that is missing at the end."""

from __future__ import annotations

import re
from dataclasses import replace
from math import prod

import pytest
import torch
from safetensors.torch import save_file

from colorize import names
from colorize.reference.vision import ReferenceEncoder
from colorize.unet.config import unet_weights
from tests.golden.files import key_list
from tests.golden.needs import full_set
from trainer import config as configuration
from trainer.__main__ import main
from trainer.commands import dry_run
from trainer.config import PRESETS, ConfigError, load
from trainer.models.frozen import encoder_sizes
from trainer.run import memory
from trainer.stages import colorizer_cost, file_sizes, table, xl_cost
from trainer.stages.cost import Cost, count

NAMES = sorted(file.stem for file in PRESETS.glob("*.toml"))


@pytest.fixture
def empty_folder(tmp_path, monkeypatch):
    """A folder without any file, from which commands are given. What autograd keeps is counted elsewhere."""
    monkeypatch.chdir(tmp_path)
    for module in (colorizer_cost, xl_cost):
        monkeypatch.setattr(module, "colorizer_activations", lambda *sizes, **options: 2**30)


def files_of(name: str) -> dict[str, str]:
    model = load(name).model
    paths = {key: getattr(model, key) for key in ("init", "init_from", "vae", "encoder", "tagger")}
    return {key: path for key, path in paths.items() if path}


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_tells_its_memory_and_all_that_is_missing(name, empty_folder, capsys):
    assert main(["train", "--config", name, "--dry-run"]) == 2
    text = capsys.readouterr()
    assert re.search(r"memory    about \d+\.\d GiB per process", text.out)
    files = files_of(name)
    for key, path in files.items():
        assert f"model.{key} = {path!r} does not exist" in text.err
    assert f"data.folder {load(name).data.folder!r} does not exist" in text.err
    assert f"the run cannot begin yet, {len(files) + 1} thing" in text.err and "Traceback" not in text.err


@pytest.mark.parametrize("held_out", ("", "held"))
def test_what_is_there_is_counted_by_its_header(values, held_out, tmp_path, monkeypatch, capsys):
    """A run of tiny networks whose data is there lacks one file: the rest is told as always, the held-out set too."""
    whole = table.row(config := _built(values)).cost(config)
    values["model"]["vae"] = "elsewhere.safetensors"
    values["data"]["holdout"] = held_out
    cost = table.row(config := _built(values)).cost(config)
    assert cost.trained == whole.trained
    assert cost.frozen == whole.frozen | {"autoencoder": file_sizes.AUTOENCODER}
    with pytest.raises(ConfigError, match=r"(?s)model.vae = 'elsewhere.safetensors' does not exist") as error:
        dry_run.run(config)
    assert ("data.holdout = 'held' does not exist" in str(error.value)) == bool(held_out)
    assert "8 pictures; " in capsys.readouterr().out


def _built(values) -> configuration.Config:
    return table.checked(configuration.build(values))


def test_what_another_preset_makes_is_as_large_as_it_makes_it(empty_folder):
    """demo-v1 starts from what demo-v1-crops exports; the encoder is demo-encoder's, the autoencoder demo-vae's."""
    made, maker = load("demo-v1"), load("demo-v1-crops")
    assert file_sizes.maker(made.model.init) == maker
    assert table.row(made).cost(made).trained == table.row(maker).cost(maker).trained
    encoder = file_sizes.reference_encoder(made)
    wanted = load("demo-encoder").model
    assert (encoder.output_dim, encoder.image_size) == (wanted.encoder_width, wanted.encoder_size)
    assert file_sizes.autoencoder_size(made) < 10e6
    refined = load("demo-animediffusion-2")
    assert table.row(refined).cost(refined).trained == table.row(refined).cost(load("demo-animediffusion")).trained


def test_a_file_that_is_there_goes_before_the_preset(empty_folder, tmp_path):
    config = load("demo-v1")
    file = tmp_path / config.model.encoder
    file.parent.mkdir(parents=True)
    torch.manual_seed(0)
    save_file(ReferenceEncoder(16, 8, 32, 1, 16, 32).state_dict(), file, metadata={"colorize.head_width": "16"})
    assert file_sizes.reference_encoder(config).output_dim == encoder_sizes(str(file)).output_dim == 32
    assert "model.encoder" not in "".join(file_sizes.missing(config))


def test_published_files_have_the_sizes_that_are_counted(empty_folder):
    full_set()

    def published(file: str, part: str = "") -> int:
        return sum(prod(shape) for name, shape in key_list(file).items() if part in name)

    v1, xl, clip = load("v1-24gb"), load("xl-lora-24gb"), load("xl-clip-paper")
    assert count(file_sizes.reference_encoder(v1).parameters()) == published("clip_vit_h.json", ".visual.")
    assert count(file_sizes.reference_encoder(xl).parameters()) == published("clip_vit_bigg_hf.json")
    assert file_sizes.second_tower(xl) == (published("wd_v14_swinv2_timm.json"), 1024)
    assert file_sizes.second_tower(clip) == (published("clip_vit_h.json", ".visual."), 1024)
    assert file_sizes.AUTOENCODER == published("v1.json", "first_stage_model.")
    trained = table.row(v1).cost(v1).trained
    assert trained["U-Net"] == published("v1.json", "model.diffusion_model.")
    assert trained["sketch encoder"] == published("v1.json", "control_encoder.")
    frozen = table.row(xl).cost(xl).frozen
    shapes = {name: torch.empty(shape, device="meta") for name, shape in key_list("xlv2.json").items()}
    own = {name: tensor for name, tensor in unet_weights(shapes).items() if names.REGION_LORA not in name}
    assert frozen["U-Net"] == count(own.values())
    assert frozen["token projection"] == count(v for name, v in shapes.items() if name.startswith(names.PROJECTION))


def test_a_student_as_a_lora_needs_half_the_memory(tmp_path, monkeypatch):
    """Of that with whole weights: it has no second network, and no gradients of the first."""
    monkeypatch.chdir(tmp_path)
    totals = []
    for name in ("distill-12gb", "distill-24gb"):
        config = load(name)
        if totals:  # to count what the other keeps beside its weights takes a while
            monkeypatch.setattr(colorizer_cost, "colorizer_activations", lambda *sizes, **options: 0)
        cost = table.row(config).cost(config)
        trained = sum(cost.trained.values())
        told = memory.estimate(config, trained, cost.frozen_bytes, cost.activations, largest=cost.largest)
        totals.append(told.total / 2**30)
    assert totals[0] < min(9, 0.6 * totals[1]), totals


@pytest.mark.parametrize(("name", "fits"), [("v1-12gb", 12), ("v1_5-12gb", 12), ("xl-lora-16gb", 16)])
def test_small_presets_fit_with_room_for_sheets(name, fits, tmp_path, monkeypatch):
    """By the whole estimate, activations and all, on shapes alone; each without its form of less memory takes more."""
    monkeypatch.chdir(tmp_path)
    config = load(name)
    cost = table.row(config).cost(config)
    trained = sum(cost.trained.values())

    def total(config: configuration.Config, cost: Cost) -> float:
        return memory.estimate(config, trained, cost.frozen_bytes, cost.activations, largest=cost.largest).total / 2**30

    assert cost.activations and total(config, cost) < fits - 3
    whole = replace(config.optimizer, fused_backward_pass=False)
    plain = replace(config, optimizer=whole, system=replace(config.system, frozen_8bit=False))
    assert total(plain, replace(cost, quantised=frozenset())) > total(config, cost) + 2
    resting = replace(config, system=replace(config.system, layer_offload=1.0))
    assert total(resting, cost) < (4 if cost.frozen else fits)
