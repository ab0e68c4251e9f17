"""The dry run passes nothing that training refuses, and needs no memory for it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import trainer
from colorize import names
from trainer import config as configuration
from trainer.__main__ import main
from trainer.config import ConfigError
from trainer.models import checkpoint
from trainer.run import checks, loop
from trainer.stages import shared

PACKAGE = Path(trainer.__file__).parent


@pytest.fixture
def wrong(values, frozen, pictures, v1_file, tmp_path):
    """wrong(name) -> the values with one thing that training refuses."""

    def change(name: str) -> dict:
        report, data, model = values["report"], values["data"], values["model"]
        if name == "an autoencoder that is none":
            model["vae"] = frozen["encoder"]
        elif name == "a model that reads other tokens":
            model |= {"init": v1_file, "tokens": "cls", "vae": ""}
            values["loss"]["latent_shuffle"] = 0.0
        elif name == "a model of the other prediction":
            model |= {"init": v1_file, "prediction_type": "eps", "vae": ""}
        elif name == "a source with nothing to take":
            model["init_from"] = frozen["encoder"]
        elif name == "held-out pictures that are none":
            (tmp_path / "empty" / "color").mkdir(parents=True)
            report["validate_every"], data["holdout"] = 1, str(tmp_path / "empty")
        elif name == "a precision":
            values["system"]["precision"] = "fp16"
        elif name == "a compiler":
            values["system"]["compile"] = "nothing"
        elif name == "an optimiser":
            values["optimizer"]["kind"] = "adamw8bit"
        elif name == "another run":
            loop.train(configuration.build(values | {"run": values["run"] | {"steps": 1}}))
            model["prediction_type"] = "eps"
        return values

    return change


WRONG = {
    "an autoencoder that is none": "holds no autoencoder",
    "a model that reads other tokens": "reads local tokens of a reference, not cls",
    "a model of the other prediction": "predicts v: set model.prediction_type = 'v'",
    "a source with nothing to take": "has no tensor this model could take",
    "held-out pictures that are none": "holds no usable pictures",
    "a precision": "needs a GPU",
    "a compiler": "is no backend of torch.compile",
    "an optimiser": 'optimizer.kind = "adamw8bit" needs',
    "another run": "another [model] section",
}


def test_one_place_chooses_the_device(write_toml, values, capsys, monkeypatch):
    """Whoever keeps a run on the CPU of a machine with a GPU is taken at his word by every command and check."""
    asks = {path.name for path in PACKAGE.rglob("*.py") if "cuda.is_available()" in path.read_text(encoding="utf-8")}
    assert asks == {"workers.py", "prepare.py"}  # the latter: which back end the processes talk through
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    values["system"]["precision"] = "fp16"
    assert main(["train", "--config", write_toml(values), "--dry-run"]) == 2
    assert "needs a GPU" in capsys.readouterr().err


@pytest.mark.parametrize("name", WRONG)
def test_what_training_refuses(wrong, write_toml, capsys, name):
    if name == "a precision" and torch.cuda.is_available():
        pytest.skip("fp16 is possible here")
    config = write_toml(wrong(name))
    refusals = []
    for how in (["--dry-run"], []):
        assert main(["train", "--config", config, *how]) == 2
        refusals.append(capsys.readouterr().err.splitlines()[-1])
    assert refusals[0] == refusals[1] and WRONG[name] in refusals[0]


def test_a_file_that_says_nothing_is_of_the_prediction_that_was_chosen(values):
    """Official files carry no marker: the person knows."""
    for prediction in ("v", "eps"):
        model = configuration.build(values | {"model": values["model"] | {"prediction_type": prediction}}).model
        shared.check_prediction({}, {}, model)
        with pytest.raises(ConfigError, match="predicts"):
            other = {"v": names.EPS_MARKER, "eps": names.V_MARKER}[prediction]
            shared.check_prediction({other: torch.zeros(0)}, {}, model)


def test_no_values_are_read(values, monkeypatch):
    """A model of gigabytes is checked by its headers."""
    read = []

    real = checkpoint.read_tensors

    def spied(path: Path) -> tuple:
        tensors, metadata = real(path)
        read.extend(tensor.numel() for tensor in tensors.values() if not tensor.is_meta)
        return tensors, metadata

    monkeypatch.setattr(checkpoint, "read_tensors", spied)
    checks.check_run(configuration.build(values))
    assert max(read, default=0) <= checkpoint.VALUES_OF


def test_missing_masks_are_made_by_prepare(values, v1_file, pictures, tmp_path):
    """Regression: the advice was to draw demo data."""
    for part in ("color", "sketch"):
        (tmp_path / "set" / part).mkdir(parents=True)
        for file in (pictures / part).iterdir():
            (tmp_path / "set" / part / file.name).write_bytes(file.read_bytes())
    values["run"]["stage"], values["loss"] = "v1_5", {}
    values["model"] = {"encoder": values["model"]["encoder"], "init": v1_file, "recovery_layers": 2}
    values["data"]["folder"] = str(tmp_path / "set")
    with pytest.raises(
        ConfigError, match=r"mask/ 0 files.*`python -m trainer prepare .*set --mask drawing` makes them"
    ):
        loop.train(configuration.build(values))
