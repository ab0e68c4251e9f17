"""Noise and weights of losses/diffusion.py in the stages of the colourisers, and pairs of one's own on the sheets."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.trainer.stages.xl_runs import first_batch, regions_of
from trainer import config as configuration
from trainer.config import ConfigError
from trainer.draws import Draws
from trainer.run import loop
from trainer.stages import table
from trainer.stages.table import build_stage

CHANGES = [
    {"weighting": "debiased"},
    {"weighting": "p2"},
    {"pyramid_noise": 0.5},
    {"input_perturbation": 0.3},
    {"background_weight": 0.2},
]
PLAIN = {"reference_drop": 0.0}


def terms_of(values: dict, loss: dict) -> torch.Tensor:
    config = table.checked(configuration.build(values | {"loss": loss}))
    torch.manual_seed(0)
    stage = build_stage(config, torch.device("cpu"))
    torch.manual_seed(1)
    for parameter in stage.parameters():  # layers that start at zero would hide what the latents show
        parameter.data.add_(torch.randn_like(parameter) * 0.05)
    with torch.no_grad():
        return stage(first_batch(config), Draws(0, 0, range(config.optimizer.batch)))["denoising"]


def check_changes(values: dict) -> None:
    plain = terms_of(values, PLAIN)
    for change in CHANGES:
        other = terms_of(values, PLAIN | change)
        assert torch.isfinite(other) and abs(other / plain - 1) > 1e-4, change


@pytest.mark.parametrize("crop", (0, 64))
def test_stage_v1(values, crop):
    check_changes(values | {"data": values["data"] | {"crop": crop}})


def test_stage_v1_5(values, v1_file):
    model = {"init": v1_file, "encoder": values["model"]["encoder"], "recovery_layers": 2}
    check_changes(values | {"run": values["run"] | {"stage": "v1_5"}, "model": model})


def test_stages_of_xl(xl, backbone):
    check_changes(xl | {"gram": {"weight": 0.0}})
    check_changes(regions_of(xl, backbone, "xl_lora"))


def test_elsewhere_they_are_refused(values):
    values |= {"run": values["run"] | {"stage": "vae"}, "loss": {"pyramid_noise": 0.3}}
    with pytest.raises(ConfigError, match="loss.pyramid_noise belongs to stages v1, "):
        table.checked(configuration.build(values))


def test_pairs_of_ones_own(values, pictures, tmp_path):
    """The sheet before the first step shows them; without true pictures the sketch stands in their place."""
    own = tmp_path / "own"
    for part in ("sketch", "reference"):
        (own / part).mkdir(parents=True)
        shutil.copy(pictures / part / "01_0.png", own / part / "mine.png")
    values["report"] = values.get("report", {}) | {"samples": str(own), "sample_steps": 2, "sample_every": 2}
    file = loop.train(configuration.build(values | {"run": values["run"] | {"steps": 2}}))
    sheets = sorted((file.parent / "samples").glob("*.png"))
    assert [sheet.stem for sheet in sheets] == ["step-00000000", "step-00000002"]
    sheet = np.asarray(Image.open(sheets[0]))
    assert sheet.shape[0] < 2 * 64  # one row
    shutil.rmtree(own / "reference")
    with pytest.raises(ConfigError, match="holds no usable pictures: .*reference/ 0"):
        loop.train(configuration.build(values | {"run": {**values["run"], "output": str(tmp_path / "other")}}))


def test_checkpoints_by_the_clock(values, tmp_path, monkeypatch):
    """An hour a step: every step is saved, and the log and the result are those of a run without."""
    import trainer.run.run as module

    plain = loop.train(configuration.build(values | {"run": values["run"] | {"steps": 3}}))
    clock = iter(range(10**9, 10**12, 3600))
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    values["report"] = values.get("report", {}) | {"save_minutes": 90.0, "keep": 0, "save_every": 1000}
    run = {**values["run"], "steps": 3, "output": str(tmp_path / "timed")}
    timed = loop.train(configuration.build(values | {"run": run}))
    assert len(list(timed.parent.glob("step-*"))) > 1
    assert timed.read_bytes()[-1000:] == plain.read_bytes()[-1000:]


def test_numbers_for_wandb(values, monkeypatch, tmp_path):
    """With a stand-in of the package: offline, the same run after resuming, all lines and sheets."""
    import sys
    import types

    told, begun = [], []

    class Run:
        log = staticmethod(told.append)

        def define_metric(self, *names, **options):
            begun.append(options)

        def finish(self):
            told.append("end")

    package = types.ModuleType("wandb")
    package.__spec__ = types.SimpleNamespace(name="wandb")
    package.init = lambda **options: begun.append(options) or Run()
    package.Image = lambda image: image.shape
    monkeypatch.setitem(sys.modules, "wandb", package)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    values["report"] = values.get("report", {}) | {"wandb": "sketches", "log_every": 1, "sample_every": 1}
    for steps in (1, 2):
        file = loop.train(configuration.build(values | {"run": values["run"] | {"steps": steps}}))
    first, second = (options for options in begun if "mode" in options)
    assert first["mode"] == "offline" and first["id"] == second["id"] and first["project"] == "sketches"
    assert str(Path(values["model"]["vae"]).parent) not in json.dumps(first["config"])
    lines = [line for line in told if line != "end"]
    assert [line["step"] for line in lines if "denoising" in line] == [1, 2]
    assert any("samples" in line for line in lines) and told[-1] == "end" and file.is_file()
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match="pip install wandb"):
        loop.train(configuration.build(values | {"run": values["run"] | {"steps": 3}}))
