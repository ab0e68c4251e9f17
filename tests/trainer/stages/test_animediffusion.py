"""Training of AnimeDiffusion: the warp, the stages, whole tiny runs, and the procedural faces."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from colorize.animediffusion.schedule import AnimeSchedule
from colorize.animediffusion.unet import load_network
from trainer import config as configuration
from trainer.__main__ import main
from trainer.commands import demo_faces, evaluate_faces
from trainer.config import ConfigError
from trainer.data import diagonal_warp
from trainer.draws import Draws
from trainer.metrics.edges import edge_f1
from trainer.metrics.similarity import psnr
from trainer.models import checkpoint
from trainer.pictures import picture
from trainer.run.datasets import build_dataset
from trainer.run.loop import learning_rate, train
from trainer.stages import table
from trainer.stages.table import build_stage


@pytest.fixture
def values(pictures, tmp_path) -> dict[str, dict]:
    """A 3-step run of phase 1 of a tiny network."""
    return {
        "run": {"stage": "animediffusion", "output": str(tmp_path / "run"), "steps": 3},
        "model": {"model_channels": 32, "channel_mult": [1, 2], "residual_blocks": 1},
        "data": {"folder": str(pictures), "size": 64, "reference": "self", "deform": 1.0, "cache": True},
        "loss": {"chain_steps": 2},
        "optimizer": {"batch": 2, "lr": 1e-3},
        "system": {"precision": "fp32"},
        "report": {"log_every": 1, "sample_every": 0, "save_every": 100},
    }


def batch_of(config):
    dataset = build_dataset(config)
    return torch.utils.data.default_collate([dataset[i] for i in range(2)])


def stage_of(values, **changes):
    changed = {section: values[section] | changes.pop(section, {}) for section in values}
    config = configuration.build(changed)
    return build_stage(config, torch.device("cpu")), batch_of(config)


# -- warp --------------------------------------------------------------------------------------------------------------


def test_points_are_drawn_in_range_and_never_together():
    source, target = diagonal_warp.draw_points(4000, Draws.plain(0))
    assert torch.equal(source[:, :4], target[:, :4]) and torch.equal(source[..., 0][:, 4:], source[..., 1][:, 4:])
    places, moves = source[:, 4:, 0], (target - source)[:, 4:, 0]
    assert places.min() >= 0.3 - 1e-6 and places.max() <= 0.7 + 1e-6
    assert moves.abs().max() <= 0.25 + 1e-6 and moves.abs().max() > 0.24
    assert (target[:, 4, 0] - target[:, 5, 0]).abs().min() > 0.005
    assert torch.allclose(source * 100, (source * 100).round(), atol=1e-4)


def test_points_belong_to_samples_not_to_batches():
    """A sample's warp is the same alone and beside one whose first draws are unusable."""
    whole = diagonal_warp.draw_points(50, Draws(1, 0, range(50)))
    alone = diagonal_warp.draw_points(1, Draws(1, 9, [30]))
    assert all(torch.equal(a[30:31], b) for a, b in zip(whole, alone, strict=True))


def test_the_spline_moves_its_points_where_they_belong():
    source, target = diagonal_warp.draw_points(3, Draws.plain(3))
    spline = diagonal_warp.solve(source, target)
    assert spline[:, :6].sum(1).abs().max() < 1e-2  # the side condition: weights sum to zero
    side = 101
    positions = diagonal_warp.source_positions(spline, target, side, side)
    for row in range(3):
        for point, wanted in zip(target[row], source[row], strict=True):
            x, y = (point * (side - 1)).round().long().tolist()
            if max(x, y) < side and min(x, y) >= 0:
                assert (positions[row, y, x] - wanted).abs().max() < 0.02


def test_no_move_shifts_by_the_released_rounding_only():
    """Without moves a pixel's position is its number times W / (W - 1): the last column lies outside, in the black."""
    picture = torch.full((1, 3, 16, 16), 200, dtype=torch.uint8)
    still = torch.tensor([*diagonal_warp.CORNERS, (0.4, 0.4), (0.6, 0.6)])[None]
    warped = diagonal_warp.warp(picture, still, still)
    assert (warped[..., 1:13, 1:13] == 200).all() and (warped[..., -1, -1] < 20).all()


# -- stages ------------------------------------------------------------------------------------------------------------


def test_the_condition_is_lines_and_a_warped_reference(values):
    stage, batch = stage_of(values)
    colours = batch["color"].float() / 127.5 - 1
    condition = stage.condition(batch, Draws.plain(0))
    assert condition.shape == (2, 4, 64, 64)
    assert set(condition[:, 0].unique().tolist()) <= {-1.0, 1.0} and (condition[:, 0] > 0).float().mean() > 0.5
    assert (condition[:, 1:] - colours).abs().mean() > 0.02
    again = stage.condition(batch, Draws.plain(1))
    assert not torch.equal(again, condition)  # warp and line width are drawn anew
    copy, batch = stage_of(values, data={"deform": 0.0})
    assert torch.equal(copy.condition(batch, Draws.plain(0))[:, 1:], colours)


def test_autocast_leaves_lines_and_warps_alone(values):
    stage, batch = stage_of(values)
    plain = stage.condition(batch, Draws.plain(0))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(stage.condition(batch, Draws.plain(0)), plain)


def test_drawings_of_the_folder_can_stand_in_for_xdog(values):
    stage, batch = stage_of(values, data={"line_sigmas": []})
    lines = stage.condition(batch, Draws.plain(0))[:, :1]
    assert torch.equal(lines, batch["sketch"].float() / 127.5 - 1)


def test_the_released_sum_is_the_mean_times_the_count(values):
    losses = []
    for reduction in ("mean", "sum"):
        torch.manual_seed(0)
        stage, batch = stage_of(values, loss={"reduction": reduction})
        losses.append(stage(batch, Draws.plain(5))["noise"].item())
    assert losses[1] == pytest.approx(losses[0] * 2 * 3 * 64 * 64, rel=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "loss",
    [{}, {"chain_start": "reference"}, {"chain_start": "noise"}, {"forward_walk": "released", "chain_eta": 1.0}],
    ids=str,
)
def test_phase_2_reaches_every_weight(values, tmp_path, loss, precision):
    """Gradients arrive everywhere, also under autocast, where weights were cast without gradients by the walk up."""
    values["model"]["init"] = str(save_random(values, tmp_path))
    stage, batch = stage_of(values, run={"stage": "animediffusion_2"}, loss=loss)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        (term,) = stage(batch, Draws.plain(0)).values()
    term.backward()
    without = [n for n, p in stage.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    # With one channel per group, a bias before a normalisation changes nothing: its gradient is zero or rounding.
    assert not [n for n in without if not n.endswith(("conv1.2.bias", "time_emb.1.bias", "time_emb.1.weight"))]


def save_random(values, tmp_path):
    """A file of phase 1 whose last layer is not zero."""
    torch.manual_seed(2)
    stage, _ = stage_of(values)
    torch.nn.init.normal_(stage.denoise_fn.output[2].weight, std=0.1)
    tensors, metadata = stage.export(stage.state_dict())
    path = tmp_path / "phase1.safetensors"
    checkpoint.write_tensors(path, tensors, metadata)
    return path


def test_checkpointing_gives_the_same_loss_and_gradients(values, tmp_path):
    values["model"]["init"] = str(save_random(values, tmp_path))
    found = []
    for checkpointing in (False, True):
        stage, batch = stage_of(
            values, run={"stage": "animediffusion_2"}, system={"gradient_checkpointing": checkpointing}
        )
        loss = stage(batch, Draws.plain(0))["reconstruction"]
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in stage.parameters())])
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(*found, strict=True))


def test_both_phases_run_resume_and_export(values, tmp_path):
    first = train(configuration.build(values))
    tensors, metadata = checkpoint.read_tensors(first)
    assert metadata["colorize.family"] == "animediffusion" and metadata["modelspec.prediction_type"] == "epsilon"
    assert metadata["colorize.sketch_polarity"] == "black_on_white"
    assert all(torch.equal(tensors[name], table) for name, table in AnimeSchedule().buffers().items())
    values["run"] |= {"stage": "animediffusion_2", "output": str(tmp_path / "second"), "steps": 2}
    values["model"]["init"] = str(first)
    config = configuration.build(values)
    second = checkpoint.read_tensors(train(config))[0]
    assert load_network(second).config == load_network(tensors).config
    assert not torch.equal(second["denoise_fn.input.0.weight"], tensors["denoise_fn.input.0.weight"])
    again = checkpoint.read_tensors(train(config))[0]  # nothing left to do
    assert all(torch.equal(again[name], second[name]) for name in second)


def test_validation_measures_pictures_on_held_out_ones(values, pictures):
    pytest.importorskip("torchmetrics")
    values["data"]["holdout"] = str(pictures)
    values["report"] |= {"validate_every": 3, "validate_count": 2, "validate_bins": 2}
    config = configuration.build(values)
    train(config)
    (line,) = (Path(config.run.output) / "validation.jsonl").read_text(encoding="utf-8").splitlines()
    found = json.loads(line)
    assert 0 < found["psnr"] < 40 and found["validation"] > 0


def test_the_released_trainers_files_can_be_continued(values, tmp_path):
    """ep_N.model.pth: a plain state dict with the buffers."""
    stage, _ = stage_of(values)
    path = tmp_path / "ep_0.model.pth"
    torch.save({**stage.state_dict(), **AnimeSchedule().buffers()}, path)
    values["model"]["init"] = str(path)
    values["model"]["model_channels"] = 320  # sizes come from the file
    continued, _ = stage_of(values)
    assert torch.equal(continued.denoise_fn.input[0].weight, stage.denoise_fn.input[0].weight)


def test_the_released_learning_rate():
    optimizer = configuration.Optimizer(lr=1e-4, lowest_lr=1e-8, warmup=10, decay="cosine")
    rates = [learning_rate(optimizer, step, 110) for step in (0, 5, 10, 60, 110)]
    assert rates == pytest.approx([1e-8, 5.0005e-5, 1e-4, 5.0005e-5, 1e-8])


@pytest.mark.parametrize(
    ("section", "key", "value", "text"),
    [
        ("data", "reference", "folder", "bends the picture"),
        ("data", "line_sigmas", [0.3, 0.0], "widths above 0"),
        ("loss", "chain_steps", 0, "1 to 999"),
        ("loss", "chain_eta", 1.5, "between 0 and 1"),
        ("run", "stage", "animediffusion_2", "which it refines"),
    ],
)
def test_mistakes_in_the_configuration_are_named(values, section, key, value, text):
    values[section][key] = value
    if key == "reference":
        values["data"]["deform"] = 0.0
    with pytest.raises(ConfigError, match=text):
        table.checked(configuration.build(values))


def test_impossible_networks_and_other_models_are_named(values, tmp_path):
    values["model"]["channel_mult"] = [2, 4]
    with pytest.raises(ConfigError, match=r"\[model\]: channel_mult must begin with 1"):
        stage_of(values)
    other = tmp_path / "other.safetensors"
    checkpoint.write_tensors(other, {"weight": torch.zeros(1)}, {})
    values["model"]["init"] = str(other)
    with pytest.raises(ConfigError, match=r"other.safetensors.*no AnimeDiffusion network"):
        stage_of(values)


BUNDLED = Path(__file__).parents[3] / "models" / "checkpoints" / "animediffusion_small.safetensors"
STUDENT = BUNDLED.with_name("animediffusion_small_student.safetensors")


def test_the_preset_that_says_it_made_the_bundled_file_did():
    """The file's own configuration and the header of the preset agree."""
    _, metadata = checkpoint.read_tensors(BUNDLED)
    made = json.loads(metadata["colorize.config"])
    preset = table.load(made["run"]["output"])
    assert (
        (configuration.PRESETS / f"{made['run']['output']}.toml")
        .read_text()
        .startswith("# Phase 2 of the bundled file animediffusion_small")
    )
    assert preset.run.steps == made["run"]["steps"] and preset.loss.chain_start == made["loss"]["chain_start"]
    assert preset.optimizer.lr == made["optimizer"]["lr"] and preset.data.size == made["data"]["size"]


@pytest.mark.parametrize(("file", "steps"), [(BUNDLED, 10), (STUDENT, 2)])
def test_the_bundled_models_take_colours_from_the_reference(file, steps):
    """On held-out faces: a reference in the true colours, warped, helps by decibels against one of another face."""
    pytest.importorskip("torchmetrics")
    assert file.stat().st_size <= 10_000_000
    model = evaluate_faces.load(str(file), torch.device("cpu"))
    assert model.steps == steps
    truth = torch.from_numpy(np.stack([demo_faces.face(index, "heldout") for index in range(8)])).movedim(-1, 1)
    lines = evaluate_faces.drawn_lines(picture(truth))
    found = {}
    for protocol in ("warped", "shuffled"):
        generator = torch.Generator().manual_seed(0)
        shown = picture(evaluate_faces.references_of(protocol, truth, [], Draws.plain(0)))
        made = evaluate_faces.colour(model, lines, shown, evaluate_faces.Sampling(), generator)
        found[protocol] = psnr(made.clamp(-1, 1), picture(truth)).mean()
        assert edge_f1(made, lines).mean() > 0.5
    assert found["warped"] > found["shuffled"] + 2


# -- evaluation --------------------------------------------------------------------------------------------------------


def test_evaluation_tells_copying_from_colouring(values, tmp_path, capsys):
    """An untrained network started from the reference's walk gives the reference back, whatever the lines say."""
    pytest.importorskip("torchmetrics")
    folder = demo_faces.write_faces(tmp_path / "faces", 4, 64, "heldout", references=True, progress=False)
    stage, _ = stage_of(values)
    checkpoint.write_tensors(tmp_path / "still.safetensors", *stage.export(stage.state_dict()))
    command = ["evaluate-faces", "--checkpoint", str(tmp_path / "still.safetensors"), "--data", str(folder)]
    command += ["--protocol", *evaluate_faces.PROTOCOLS, "--start", "reference", "--steps", "4", "--count", "4"]
    assert main([*command, "--output", str(tmp_path / "out")]) == 0
    assert "shuffled" in capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "report.json").read_text())["protocols"]
    assert found["self"]["still"]["psnr"]["mean"] > 40
    assert found["shuffled"]["still"]["copied"]["mean"] > 40 and found["other"]["still"]["psnr"]["mean"] < 20
    assert found["self"]["still"]["edges"]["mean"] > found["shuffled"]["still"]["edges"]["mean"]
    with Image.open(tmp_path / "out" / "other.png") as sheet:
        assert sheet.size == (4 * 64, 4 * 64)  # lines, reference, one model, truth; four rows


def test_files_say_how_many_steps_they_were_trained_for(values, tmp_path):
    """Phase 2 writes the length of its chain; `evaluate-faces` and `sample` take it, and 10 of a file without."""
    values["run"]["stage"], values["loss"] = "animediffusion_2", {"chain_steps": 3}
    values["model"]["init"] = str(save_random(values | {"run": values["run"] | {"stage": "animediffusion"}}, tmp_path))
    stage, _ = stage_of(values)
    checkpoint.write_tensors(tmp_path / "student.safetensors", *stage.export(stage.state_dict()))
    student, plain = (
        evaluate_faces.load(str(path), torch.device("cpu"))
        for path in (tmp_path / "student.safetensors", values["model"]["init"])
    )
    assert (student.steps, plain.steps) == (3, 10)
    assert [evaluate_faces.Sampling().steps_of(model) for model in (student, plain)] == [3, 10]
    assert evaluate_faces.Sampling(5).steps_of(student) == 5
    assert evaluate_faces.Sampling(sampler="ddpm").steps_of(student) == 1000


def test_one_face_from_the_command_line(values, pictures, tmp_path, capsys, monkeypatch):
    """`sample` knows an AnimeDiffusion file, needs no encoder, and says what such a model does not have."""
    path = save_random(values, tmp_path)
    files = [str(pictures / kind / "00_0.png") for kind in ("sketch", "color")]
    command = ["sample", "--checkpoint", str(path), "--sketch", files[0], "--size", "64"]
    command += ["--output", str(tmp_path / "face.png")]
    assert main([*command, "--reference", files[1], "--steps", "2"]) == 0
    with Image.open(tmp_path / "face.png") as sheet:
        assert sheet.size == (3 * 64, 64) and np.array(sheet)[:, 128:].std() > 1
    asked = []
    monkeypatch.setattr(
        "colorize.animediffusion.unet.AnimeUNet.forward", lambda self, x, t: asked.append(int(t[0])) or x[:, :3] * 0
    )
    assert main([*command, "--reference", files[1], "--sampler", "ddpm"]) == 0 and len(asked) == 1000
    for arguments, text in (
        ([], "give --reference"),
        (["--reference", files[1], "--mode", "masked"], "has no modes"),
        (["--reference", files[1], "--sampler", "dpmpp_2m"], "ddim or ddpm, not dpmpp_2m"),
    ):
        capsys.readouterr()
        assert main([*command, *arguments]) == 2 and text in capsys.readouterr().err


def test_other_models_need_their_encoder(v1_file, pictures, capsys):
    sketch = str(pictures / "sketch" / "00_0.png")
    assert main(["sample", "--checkpoint", v1_file, "--sketch", sketch, "--size", "64"]) == 2
    assert "name its file with --encoder" in capsys.readouterr().err


def test_the_rows_without_phase_2_walk_the_whole_chain(values, tmp_path, monkeypatch):
    """Table 2: DDPM, 1000 steps, from a model of phase 1 alone; here every step of a schedule of 1000."""
    folder = demo_faces.write_faces(tmp_path / "faces", 2, 64, "heldout", progress=False)
    stage, _ = stage_of(values)
    checkpoint.write_tensors(tmp_path / "model.safetensors", *stage.export(stage.state_dict()))
    asked = []

    def forward(self, x, t):
        asked.append(int(t[0]))
        return torch.zeros_like(x[:, :3])

    monkeypatch.setattr("colorize.animediffusion.unet.AnimeUNet.forward", forward)
    command = ["evaluate-faces", "--checkpoint", str(tmp_path / "model.safetensors"), "--data", str(folder)]
    command += ["--count", "2", "--protocol", "self", "--sampler", "ddpm", "--output", str(tmp_path / "out")]
    assert main(command) == 0 and asked == list(range(999, -1, -1))
    assert json.loads((tmp_path / "out" / "report.json").read_text())["settings"]["steps"] == {"model": 1000}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--count", "9"], "holds 4 pictures, 9"),
        (["--eta", "2"], "between 0 and 1"),
        (["--steps", "0"], "1 to 999"),
        (["--sampler", "ddpm", "--steps", "100"], "leave --steps, --eta and --start out"),
        (["--size", "63"], "divisible by"),
        (["--protocol", "other"], "needs a reference"),
    ],
)
def test_evaluation_names_mistakes(values, tmp_path, capsys, arguments, text):
    folder = demo_faces.write_faces(tmp_path / "faces", 4, 64, "heldout", progress=False)
    stage, _ = stage_of(values)
    checkpoint.write_tensors(tmp_path / "model.safetensors", *stage.export(stage.state_dict()))
    command = ["evaluate-faces", "--checkpoint", str(tmp_path / "model.safetensors"), "--data", str(folder)]
    assert main([*command, "--count", "4", "--output", str(tmp_path / "out"), *arguments]) == 2
    assert text in capsys.readouterr().err
