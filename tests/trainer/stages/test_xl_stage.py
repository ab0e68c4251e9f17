"""Stage xl on tiny networks: whole runs, every strategy, and that the Gram branch does what it says."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from colorize.background.reference_net import plugin_input
from colorize.pictures.masks import without_figure
from colorize.reference.vision import ReferenceEncoder
from colorize.reference.wd_tagger import WDTagger
from tests.training_log import logged, losses
from trainer import config as configuration
from trainer.cache.recipes import recipes
from trainer.commands.cache import build_cache
from trainer.commands.dry_run import report
from trainer.config import ConfigError
from trainer.draws import Draws
from trainer.losses import gram as gram_module
from trainer.models import checkpoint
from trainer.models.colorizer import MODES
from trainer.models.denoising import Denoising
from trainer.models.frozen import OnDemand
from trainer.models.xl_colorizer import XLColorizer, embedded, plugin_from
from trainer.pictures import figure_mask, picture
from trainer.run.datasets import build_dataset
from trainer.run.loop import train
from trainer.stages import table
from trainer.stages.table import build_stage, needs_of
from trainer.stages.xl import drop_levels

TAGGER = dict(classes=6, embed_dim=8, depths=(1, 1), heads=(1, 2), image_size=32, window=4)


@pytest.fixture(scope="session")
def tagger(tmp_path_factory) -> str:
    """File of a random tagger of 16 tokens of width 16."""
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("tagger") / "tagger.safetensors"
    metadata = {"colorize.image_size": "32", "colorize.window_size": "4"}
    save_file(WDTagger(**TAGGER).model.state_dict(), path, metadata=metadata)
    return str(path)


def encoder_file(folder: Path, width: int) -> str:
    """A random reference encoder of 17 tokens: as many as the tagger has, and the class token."""
    torch.manual_seed(2)
    path = folder / f"encoder{width}.safetensors"
    save_file(ReferenceEncoder(32, 8, 32, 1, 16, width).state_dict(), path, metadata={"colorize.head_width": "16"})
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


def randomised(stage: torch.nn.Module) -> torch.nn.Module:
    """The stage with weights that do something where they start at zero."""
    torch.manual_seed(0)
    for parameter in stage.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.05)
    return stage


def first_batch(config) -> dict[str, torch.Tensor]:
    dataset = build_dataset(config)
    return torch.utils.data.default_collate([dataset[position] for position in range(config.optimizer.batch)])


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


def test_the_misaligned_branch_never_sees_the_samples_own_reference(xl, monkeypatch):
    """Also with a batch of one, for which the released trainer would compare a sample with itself."""
    config = configuration.build({**xl, "optimizer": {**xl["optimizer"], "batch": 1}})
    stage, batch, seen = build_stage(config, torch.device("cpu")), first_batch(config), []

    def spy(unet, noisy, t, hints, y, context, other, blocks):
        seen.append((context, other))
        return gram_module.two_branches(unet, noisy, t, hints, y, context, other, blocks)

    monkeypatch.setattr("trainer.stages.xl.two_branches", spy)
    terms = stage(batch, Draws(0, 0, range(1)), 0.5)
    assert set(terms) == {"denoising", "gram"}
    context, other = seen[0]
    assert (context - other).abs().max() > 1e-3


@pytest.mark.parametrize("variant", sorted(gram_module.VARIANTS))
def test_every_variant_gives_a_finite_gradient(variant):
    torch.manual_seed(0)
    misaligned, aligned = torch.randn(2, 24, 6, requires_grad=True), torch.randn(2, 24, 6)
    gram_module.gram_loss([misaligned], [aligned], variant, standardise=True).backward()
    largest = 24 * 10 if variant == "frobenius" else 10  # that one sums where the others average
    assert torch.isfinite(misaligned.grad).all() and 0 < misaligned.grad.abs().max() < largest


def prepared(xl, depth=None):
    """A stage with random weights and its U-Net's inputs. depth: transformer blocks per level, else the fixture's."""
    model = xl["model"] | ({"transformer_depth": depth} if depth else {})
    config = configuration.build({**xl, "model": model, "gram": {"weight": 1.0, "start": 0.0}})
    stage = randomised(build_stage(config, torch.device("cpu")))
    unet = stage.model["diffusion_model"]
    y, t = torch.randn(2, unet.config.y_width), torch.tensor([200, 800])
    noisy, hints = torch.randn(2, 4, 8, 8), stage.control_encoder(torch.rand(2, 3, 64, 64))
    context, other = torch.randn(2, 2, 16, 48).unbind(0)
    return stage, (unet, noisy, t, hints, y), context, other


@pytest.mark.parametrize("which", ["last", "levels"])
@pytest.mark.parametrize("depth", [[0, 1, 2], [0, 0, 2], [1, 1, 1]])
def test_two_branches_are_two_passes(xl, depth, which):
    """The shared beginning, the common batch and the early end change no number (but for rounding).

    With attention on the lowest level only, a shared input block is read before the last hooked block.
    """
    stage, (unet, noisy, t, hints, y), context, other = prepared(xl, depth)
    blocks = gram_module.hooked_blocks(unet, which)
    answer, aligned, misaligned = gram_module.two_branches(unet, noisy, t, hints, y, context, other, blocks)
    layers = [block for layer in unet.modules() if hasattr(layer, "transformer_blocks")
              for block in layer.transformer_blocks]  # fmt: skip
    seen = {}
    for number in blocks:
        layers[number].register_forward_hook(lambda m, i, o, n=number: seen.__setitem__(n, o[0]))
    torch.testing.assert_close(answer, unet(noisy, t, context, hints, y=y), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(aligned, [seen[number] for number in blocks], atol=1e-5, rtol=1e-4)
    unet(noisy, t, other, hints, y=y)
    torch.testing.assert_close(misaligned, [seen[number] for number in blocks], atol=1e-5, rtol=1e-4)


def test_only_the_misaligned_branch_gets_gradients(xl):
    stage, inputs, context, other = prepared(xl)
    context, other = context.requires_grad_(), other.requires_grad_()
    blocks = gram_module.hooked_blocks(inputs[0])
    _, aligned, misaligned = gram_module.two_branches(*inputs, context, other, blocks)
    gram_module.gram_loss(misaligned, aligned).backward()
    assert context.grad.abs().max() == 0 and other.grad.abs().max() > 0


def test_hooked_blocks_are_the_last_of_the_lowest_resolution(xl):
    from colorize.unet.config import XL
    from colorize.unet.unet import UNet

    unet = UNet(XL, device="meta")
    assert gram_module.hooked_blocks(unet) == (23, 63)
    assert gram_module.hooked_blocks(unet, "released") == (22, 62)
    assert gram_module.hooked_blocks(unet, "levels") == (3, 23, 63, 69)
    with pytest.raises(ValueError, match="blocks 'first' are unknown"):
        gram_module.hooked_blocks(unet, "first")


def test_the_papers_gram_loss_number_by_number():
    """Eq 1: the squared Frobenius norm of the difference of x x^T, summed over blocks, averaged over samples."""
    generator = torch.Generator().manual_seed(0)
    ours, theirs = ([torch.randn(2, n, 3, generator=generator) for n in (4, 5)] for _ in range(2))
    total = 0.0
    for x, y in zip(ours, theirs, strict=True):
        for a, b in zip(x.tolist(), y.tolist(), strict=True):
            for i in range(len(a)):
                for j in range(len(a)):
                    found = sum(p * q for p, q in zip(a[i], a[j]))
                    wanted = sum(p * q for p, q in zip(b[i], b[j]))
                    total += (found - wanted) ** 2 / 2
    assert gram_module.gram_loss(ours, theirs, "frobenius").item() == pytest.approx(total, rel=1e-4)


def test_gram_loss_is_zero_for_equal_structure_and_refuses_unknown_variants():
    features = torch.randn(2, 12, 8)
    rotation = torch.linalg.qr(torch.randn(8, 8)).Q
    assert gram_module.gram_loss([features @ rotation], [features]) < 1e-10
    with pytest.raises(ValueError, match="variant 'l1' is unknown"):
        gram_module.gram_loss([features], [features], "l1")


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


def test_without_gram_nothing_of_it_is_computed(xl, monkeypatch):
    config = configuration.build({**xl, "gram": {"weight": 0.0}})
    monkeypatch.setattr("trainer.stages.xl.two_branches", None)
    assert set(build_stage(config, torch.device("cpu"))(first_batch(config), Draws(0, 0, range(2)), 1.0)) == {
        "denoising"
    }


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
    with pytest.raises(ConfigError, match="belongs to stages v1, v1_5 and xl, not to xl_lora"):
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


# -- stages xl_plugin and xl_lora --------------------------------------------------------------------------------------


@pytest.fixture
def backbone(xl, tmp_path) -> str:
    """An exported XL model with random weights."""
    stage = randomised(build_stage(configuration.build(xl), torch.device("cpu")))
    path = tmp_path / "backbone.safetensors"
    checkpoint.write_tensors(path, *stage.export(stage.state_dict()))
    return str(path)


def regions_of(xl, backbone, stage, **model) -> dict[str, dict]:
    loss = {"reference_drop": 0.2, "offset_noise": 0.05, "background_bleach": 0.5}
    model = xl["model"] | {"init": backbone, "vae": "", "region_rank_background": 4} | model
    data = xl["data"] | ({"reference": "self"} if stage == "xl_plugin" else {})
    return (
        xl
        | {"data": data}
        | {"run": xl["run"] | {"stage": stage}, "model": model, "loss": loss, "gram": {"weight": 0.0}}
    )


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
