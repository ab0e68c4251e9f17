"""Stages xl_plugin and xl_lora: what they train, read and show."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

from colorize.background.reference_net import plugin_input
from colorize.pictures.masks import without_figure
from tests.trainer.stages.xl_runs import first_batch, randomised, regions_of
from trainer import config as configuration
from trainer.config import ConfigError
from trainer.draws import Draws
from trainer.models import checkpoint
from trainer.models.colorizer import MODES
from trainer.models.denoising import Denoising
from trainer.models.xl_colorizer import XLColorizer, embedded, plugin_from
from trainer.pictures import figure_mask, picture
from trainer.run.loop import train
from trainer.stages import table
from trainer.stages.table import build_stage


@pytest.mark.parametrize("kind", ("xl_plugin", "xl_lora"))
def test_region_stages_train_their_own_weights_alone(xl, backbone, kind):
    values = regions_of(xl, backbone, kind)
    values["run"]["steps"] = 2
    exported = train(configuration.build(values))
    tensors, metadata = checkpoint.read_tensors(exported)
    before, _ = checkpoint.read_tensors(Path(backbone))
    assert all(torch.equal(tensors[key], value) for key, value in before.items())
    fresh = tensors.keys() - before.keys()
    kinds = {"background"} if kind == "xl_plugin" else {"background", "foreground"}
    loras = {key for key in fresh if ".lora_" in key}
    assert {key.rpartition("_")[2].removesuffix(".weight") for key in loras} == kinds
    assert all(key.startswith("bg_encoder.") for key in fresh - loras) and bool(fresh - loras) == (kind == "xl_plugin")
    assert metadata["colorize.family"] == ("xl-plugin" if kind == "xl_plugin" else "xl")
    again = regions_of(xl, str(exported), kind)
    stage = build_stage(configuration.build(again), torch.device("cpu"))
    assert stage.export(stage.state_dict())[0].keys() == tensors.keys()
    if kind == "xl_plugin":
        assert plugin_from(tensors, stage.colorizer.unet) is not None


def test_the_plugin_gets_gradients_and_the_backbone_none(xl, backbone):
    config = configuration.build(regions_of(xl, backbone, "xl_plugin"))
    stage = build_stage(config, torch.device("cpu"))
    for name, parameter in stage.named_parameters():
        if ".lora_" in name:
            parameter.data.normal_(std=0.1)
    stage(first_batch(config), Draws(0, 0, range(2)), 0.0)["denoising"].backward()
    frozen = [n for n, p in stage.named_parameters() if n.startswith("model.") and ".lora_" not in n]
    assert not any(stage.get_parameter(name).requires_grad for name in frozen)
    reached = {name for name, p in stage.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert any(name.startswith("bg_encoder.input_blocks.0") for name in reached)
    assert any(".lora_up_bg" in name for name in reached)


def test_region_weights_are_not_trained_by_the_backbone_stage(xl, backbone):
    config = configuration.build(regions_of(xl, backbone, "xl_plugin"))
    stage = build_stage(config, torch.device("cpu"))
    path = Path(backbone).with_name("plugin.safetensors")
    checkpoint.write_tensors(path, *stage.export(stage.state_dict()))
    with pytest.raises(ConfigError, match="has region weights or a plugin"):
        build_stage(configuration.build({**xl, "model": {**xl["model"], "init": str(path)}}), torch.device("cpu"))
    with pytest.raises(ConfigError, match="for the background only"):
        build_stage(configuration.build(regions_of(xl, str(path), "xl_lora")), torch.device("cpu"))


def test_region_stages_need_a_trained_model(xl):
    with pytest.raises(ConfigError, match="model.init is empty: stage xl_plugin"):
        table.checked(configuration.build(regions_of(xl, "", "xl_plugin")))


def test_the_plugin_reads_the_samples_own_picture(xl, backbone):
    values = regions_of(xl, backbone, "xl_plugin")
    values["data"] = values["data"] | {"reference": "group"}
    with pytest.raises(ConfigError, match="data.reference is 'group'.*set data.reference = \"self\""):
        table.checked(configuration.build(values))


def test_a_sheet_shows_both_ways(xl, backbone):
    config = configuration.build(regions_of(xl, backbone, "xl_plugin"))
    sheet = build_stage(config, torch.device("cpu")).sheet(first_batch(config), Draws.plain(0))
    assert sheet.shape == (2 * 64, 5 * 64, 3)


@pytest.mark.parametrize(("kind", "run"), [("xl_plugin", {"vanilla", "masked"}), ("xl_lora", set(MODES))])
def test_an_xl_file_colours_in_the_modes_it_has_and_refuses_the_others(xl, backbone, kind, run, tmp_path):
    """What a stage trained shows in its modes: no mode gives another one's picture."""
    stage = randomised(build_stage(configuration.build(regions_of(xl, backbone, kind)), torch.device("cpu")))
    path = tmp_path / "model.safetensors"
    checkpoint.write_tensors(path, *stage.export(stage.state_dict()))
    model, generator = xl["model"], torch.Generator().manual_seed(2)
    colorizer = XLColorizer.from_files(str(path), model["encoder"], model["tagger"], torch.device("cpu"))
    sketch, reference = -torch.ones(1, 3, 64, 64), torch.rand(1, 3, 64, 64, generator=generator) * 2 - 1
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 16:48, 16:48] = 1
    tokens, made = colorizer.tokens(reference), {}
    for mode in MODES:
        if mode not in run:
            with pytest.raises(ConfigError, match=f"{mode} needs the region weights.*with background plugin"):
                colorizer.regions(mode, reference, mask, mask)
            continue
        regions = colorizer.regions(mode, reference, mask, mask)
        noise = torch.Generator().manual_seed(0)
        made[mode] = colorizer.generate(sketch, tokens, Denoising(1, 2.0), noise, regions)
        if regions is not None:
            assert (regions.banks is not None) == (kind == "xl_plugin")
            assert (
                regions.options.kinds
                == {
                    "masked": ("bg", "bg") if kind == "xl_plugin" else (None, None),
                    "bg2fig": ("fg", None),
                    "fig2fig": ("fg", "bg"),
                }[mode]
            )
    for one, other in itertools.combinations(made, 2):
        assert not torch.allclose(made[one], made[other], atol=1e-4), (one, other)
    assert len(colorizer.notes(MODES)) == (2 if kind == "xl_plugin" else 0)


def test_the_plugin_of_evaluate_reads_what_its_stage_read(xl, backbone):
    """The banks of the command are those of the stage's sheet for a reference of the drawing's size."""
    stage = randomised(build_stage(configuration.build(regions_of(xl, backbone, "xl_plugin")), torch.device("cpu")))
    stage.colorizer.plugin = stage.bg_encoder.eval()
    batch = first_batch(stage.config)
    references = picture(batch["reference"])
    masks, reference_masks = (figure_mask(batch[name]) for name in ("mask", "reference_mask"))
    cut = without_figure(references, reference_masks, 0.5)
    given = plugin_input(stage.encoded(cut), masks, reference_masks)
    whole = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(len(cut), 4)
    wanted = stage.bg_encoder(given, embedded(whole, stage.bg_encoder))
    found = stage.colorizer.banks(references, masks, reference_masks)
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
