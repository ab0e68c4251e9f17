"""What may change between two starts of the same command, and what a run goes on from."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from trainer import config as configuration
from trainer.commands.convert import find_checkpoint
from trainer.config import ConfigError
from trainer.models import checkpoint
from trainer.run import loop
from trainer.run.report import Reporter


def train(values: dict, **changes: dict) -> Path:
    """Train with some keys changed, e.g. run={"steps": 3}."""
    merged = {section: {**content, **changes.get(section, {})} for section, content in values.items()}
    return loop.train(configuration.build(merged))


@pytest.fixture
def begun(values, tmp_path) -> dict:
    """Values of a run that has one step, with a copy of the frozen autoencoder of its own."""
    shutil.copy(values["model"]["vae"], tmp_path / "vae.safetensors")
    values["model"]["vae"] = str(tmp_path / "vae.safetensors")
    values["report"]["save_every"] = 1
    train(values, run={"steps": 1})
    return values


# -- files by content --------------------------------------------------------------------------------------------------


def test_a_file_that_was_replaced_under_its_name_is_refused_by_its_key(begun):
    tensors = load_file(begun["model"]["vae"])
    first = next(iter(tensors))
    save_file(tensors | {first: tensors[first] + 1}, begun["model"]["vae"])
    with pytest.raises(
        ConfigError, match=r"another \[model\] section: model\.vae = .* other content.*run\.output"
    ) as e:
        train(begun, run={"steps": 2})
    assert "delete" not in str(e.value)


def test_the_same_file_at_another_place_resumes(begun, tmp_path):
    moved = shutil.copy(begun["model"]["vae"], tmp_path / "moved.safetensors")
    Path(begun["model"]["vae"]).unlink()
    file = train(begun, run={"steps": 2}, model={"vae": str(moved)})
    assert checkpoint.folders(file.parent)[-1].name == "step-00000002"


def test_a_checkpoint_without_hashes_is_compared_by_paths(begun, tmp_path):
    """Those of earlier versions."""
    folder = checkpoint.folders(Path(begun["run"]["output"]))[-1]
    state = json.loads((folder / "state.json").read_text())
    assert set(state.pop("files")) == {"vae", "encoder"}
    (folder / "state.json").write_text(json.dumps(state))
    moved = shutil.copy(begun["model"]["vae"], tmp_path / "moved.safetensors")
    with pytest.raises(ConfigError, match=r"model\.vae = .*moved.*which was"):
        train(begun, run={"steps": 2}, model={"vae": str(moved)})
    train(begun, run={"steps": 2})


# -- other settings ----------------------------------------------------------------------------------------------------


def test_changed_settings_are_told_in_one_warning(begun, caplog, pictures, tmp_path):
    other = shutil.copytree(pictures, tmp_path / "other")
    with caplog.at_level(logging.WARNING, "trainer"):
        train(begun, run={"steps": 2, "seed": 7}, data={"folder": str(other)}, loss={"offset_noise": 0.1})
    told = [record.getMessage() for record in caplog.records if "other settings" in record.getMessage()]
    assert len(told) == 1
    for key in ("run.seed = 7, was 0", "data.folder", "loss.offset_noise = 0.1, was 0.05", "run.steps = 2, was 1"):
        assert key in told[0]
    assert "save_every" not in told[0] and "run.output" not in told[0]


def test_the_same_settings_are_told_nothing(begun, caplog):
    begun["optimizer"]["decay"] = "constant"
    train(begun, run={"steps": 2, "output": begun["run"]["output"] + "2"})
    with caplog.at_level(logging.WARNING, "trainer"):
        train(begun, run={"steps": 3, "output": begun["run"]["output"] + "2"}, data={"workers": 0})
    assert not [record for record in caplog.records if record.name == "trainer"]


def test_other_frozen_parameters_and_another_stage_are_refused(begun):
    with pytest.raises(ConfigError, match=r"optimizer\.freeze = \[\], not \['control_encoder\.'\]"):
        train(begun, run={"steps": 2}, optimizer={"freeze": ["control_encoder."]})
    with pytest.raises(ConfigError, match=r"stage v1, not vae"):
        train(begun, run={"steps": 2, "stage": "vae"}, loss={"latent_shuffle": 0.0, "noisy_reference": 0.0})


def test_fewer_steps_than_the_checkpoint_has_are_told(begun, caplog):
    train(begun, run={"steps": 3})
    with caplog.at_level(logging.WARNING, "trainer"):
        train(begun, run={"steps": 2})
    assert "has 3 steps already and run.steps = 2: nothing is trained" in caplog.text


# -- damaged checkpoints -----------------------------------------------------------------------------------------------


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("name", ["model.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("damage", [cut, Path.unlink, lambda path: path.write_bytes(b"")])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(tmp_path, caplog, name, damage):
    from trainer.run.resume import newest_whole

    parts = {"model": {"weight": torch.arange(3.0)}, "ema": {"weight": torch.arange(3.0)},
             "optimizer": {"state": {}, "param_groups": []}}  # fmt: skip
    for step in (1, 2):
        state = {"step": step, "config": {"optimizer": {"ema": 0.9}}, "files": {}, "best": None}
        checkpoint.save(tmp_path, parts, state, keep=0)
    one, two = checkpoint.folders(tmp_path)
    damage(two / name)
    assert newest_whole([one, two]) == (one, [two])
    assert "step-00000002 is damaged" in caplog.text and find_checkpoint(tmp_path) == one
    damage(one / name)
    with pytest.raises(ConfigError, match="No checkpoint of .* can be read .step-00000002, step-00000001."):
        newest_whole([one, two])


def test_a_run_goes_on_from_the_one_before_as_if_the_damaged_one_had_not_been(begun, tmp_path):
    begun["optimizer"]["decay"] = "constant"
    begun["run"]["output"] = str(tmp_path / "unbroken")
    whole = train(begun, run={"steps": 4})
    begun["run"]["output"] = str(tmp_path / "broken")
    output = train(begun, run={"steps": 3}).parent
    cut(checkpoint.folders(output)[-1] / "optimizer.safetensors")
    again = train(begun, run={"steps": 4})
    ours, theirs = (checkpoint.read_tensors(file)[0] for file in (whole, again))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert (output / "step-00000003.damaged").is_dir()
    steps = [json.loads(line)["step"] for line in (output / "log.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps))


@pytest.mark.parametrize(
    "name", [f".step-00000002{checkpoint.UNFINISHED}", ".step-00000002.part", "step-00000002.damaged"]
)
def test_what_is_no_finished_checkpoint_is_not_converted(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="is no finished checkpoint.*Give the folder of the run"):
        find_checkpoint(tmp_path / name)


def test_curves_of_tensorboard_go_on_where_the_run_does(tmp_path):
    """What was logged after the checkpoint is not shown twice."""
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for start, last, value in ((0, 4, 1.0), (2, 4, 2.0)):
        reporter = Reporter(tmp_path, start, 4, 1, 1, main=True)
        for step in range(start + 1, last + 1):
            reporter.step(step, {"loss": torch.tensor(value)}, 1e-3, torch.tensor(0.0), torch.device("cpu"))
        reporter.close()
    found = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    assert [(event.step, event.value) for event in found.Scalars("loss")] == [(1, 1.0), (2, 1.0), (3, 2.0), (4, 2.0)]
