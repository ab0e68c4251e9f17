"""Stage xl on tiny networks: whole runs, caches, and what a configuration may say."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.trainer.stages.xl_runs import encoder_file, first_batch, randomised, regions_of
from tests.training_log import logged, losses
from trainer import config as configuration
from trainer.cache.recipes import recipes
from trainer.commands.cache import build_cache
from trainer.commands.dry_run import report
from trainer.config import ConfigError
from trainer.draws import Draws
from trainer.models import checkpoint
from trainer.models.denoising import Denoising
from trainer.models.frozen import OnDemand
from trainer.models.xl_colorizer import XLColorizer
from trainer.run.datasets import build_dataset
from trainer.run.loop import train
from trainer.stages import table
from trainer.stages.table import build_stage, needs_of
from trainer.stages.xl import drop_levels


def test_a_run_trains_exports_and_loads_again(xl, tmp_path):
    narrow_encoder = encoder_file(tmp_path, 16)
    exported = train(configuration.build(xl))
    lines = logged(exported.parent)
    assert "gram" not in lines[0] and lines[-1]["gram"] > 0  # it begins after a third of the steps
    tensors, metadata = checkpoint.read_tensors(exported)
    assert metadata["colorize.family"] == "xl" and metadata["colorize.prediction_type"] == "v"
    assert int(tensors["colorize.num_head_channels"]) == 16 and "v_pred" in tensors
    prefixes = ("model.diffusion_model.", "control_encoder.", "proj.", "first_stage_model.")
    assert all(any(key.startswith(prefix) for key in tensors) for prefix in prefixes)
    model = xl["model"]
    colorizer = XLColorizer.from_files(str(exported), model["encoder"], model["tagger"], torch.device("cpu"))
    references, sketches = torch.rand(2, 3, 64, 64) * 2 - 1, -torch.ones(2, 3, 64, 64)
    tokens = colorizer.tokens(references)
    assert tokens.shape == (2, 16, 48)
    result = colorizer.generate(sketches, tokens, Denoising(2, 3.0), torch.Generator().manual_seed(0))
    assert result.shape == (2, 3, 64, 64) and torch.isfinite(result).all()
    with pytest.raises(ConfigError, match="fig2fig needs the region weights.*It runs: vanilla"):
        colorizer.regions("fig2fig", references)

    again = configuration.build(
        {**xl, "model": {**model, "init": str(exported), "vae": ""}}
    )  # goes on from its own file
    stage = build_stage(again, torch.device("cpu"))
    for name, value in stage.state_dict().items():
        torch.testing.assert_close(value, tensors[name], atol=0, rtol=0)
    assert stage.export(stage.state_dict())[0].keys() == tensors.keys()
    other = configuration.build({**xl, "model": {**model, "init": str(exported), "prediction_type": "eps"}})
    with pytest.raises(ConfigError, match="predicts v"):
        build_stage(other, torch.device("cpu"))
    narrow = configuration.build({**xl, "model": {**model, "init": str(exported), "encoder": narrow_encoder}})
    with pytest.raises(ConfigError, match="gives tokens of width 16, but the token projection .* reads 32"):
        build_stage(narrow, torch.device("cpu"))


def test_batches_carry_what_the_strategies_need(xl):
    config = configuration.build(xl)
    assert set(needs_of(config)) >= {"other_reference", "other_reference_mask", "score", "size"}
    batch = first_batch(config)
    assert batch["other_reference"].shape == batch["reference"].shape
    assert batch["other_reference_mask"].shape == (2, 1, 64, 64)
    plain = configuration.build({**xl, "gram": {"weight": 0.0}, "loss": {"reference_drop": 0.3}})
    assert "other_reference" not in needs_of(plain) and "mask" not in needs_of(plain)


def test_the_other_reference_is_of_another_group(xl):
    dataset = build_dataset(configuration.build(xl))
    for position in range(40):
        sample = dataset[position]
        assert dataset.items[sample["index"]].group != dataset.items[sample["other_index"]].group


def test_levels_are_dropped_one_by_one():
    hints = [torch.ones(2, 3, 4, 4), torch.ones(2, 5, 2, 2)]
    kept = drop_levels(hints, torch.tensor([[True, False], [False, True]]))
    assert [hint.amax(dim=(1, 2, 3)).tolist() for hint in kept] == [[1, 0], [0, 1]]


def test_a_dry_run_counts_without_building(xl, backbone):
    lines = report(configuration.build(xl))
    stage = build_stage(configuration.build(xl), torch.device("cpu"))
    for name, network in (("U-Net", stage.model), ("sketch encoder", stage.control_encoder), ("proj", stage.proj)):
        name = "token projection" if name == "proj" else name
        assert f"trained   {name}: {sum(p.numel() for p in network.parameters()) / 1e6:.2f} M" in lines
    lines = report(configuration.build(regions_of(xl, backbone, "xl_plugin")))
    assert "frozen    U-Net" in lines and "trained   background plugin" in lines and "trained   region LoRAs" in lines


def test_a_validation_measures_entanglement(xl):
    """The meter's numbers where they are asked for; the frozen networks leave the memory they were borrowed for."""
    values = {**xl, "gram": {}, "report": xl["report"] | {"validate_entanglement": True, "sample_steps": 1}}
    config = configuration.build(values)
    stage = randomised(build_stage(config, torch.device("cpu")))
    found = stage.curves(first_batch(config), Draws.plain(1))
    assert found.keys() == {"entanglement", "structure", "leakage"} and 0 < found["structure"] <= 1
    assert build_stage(configuration.build(xl), torch.device("cpu")).curves({}, Draws.plain(0)) == {}


def test_encodings_in_memory_change_no_loss(xl):
    losses = []
    for cache in (False, True):
        config = configuration.build(
            {**xl, "data": {**xl["data"], "cache": cache}, "gram": {"weight": 1.0, "start": 0.0}}
        )
        torch.manual_seed(0)
        stage, batch = build_stage(config, torch.device("cpu")), first_batch(config)
        losses.append([sum(stage(batch, Draws(0, step, range(2)), 1.0).values()) for step in range(2)])
    torch.testing.assert_close(losses[0], losses[1])


@pytest.mark.parametrize("inpaint", (0.0, 0.5))
def test_a_cached_run_has_the_same_losses_to_the_bit(xl, inpaint, tmp_path, monkeypatch):
    """Without references that are cut in every step no encoder is in memory, and no picture is decoded."""
    xl["loss"]["reference_inpaint"], xl["gram"]["start"] = inpaint, 0.0
    cached = xl | {"data": xl["data"] | {"cache_folder": str(tmp_path / "cache")}}
    plain = losses(xl, tmp_path / "plain")
    summary = build_cache(configuration.build(cached), torch.device("cpu"), progress=False)
    assert summary.written == {"latents": 8, "clip_tokens": 8, "tagger_tokens": 8}
    batch = first_batch(configuration.build(cached))
    assert not batch["color"].any() and not batch["other_reference"].any()
    assert bool(batch["reference"].any()) == bool(inpaint)
    monkeypatch.setattr("trainer.stages.xl.XLStage.export", lambda self, weights: (dict(weights), {}))
    if not inpaint:
        monkeypatch.setattr(OnDemand, "network", property(lambda self: pytest.fail("an encoder was loaded")))
    assert losses(cached, tmp_path / "cached") == plain


def test_another_tagger_is_another_cache(xl, tmp_path):
    cached = configuration.build(xl | {"data": xl["data"] | {"cache_folder": str(tmp_path)}})
    tensors, name = load_file(cached.model.tagger), "patch_embed.proj.weight"
    metadata = {"colorize.image_size": "32", "colorize.window_size": "4"}
    save_file(tensors | {name: tensors[name] * 2}, tmp_path / "other.safetensors", metadata=metadata)
    other = configuration.build(xl | {"model": xl["model"] | {"tagger": str(tmp_path / "other.safetensors")}})

    def made(config):
        return recipes(config, table.row(config).encodings(config))

    changed = [kind for kind, recipe in made(cached).items() if made(other)[kind] != recipe]
    assert changed == ["tagger_tokens"]


def test_region_stages_refuse_the_cache_folder(xl, tmp_path):
    values = xl | {"run": xl["run"] | {"stage": "xl_lora"}, "data": xl["data"] | {"cache_folder": str(tmp_path)}}
    with pytest.raises(ConfigError, match="belongs to stages v1, v1_5, .*, not to xl_lora"):
        table.checked(configuration.build(values))


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    (
        ("model", {"tagger": ""}, "model.tagger is empty"),
        ("model", {"transformer_depth": [1, 1]}, "transformer_depth has 2 numbers"),
        ("gram", {"weight": -1.0}, "gram.weight is at least 0"),
        ("gram", {"start": 2.0}, "gram.start is a share"),
        ("gram", {"temperature": 0.0}, "gram.temperature is above 0"),
        ("loss", {"sketch_drop": 2.0}, "sketch_drop is a probability"),
        ("loss", {"dual_condition": 1.0}, "dual_condition belongs to stage v1"),
        ("data", {"crop": 64}, "data.crop belongs to stages v1 and v1_5"),
    ),
)
def test_mistakes_in_the_configuration_are_named(xl, section, changes, message):
    with pytest.raises(ConfigError, match=message):
        table.checked(configuration.build({**xl, section: {**xl[section], **changes}}))


def test_a_batch_of_one_cannot_take_the_next_sample(xl):
    values = {**xl, "optimizer": {**xl["optimizer"], "batch": 1}, "gram": {"weight": 1.0, "other": "batch"}}
    with pytest.raises(ConfigError, match="optimizer.batch is 1"):
        table.checked(configuration.build(values))


def test_other_stages_refuse_what_is_only_for_xl(values):
    with pytest.raises(ConfigError, match="gram.weight belongs to stage xl"):
        table.checked(configuration.build({**values, "gram": {"weight": 1.0}}))
    with pytest.raises(ConfigError, match="sketch_drop belongs to stages xl, xl_plugin and xl_lora"):
        table.checked(configuration.build({**values, "loss": {**values["loss"], "sketch_drop": 0.1}}))


def test_a_file_that_is_no_tagger_is_named(xl, frozen):
    wrong = {**xl, "model": {**xl["model"], "tagger": frozen["vae"]}}
    with pytest.raises(ConfigError, match="no Swin V2 tagger"):
        build_stage(configuration.build(wrong), torch.device("cpu"))
