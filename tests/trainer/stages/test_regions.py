"""Stage v1_5: what it trains, what it leaves alone, what it exports; and the modes of the exported model."""

import json
from pathlib import Path

import pytest
import torch

from colorize import families
from colorize.pictures.masks import without_figure
from trainer import config as configuration
from trainer.__main__ import main
from trainer.config import ConfigError
from trainer.draws import Draws
from trainer.losses.bleach import whiten_background
from trainer.models import checkpoint
from trainer.models.colorizer import MODES, V1Colorizer, latent_masks
from trainer.models.denoising import Denoising
from trainer.run import loop
from trainer.stages.table import build_stage
from trainer.stages.v1_5 import new_background_encoder, region_ranks


@pytest.fixture
def region_values(values, v1_file, frozen) -> dict[str, dict]:
    """Configuration of a tiny v1_5 run."""
    model = {"init": v1_file, "encoder": frozen["encoder"], "recovery_layers": 2, "region_rank_background": 0.25}
    loss = {"reference_drop": 0.8, "reference_drop_end": 0.5, "background_bleach": 0.3, "min_snr_gamma": 5.0}
    optimizer = {"lr": 1e-2, "batch": 2, "ema": 0.9}
    return values | {"run": {**values["run"], "stage": "v1_5"}, "model": model, "loss": loss, "optimizer": optimizer}


def train(values: dict, **changes) -> Path:
    return loop.train(
        configuration.build({section: {**content, **changes.get(section, {})} for section, content in values.items()})
    )


def test_only_region_parts_are_trained_and_the_rest_is_exported_as_it_was(region_values, v1_file):
    file = train(region_values, loss={"reference_drop": 0.0, "reference_drop_end": -1.0})
    before, (after, metadata) = checkpoint.read_tensors(Path(v1_file))[0], checkpoint.read_tensors(file)
    assert all(torch.equal(after[key], value) for key, value in before.items())
    added = sorted(after.keys() - before.keys())
    assert {key.split(".")[0] for key in added} == {"model", "transformer", "thresh_embedder"}
    assert all(".attn2.to_" in key and ".lora_" in key for key in added if key.startswith("model."))
    ups = [key for key in added if ".lora_up_" in key]
    assert len(ups) == 16 * 3 * 2
    # The one query of the middle block is the figure's or the background's; all others have moved from zero.
    assert all(after[key].any() for key in ups if "middle_block" not in key)
    assert after["thresh_embedder.embed_layer.2.weight"].any()
    assert metadata["colorize.family"] == "v1.5"
    assert families.detect(after, metadata).name == "v1.5"
    embedded = json.loads(metadata["colorize.config"])
    assert embedded["model"]["init"] == "v1.safetensors"
    saved = checkpoint.load(checkpoint.folders(file.parent)[-1])[1]
    assert all(".lora_" in k or k.startswith(("transformer.", "thresh_", "ema_updates")) for k in saved["ema"])


def test_six_steps_equal_three_and_three(region_values, tmp_path):
    """Bit for bit, with a constant drop rate (a schedule knows the length of the run)."""
    region_values["loss"]["reference_drop_end"] = -1.0
    whole = train(region_values, run={"output": str(tmp_path / "straight")})
    train(region_values, run={"output": str(tmp_path / "broken"), "steps": 3})
    parts = train(region_values, run={"output": str(tmp_path / "broken")})
    ours, theirs = (checkpoint.read_tensors(file)[0] for file in (whole, parts))
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_cached_and_uncached_runs_agree(region_values, tmp_path):
    results = []
    for cache in (False, True):
        run = {"output": str(tmp_path / str(cache)), "steps": 4}
        results.append(checkpoint.read_tensors(train(region_values, run=run, data={"cache": cache}))[0])
    assert all(torch.allclose(results[0][key], results[1][key], atol=1e-6) for key in results[0])


def test_crops_and_gradient_checkpointing_change_only_what_they_should(region_values, tmp_path):
    plain = train(region_values, run={"output": str(tmp_path / "a"), "steps": 2})
    lean = train(region_values, run={"output": str(tmp_path / "b"), "steps": 2}, data={"crop": 64},
                 system={"gradient_checkpointing": True})  # fmt: skip
    ours, theirs = (checkpoint.read_tensors(file)[0] for file in (plain, lean))
    assert all(torch.isfinite(value).all() for value in theirs.values() if value.is_floating_point())
    assert ours.keys() == theirs.keys()


def test_before_training_the_figure_is_masked_vanilla(region_values):
    """All region terms start at zero: bg2fig is plain attention, and only R tells fig2fig from masked vanilla."""
    stage = build_stage(configuration.build(region_values), torch.device("cpu"))
    colorizer = stage._colorizer[0]
    sketch, reference = -torch.ones(1, 3, 64, 64), torch.rand(1, 3, 64, 64) * 2 - 1
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 16:48, 16:48] = 1
    tokens = colorizer.tokens(reference)

    def picture(mode: str) -> torch.Tensor:
        regions = colorizer.regions(mode, reference, mask, mask)
        return colorizer.generate(sketch, tokens, Denoising(2, 2.0), torch.Generator().manual_seed(0), regions)

    assert torch.allclose(picture("bg2fig"), picture("vanilla"), atol=1e-5)
    assert not torch.allclose(picture("masked"), picture("vanilla"), atol=1e-5)
    colorizer.background_encoder.background = lambda values, threshold: values  # without R
    assert torch.allclose(picture("fig2fig"), picture("masked"), atol=1e-5)


def test_a_new_recovery_transformer_passes_on_its_tokens():
    """Every new token is near one of the old ones, so the frozen U-Net sees what it knows."""
    torch.manual_seed(0)
    encoder, tokens = new_background_encoder(64, 32, 3), torch.randn(2, 16, 64)
    with torch.no_grad():
        recovered = encoder.background(tokens, 0.3)
    nearest = torch.cdist(recovered, tokens).min(-1).values
    between = torch.cdist(tokens, tokens)[:, ~torch.eye(16, dtype=torch.bool)].min()
    assert recovered.shape == (2, 32, 64) and nearest.median() < between / 2


def test_exported_model_colours_in_every_mode_and_converts(region_values, tmp_path, frozen):
    file = train(region_values, run={"steps": 2})
    small = tmp_path / "small.safetensors"
    assert main(["convert", str(file.parent), "--output", str(small)]) == 0
    colorizer = V1Colorizer.from_files(str(small), frozen["encoder"], torch.device("cpu"))
    assert colorizer.unet.config.region_ranks == (4, 0.25)
    sketch, reference, mask = -torch.ones(1, 3, 64, 64), torch.zeros(1, 3, 64, 64), torch.ones(1, 1, 64, 64)
    for mode in MODES:
        regions = colorizer.regions(mode, reference, mask, mask)
        generator = torch.Generator().manual_seed(0)
        picture = colorizer.generate(sketch, colorizer.tokens(reference), Denoising(2, 2.0), generator, regions)
        assert picture.shape == (1, 3, 64, 64) and torch.isfinite(picture).all()
    with pytest.raises(ConfigError, match="choose one of"):
        colorizer.regions("fig2bg", reference, mask, mask)
    with pytest.raises(ConfigError, match="--mask"):
        colorizer.regions("fig2fig", reference)
    with pytest.raises(ConfigError, match="--reference-mask"):
        colorizer.regions("fig2fig", reference, mask)
    colorizer.background_encoder = None
    with pytest.raises(ConfigError, match="no recovery transformer.*It runs: vanilla, masked, bg2fig"):
        colorizer.regions("fig2fig", reference, mask, mask)


def test_commands_take_a_mode_and_masks(v1_file, frozen, pictures, tmp_path, capsys):
    """A v1 model in mode masked; without the masks, or in a mode of v1.5, the message says what to do."""
    model = ["--checkpoint", v1_file, "--encoder", frozen["encoder"], "--steps", "2"]
    measure = ["evaluate", *model, "--data", str(pictures), "--count", "2", "--mode", "masked"]
    assert main([*measure, "--output", str(tmp_path / "report")]) == 0
    assert "shown by reference" in capsys.readouterr().out
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    (measured,) = report["protocols"][0]["runs"]
    assert measured["mode"] == "masked" and {"all_regions", "shown_regions", "shown_background"} <= measured.keys()

    files = [f"{pictures}/{kind}/00_0.png" for kind in ("sketch", "reference", "mask", "reference_mask")]
    colour = ["sample", *model, "--sketch", files[0], "--reference", files[1], "--size", "64"]
    colour += ["--output", str(tmp_path / "sample.png")]
    masks = ["--mask", files[2], "--reference-mask", files[3]]
    assert main([*colour, "--mode", "masked", *masks]) == 0 and (tmp_path / "sample.png").is_file()
    assert main([*colour, "--mode", "masked"]) == 2
    assert "Give the figure mask of the sketch" in capsys.readouterr().err
    assert main([*colour, "--mode", "fig2fig", *masks]) == 2
    assert "needs the region weights of a ColorizeDiffusion v1.5 checkpoint" in capsys.readouterr().err


def test_region_weights_of_another_model_go_on_learning_on_top_of_this_one(region_values, v1_file, tmp_path):
    """model.init_from gives what is trained, model.init stays the model it is trained on."""
    drop = {"reference_drop": 0.0, "reference_drop_end": -1.0}
    first = train(region_values, run={"output": str(tmp_path / "first")}, loss=drop)
    other, metadata = checkpoint.read_tensors(Path(v1_file))
    moved = {name: value * 1.01 if name.startswith("model.") else value for name, value in other.items()}
    checkpoint.write_tensors(tmp_path / "other.safetensors", moved, metadata)
    model = {"init": str(tmp_path / "other.safetensors"), "init_from": str(first)}
    second = train(region_values, run={"output": str(tmp_path / "second"), "steps": 1}, model=model,
                   optimizer={"lr": 1e-12, "ema": 0.0, "warmup": 0})  # fmt: skip
    taught, after = (checkpoint.read_tensors(file)[0] for file in (first, second))
    learned = [n for n in taught if ".lora_" in n or n.startswith(("transformer.", "thresh_embedder."))]
    assert learned and all(torch.allclose(after[name], taught[name], atol=1e-6) for name in learned)
    backbone = [n for n in moved if n.startswith("model.diffusion_model.")]
    assert all(torch.equal(after[name], moved[name]) for name in backbone)


def test_soft_masks_train_and_are_not_cached(region_values, tmp_path):
    """With a soft mask the reference's background depends on the threshold of the step."""
    stage = build_stage(configuration.build(region_values | {"data": {**region_values["data"], "cache": True}}),
                        torch.device("cpu"))  # fmt: skip
    mask = torch.full((2, 1, 64, 64), 128, dtype=torch.uint8)
    mask[..., :32] = 0
    batch = {
        "color": torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8),
        "sketch": torch.full((2, 1, 64, 64), 255, dtype=torch.uint8),
        "reference": torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8),
        "mask": mask,
        "reference_mask": mask,
        "index": torch.tensor([0, 1]),
        "reference_index": torch.tensor([0, 1]),
    }
    none = torch.zeros(2, dtype=torch.bool)
    low, high = (stage.tokens(batch, torch.full((2,), threshold), none)[1] for threshold in (0.2, 0.8))
    assert not torch.equal(low, high)
    terms = stage(batch, Draws.plain(0), 0.5)
    assert torch.isfinite(terms["denoising"])


def test_reference_masks_are_grown_to_cells(region_values):
    """With cells as large as the picture, any figure hides the whole background: its tokens are those of white."""
    region_values["data"]["reference_mask_cell"] = [64, 64]
    stage = build_stage(configuration.build(region_values), torch.device("cpu"))
    mask = torch.zeros(1, 1, 64, 64, dtype=torch.uint8)
    mask[..., 20:22, 30:32] = 255
    batch = {"reference": torch.zeros(1, 3, 64, 64, dtype=torch.uint8), "reference_mask": mask}
    batch |= {"index": torch.tensor([0]), "reference_index": torch.tensor([0])}
    _, background = stage.tokens(batch, torch.tensor([0.5]), torch.zeros(1, dtype=torch.bool))
    assert torch.equal(background, stage._colorizer[0].tokens(torch.ones(1, 3, 64, 64)))


def test_masked_pictures_keep_the_right_side():
    picture, mask = torch.zeros(2, 3, 8, 8), torch.zeros(2, 1, 8, 8)
    mask[..., :4] = 0.5
    cut = without_figure(picture, mask, torch.tensor([0.4, 0.6]))
    assert (cut[0, :, :, :4] == 1).all() and (cut[0, :, :, 4:] == 0).all() and (cut[1] == 0).all()
    white = whiten_background(picture, mask > 0.4, torch.tensor([True, False]), 1.0)
    assert (white[0, :, :, :4] == 0).all() and (white[0, :, :, 4:] == 1).all() and (white[1] == 0).all()
    assert latent_masks(torch.ones(1, 1, 64, 128)).shape == (1, 1, 8, 16)


def test_ranks_are_numbers_or_fractions(region_values):
    model = configuration.build(region_values).model
    assert region_ranks(model) == (4, 0.25) and isinstance(region_ranks(model)[0], int)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"init": ""}}, "trained v1 checkpoint"),
        ({"model": {"region_rank_figure": 4.5}}, "whole number"),
        ({"model": {"prediction_type": "eps"}}, "set model.prediction_type = 'v'"),
        ({"data": {"reference_mask_cell": [60]}}, "a height and a width"),
        ({"loss": {"dual_condition": 4.0}}, "belongs to stage v1, not to v1_5"),
        ({"loss": {"background_bleach": 2.0}}, "between 0 and 1"),
        ({"loss": {"reference_drop_end": 2.0}}, "negative to keep"),
    ],
)
def test_mistakes_name_the_way_out(region_values, changes, message):
    with pytest.raises(ConfigError, match=message):
        train(region_values, **changes)


def test_a_v1_5_model_goes_on_training_as_v1_5_only(region_values, tmp_path):
    """Its own weights are the start, and stage v1, which would leave half of them out, refuses it."""
    stage = build_stage(configuration.build(region_values), torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    weights = {key: torch.randn(value.shape, generator=generator) for key, value in stage.state_dict().items()}
    tensors, metadata = stage.export(weights)
    checkpoint.write_tensors(tmp_path / "regions.safetensors", tensors, metadata)
    region_values["model"] |= {"init": str(tmp_path / "regions.safetensors"), "region_rank_figure": 2}
    again = build_stage(configuration.build(region_values), torch.device("cpu")).state_dict()
    assert all(torch.equal(again[key], value) for key, value in weights.items() if key in tensors and ".lora_" in key)
    assert torch.equal(again["transformer.embedding"], weights["transformer.embedding"])
    region_values["run"]["stage"] = "v1"
    region_values["loss"]["background_bleach"] = 0.0
    with pytest.raises(ConfigError, match="is a v1.5 model"):
        build_stage(configuration.build(region_values), torch.device("cpu"))


def test_region_weights_can_be_trained_without_recovery(region_values, v1_file, frozen, tmp_path):
    """v1.5 paper, 4.2: split cross-attention and LoRAs, no recovery transformer. fig2fig runs such a file."""
    region_values["model"]["recovery_layers"] = 0
    region_values["run"]["steps"] = 2
    file = train(region_values)
    tensors, metadata = checkpoint.read_tensors(file)
    assert not any(name.startswith(("transformer.", "thresh_embedder.")) for name in tensors)
    family = families.detect(tensors, metadata)
    assert family.name == "v1.5" and family.has_regions and not family.recovers_background
    colorizer = V1Colorizer.from_files(str(file), frozen["encoder"], torch.device("cpu"))
    reference, mask = torch.rand(1, 3, 64, 64) * 2 - 1, torch.zeros(1, 1, 64, 64)
    mask[..., :32] = 1
    regions = colorizer.regions("fig2fig", reference, mask, mask)
    assert regions.options.kinds == ("fg", "bg")
    assert torch.equal(regions.background, colorizer.tokens(without_figure(reference, mask, 0.5)))
    region_values["model"] |= {"init": str(file), "recovery_layers": 2}
    with pytest.raises(ConfigError, match="was trained without a recovery transformer: set model.recovery_layers = 0"):
        build_stage(configuration.build(region_values), torch.device("cpu"))
    bare = {name: value for name, value in tensors.items() if name != "no_recovery"}
    checkpoint.write_tensors(tmp_path / "bare.safetensors", bare, metadata)
    colorizer = V1Colorizer.from_files(str(tmp_path / "bare.safetensors"), frozen["encoder"], torch.device("cpu"))
    with pytest.raises(ConfigError, match="no recovery transformer"):
        colorizer.regions("fig2fig", reference, mask, mask)


def test_dry_run_tells_trained_and_frozen(region_values, write_toml, capsys):
    assert main(["train", "--config", write_toml(region_values), "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert "trained   region LoRAs: " in text and "trained   recovery transformer: " in text
    assert "frozen    U-Net: " in text
