"""Whole runs of tiny networks: exact resume, interrupts, export, dry run, and errors."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from colorize import sampler_settings
from colorize.reference.encoder_file import load_reference_encoder
from colorize.reference.feature_vision import FeatureReferenceEncoder
from trainer import config as configuration
from trainer.__main__ import main
from trainer.commands.cache import build_cache
from trainer.config import ConfigError
from trainer.models import checkpoint
from trainer.models.colorizer import V1Colorizer
from trainer.models.denoising import Denoising
from trainer.run import loop

ROOT = Path(__file__).parents[3]


def train(values: dict, **changes) -> Path:
    """Train with some keys changed, e.g. run={"steps": 3}."""
    merged = {section: {**content, **changes.get(section, {})} for section, content in values.items()}
    return loop.train(configuration.build(merged))


def test_six_steps_equal_three_and_three(values, tmp_path):
    """Weights, moving average and optimiser of a resumed run are those of an unbroken one, bit for bit."""
    values["optimizer"]["decay"] = "constant"  # a cosine would know the length of the run
    train(values, run={"output": str(tmp_path / "straight")})
    train(values, run={"output": str(tmp_path / "broken"), "steps": 3})
    train(values, run={"output": str(tmp_path / "broken")})
    straight, broken = (checkpoint.load(tmp_path / name / "step-00000006") for name in ("straight", "broken"))
    for part in ("model", "ema"):
        assert straight[1][part].keys() == broken[1][part].keys()
        assert all(torch.equal(straight[1][part][k], broken[1][part][k]) for k in straight[1][part])
    for ours, theirs in zip(
        straight[1]["optimizer"]["state"].values(), broken[1]["optimizer"]["state"].values(), strict=True
    ):
        assert all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_cached_and_uncached_runs_agree(values, tmp_path):
    results = []
    for cache in (False, True):
        file = train(values, run={"output": str(tmp_path / str(cache)), "steps": 4}, data={"cache": cache})
        results.append(checkpoint.read_tensors(file)[0])
    assert all(torch.allclose(results[0][k], results[1][k], atol=1e-6) for k in results[0])


def test_gradient_checkpointing_and_accumulation_change_nothing(values, tmp_path):
    """Checkpointing recomputes the same numbers; two micro steps average their gradients."""
    plain = train(values, run={"output": str(tmp_path / "a"), "steps": 2}, optimizer={"accumulate": 2})
    lean = train(values, run={"output": str(tmp_path / "b"), "steps": 2}, optimizer={"accumulate": 2},
                 system={"precision": "fp32", "gradient_checkpointing": True})  # fmt: skip
    ours, theirs = (checkpoint.read_tensors(p)[0] for p in (plain, lean))
    assert all(torch.allclose(ours[k], theirs[k], atol=1e-6) for k in ours)


def test_bf16_eps_run_writes_a_log_and_a_sheet(values, tmp_path):
    file = train(values, model={"prediction_type": "eps"}, system={"precision": "bf16"}, report={"sample_every": 6})
    lines = [json.loads(line) for line in (file.parent / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6]
    assert {"denoising", "lr", "grad_norm", "images_per_s", "s_per_step", "peak_gib"} <= lines[0].keys()
    assert (file.parent / "samples/step-00000006.png").is_file()
    with safe_open(file, framework="pt") as exported:
        assert "eps_pred" in exported.keys()
        assert exported.metadata()["colorize.prediction_type"] == "eps"


def test_dual_conditioned_and_deformed_runs(values):
    """The second error is a term of its own in the log; a falling drop rate and bent references train along."""
    loss = {"reference_drop": 0.8, "reference_drop_end": 0.5, "dual_condition": 4.0}
    file = train(values | {"loss": loss}, run={"steps": 2}, data={"reference": "self", "deform": 0.5, "cache": True})
    line = json.loads((file.parent / "log.jsonl").read_text().splitlines()[-1])
    assert line["dual"] > line["denoising"] > 0


def test_a_run_of_an_earlier_version_resumes(values):
    """Its checkpoint lacks the configuration's newer keys, which then stand at their defaults."""
    file = train(values, run={"steps": 3})
    state = checkpoint.folders(file.parent)[-1] / "state.json"
    saved = json.loads(state.read_text())
    del saved["config"]["model"]["recovery_layers"]
    state.write_text(json.dumps(saved))
    train(values, run={"steps": 4})
    assert checkpoint.folders(file.parent)[-1].name == "step-00000004"


def test_the_reference_encoder_trains_along_and_is_exported(values, tmp_path):
    """Tower and projection learn, the features stay; the model's own file has nothing of them."""
    torch.manual_seed(0)
    encoder = FeatureReferenceEncoder(16, 8, 32, 1, 16, 32)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    save_file(before, tmp_path / "start.safetensors", metadata={"colorize.head_width": "16"})
    values["model"] |= {"encoder": str(tmp_path / "start.safetensors"), "train_encoder": True}
    # The output layers of a new U-Net are zero: what stands before them learns from the second step on.
    file = train(values, run={"steps": 4}, loss={"reference_drop": 0.0}, optimizer={"ema": 0.0})
    assert not [name for name in checkpoint.read_tensors(file)[0] if name.startswith(("visual.", "knowledge."))]
    after, metadata = checkpoint.read_tensors(file.with_stem(file.stem + "-encoder"))
    changed = {name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"visual", "knowledge"}
    assert load_reference_encoder(after, metadata).image_size == 32
    assert main(["convert", str(file.parent), "--output", str(tmp_path / "half.safetensors")]) == 0
    half = checkpoint.read_tensors(tmp_path / "half-encoder.safetensors")[0]
    assert half.keys() == after.keys() and all(value.dtype == torch.float16 for value in half.values())


def test_a_trained_encoder_goes_with_kept_latents(values, tmp_path):
    """What `cache` writes for it are the pictures' latents alone; the run with them is the run without."""
    torch.manual_seed(0)
    encoder = FeatureReferenceEncoder(16, 8, 32, 1, 16, 32)
    save_file(encoder.state_dict(), tmp_path / "start.safetensors", metadata={"colorize.head_width": "16"})
    values["model"] |= {"encoder": str(tmp_path / "start.safetensors"), "train_encoder": True}
    plain = train(values, run={"output": str(tmp_path / "plain"), "steps": 3})
    values["data"] |= {"cache_folder": str(tmp_path / "cache")}
    summary = build_cache(configuration.build(values), progress=False)
    assert summary.written.keys() == {"latents"} and summary.written["latents"]
    kept = train(values, run={"output": str(tmp_path / "kept"), "steps": 3})
    for one, other in ((plain, kept), (plain.with_stem("plain-encoder"), kept.with_stem("kept-encoder"))):
        ours, theirs = checkpoint.read_tensors(one)[0], checkpoint.read_tensors(other)[0]
        assert ours.keys() == theirs.keys()
        assert all(torch.allclose(ours[name], theirs[name], atol=1e-6) for name in ours)


def test_old_checkpoints_are_deleted(values):
    file = train(values, report={"save_every": 1, "keep": 2})
    assert [p.name for p in checkpoint.folders(file.parent)] == ["step-00000005", "step-00000006"]


def test_another_model_does_not_resume(values):
    train(values, run={"steps": 1})
    with pytest.raises(ConfigError, match="another \\[model\\]"):
        train(values, model={"prediction_type": "eps"})


def test_frozen_parameters_stay_and_are_exported(values, tmp_path):
    one = train(values, run={"output": str(tmp_path / "a"), "steps": 1}, optimizer={"freeze": ["control_encoder."]})
    six = train(values, run={"output": str(tmp_path / "b")}, optimizer={"freeze": ["control_encoder."]})
    ours, theirs = (checkpoint.read_tensors(p)[0] for p in (one, six))
    same = {k: torch.equal(ours[k], theirs[k]) for k in ours if k.startswith(("control_encoder.", "model."))}
    assert all(v for k, v in same.items() if k.startswith("control_encoder."))
    assert not all(v for k, v in same.items() if k.startswith("model."))


def test_export_converts_and_colours(values, tmp_path):
    """What training exports, and what convert makes of its checkpoint, is a whole v1 model."""
    exported = train(values)
    assert main(["convert", str(exported.parent), "--output", str(tmp_path / "small.safetensors")]) == 0
    tensors, metadata = checkpoint.read_tensors(tmp_path / "small.safetensors")
    assert metadata["colorize.family"] == "v1" and metadata["modelspec.prediction_type"] == "v"
    assert sampler_settings.stated(metadata) == sampler_settings.SMALL
    embedded = json.loads(metadata["colorize.config"])
    assert embedded["run"]["stage"] == "v1" and embedded["model"]["vae"] == "vae.safetensors"
    assert str(tmp_path) not in json.dumps(metadata)  # nobody's folders travel with a model
    assert int(tensors["colorize.num_head_channels"]) == 16
    assert tensors["model.diffusion_model.out.2.weight"].dtype == torch.float16
    colorizer = V1Colorizer.from_files(
        str(tmp_path / "small.safetensors"), values["model"]["encoder"], torch.device("cpu")
    )
    assert colorizer.prediction_type == "v"
    sketch, reference = -torch.ones(1, 3, 64, 64), torch.zeros(1, 3, 64, 64)
    tokens = colorizer.tokens(reference)
    picture = colorizer.generate(sketch, tokens, Denoising(2, 2.0), torch.Generator().manual_seed(0))
    assert picture.shape == (1, 3, 64, 64) and torch.isfinite(picture).all()


NO_STRATEGY = {"latent_shuffle": 0.0, "noisy_reference": 0.0}
"""These belong to stage v1."""


@pytest.mark.parametrize("stage", ["vae", "encoder"])
def test_the_other_stages_train_and_export(values, stage, tmp_path):
    file = train(values, run={"stage": stage, "steps": 2}, report={"sample_every": 2}, loss=NO_STRATEGY,
                 model={"encoder_size": 16, "encoder_patch": 8, "encoder_width": 32, "encoder_layers": 1})  # fmt: skip
    tensors, metadata = checkpoint.read_tensors(file)
    if stage == "vae":
        assert {"taesd_encoder.0.weight", "taesd_decoder.1.weight", "vae_scale", "vae_shift"} <= tensors.keys()
    else:
        assert all(k.startswith("visual.") for k in tensors)
        assert metadata["colorize.head_width"] == "32"


def test_interrupt_saves_and_the_same_command_goes_on(values, write_toml):
    """SIGINT ends the step, saves and exits; the next start resumes from there."""
    values["run"]["steps"] = 100_000
    values["report"]["log_every"] = 1
    command = [sys.executable, "-m", "trainer", "train", "--config", write_toml(values)]
    log = Path(values["run"]["output"], "log.jsonl")
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE)
    try:
        import time

        for _ in range(1200):
            if log.is_file() and log.read_text().count("\n") >= 2:
                break
            assert process.poll() is None, process.stderr.read().decode()
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, errors.decode()
    saved = checkpoint.folders(log.parent)
    assert len(saved) == 1
    step = int(saved[0].name.split("-")[1])
    values["run"]["steps"] = step + 2
    train(values)
    assert checkpoint.folders(log.parent)[-1].name == f"step-{step + 2:08d}"


def test_dry_run_tells_sizes_and_problems(values, write_toml, capsys):
    assert main(["train", "--config", write_toml(values), "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert "latents   (2, 4, 8, 8)" in text and "U-Net: " in text and "GiB" in text and "8 pictures; " in text
    assert "groups    4 groups, the largest of 2 pictures (e.g. 00_0), 0 pictures alone" in text
    assert not Path(values["run"]["output"]).exists()


def test_user_errors_end_with_a_message_not_a_traceback(values, write_toml, capsys):
    values["model"]["vae"] = "missing.safetensors"
    assert main(["train", "--config", write_toml(values)]) == 2
    assert "missing.safetensors does not exist" in capsys.readouterr().err


def test_checkpoint_without_autoencoder_is_refused(values, frozen):
    values["model"]["vae"] = frozen["encoder"]
    with pytest.raises(ConfigError, match="holds no autoencoder"):
        train(values)


def test_fp16_needs_a_gpu(values):
    if torch.cuda.is_available():
        pytest.skip("fp16 is possible here")
    with pytest.raises(ConfigError, match="bf16"):
        train(values, system={"precision": "fp16"})
