"""Runs and checkpoints of strangers: nothing of anybody else is deleted, nothing is run, wrong files get a sentence."""

from __future__ import annotations

import json
import pickle
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from colorize import weight_files
from trainer import config as configuration
from trainer.commands import convert
from trainer.config import ConfigError
from trainer.models import checkpoint, packed
from trainer.run.report import trim
from trainer.run.resume import check_same_run
from trainer.run.run import Run

DEEP = "[" * 100_000 + "]" * 100_000
PARTS = {"model": {"weight": torch.arange(3.0)}, "optimizer": {"state": {}, "param_groups": []}}
SMALL = {"run": {"stage": "vae"}, "data": {"folder": "x", "size": 64}}
STATE = {"step": 1, "config": {"model": {}}, "best": None}


class Evil:
    def __reduce__(self):
        return exec, ("raise SystemExit('code of the file was run')",)


def test_other_peoples_part_files_stay(tmp_path):
    """Browsers call unfinished downloads *.part; our own unfinished files have a name that nobody else uses."""
    checkpoint.save(tmp_path, PARTS, STATE, keep=1)
    (tmp_path / "film.mkv.part").write_bytes(b"half")
    (tmp_path / "folder.part").mkdir()
    (tmp_path / ".step-00000007.part").write_bytes(b"somebody's file")
    (tmp_path / ".step-7.part").mkdir()
    (tmp_path / "step-1").mkdir()
    (tmp_path / "step-00000000.txt").write_bytes(b"no checkpoint")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "kept.txt").write_bytes(b"kept")
    (tmp_path / f".link{checkpoint.UNFINISHED}").symlink_to(tmp_path / "elsewhere")
    checkpoint.begin(tmp_path, 2)
    checkpoint.sweep(tmp_path)
    checkpoint.save(tmp_path, PARTS, STATE | {"step": 3}, keep=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".step-00000007.part", ".step-7.part", "elsewhere", "film.mkv.part", "folder.part", "step-00000000.txt",
        "step-00000003", "step-1",
    ]  # fmt: skip
    assert (tmp_path / "elsewhere" / "kept.txt").is_file()


def test_what_a_killed_run_of_an_earlier_version_left_is_swept(tmp_path):
    """Gigabytes under names that only a run of ours gives."""
    for name in (".step-00001000.part", ".step-00000500.old.part"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"half")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "kept.txt").write_bytes(b"kept")
    (tmp_path / ".step-00000001.part").symlink_to(tmp_path / "elsewhere")
    checkpoint.sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["elsewhere"]
    assert (tmp_path / "elsewhere" / "kept.txt").is_file()


@pytest.mark.parametrize("parts", [{"model": {}}, {"model": {"weight": torch.ones(9, 9)}}, {"optimizer": {}}])
def test_a_checkpoint_of_another_network_is_told(tmp_path, parts):
    """Its parts are there and whole, but not of this run."""
    stage = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(stage.parameters(), lr=1.0)
    whole = {"model": stage.state_dict(), "optimizer": optimizer.state_dict()} | parts
    folder = checkpoint.save(tmp_path, whole, {"step": 1}, keep=1)
    if not whole["model"]:
        (folder / "model.safetensors").unlink()
    config = configuration.build(SMALL | {"optimizer": {"ema": 0.0}})
    run = Run(config, SimpleNamespace(scaler=None), stage, stage, {}, optimizer, *[None] * 6)
    with pytest.raises(ConfigError, match="step-00000001 cannot be used: .*delete this checkpoint's folder"):
        run.resume(folder)


def test_a_checkpoint_that_is_a_link_is_unlinked(tmp_path):
    output, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept.txt").write_bytes(b"kept")
    output.mkdir()
    (output / "step-00000001").symlink_to(elsewhere)
    checkpoint.save(output, PARTS, STATE | {"step": 2}, keep=1)
    assert [path.name for path in output.iterdir()] == ["step-00000002"] and (elsewhere / "kept.txt").is_file()


def test_a_run_that_is_refused_changes_nothing(tmp_path):
    from trainer.run.loop import train

    output = tmp_path / "run"
    output.mkdir()
    (output / f".step-00000001{checkpoint.UNFINISHED}").mkdir()
    values = {
        "run": {"stage": "vae", "output": str(output), "steps": 1},
        "data": {"folder": str(tmp_path / "nothing"), "size": 64},
        "system": {"precision": "fp32"},
    }
    with pytest.raises(ConfigError, match="does not exist"):
        train(configuration.build(values))
    assert [path.name for path in output.iterdir()] == [f".step-00000001{checkpoint.UNFINISHED}"]


def test_packed_values_come_back(tmp_path):
    state = {0: {"step": torch.tensor(3.0), "m": torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last)}}
    value = {"state": state, "groups": [{"betas": (0.9, 0.99), "x": None}]}
    checkpoint.write_tensors(tmp_path / "a.safetensors", *packed.pack(value))
    back = packed.unpack(*checkpoint.read_tensors(tmp_path / "a.safetensors"))
    assert back["groups"] == value["groups"] and list(back["state"]) == [0]
    assert (
        torch.equal(back["state"][0]["m"], state[0]["m"]) and back["state"][0]["m"].stride() == state[0]["m"].stride()
    )
    assert back["state"][0]["step"].item() == 3
    with pytest.raises(TypeError, match="Evil cannot be kept"):
        packed.pack({"a": Evil()})


def test_an_optimizer_file_of_nonsense_is_told(tmp_path):
    folder = checkpoint.save(tmp_path, PARTS, STATE, keep=1)
    for text in (
        DEEP,
        "1" * 5000,
        '{"tensor": ["7", []]}',
        '{"tensor": ["0", [0]]}',
        '{"tensor": ["0", [10]]}',
        '{"a": 1, "b": 2}',
        '{"dict": 3}',
        '{"exec": []}',
    ):
        save_file({"0": torch.ones(2)}, folder / "optimizer.safetensors", metadata={"packed": text})
        with pytest.raises(ConfigError, match="optimizer.safetensors is damaged.*delete this checkpoint"):
            checkpoint.load(folder)


@pytest.mark.parametrize(
    "text", [DEEP, "[]", "{", '{"step": "1"}', '{"step": 1e400}', '{"step": -1}', '{"step": 1, "config": 3}',
             '{"step": true}', '{"step": 1, "best": {"step": 1, "validation": NaN}}', '{"step": 1, "best": [1]}']
)  # fmt: skip
def test_a_state_of_nonsense_is_told(tmp_path, text):
    folder = checkpoint.save(tmp_path, PARTS, STATE, keep=1)
    (folder / "state.json").write_text(text)
    with pytest.raises(ConfigError, match="state.json .*delete this checkpoint's folder"):
        checkpoint.read_state(folder)
    (tmp_path / "best.json").write_text(text)
    if text in (DEEP, "[]", "{") or "NaN" in text:
        with pytest.raises(ConfigError, match="best.json"):
            checkpoint.best(tmp_path)
    else:
        assert checkpoint.best(tmp_path) in (None, folder)


def test_the_best_checkpoint_lies_in_the_run(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "best.json").write_text(json.dumps({"checkpoint": "../elsewhere"}))
    assert checkpoint.best(tmp_path / "run") is None


def test_configurations_of_nonsense_are_told(tmp_path):
    with pytest.raises(ConfigError, match="does not say its \\[model\\] section"):
        check_same_run(configuration.build(SMALL), {}, tmp_path, {"config": {"model": [1]}})
    for text in (DEEP, "[]", '{"config": 1}', '{"config": {"run": 3}}'):
        (tmp_path / "state.json").write_text(text)
        with pytest.raises(ConfigError, match="state.json"):
            convert.run_config(tmp_path)
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n{"loss": 1}\n')
    with pytest.raises(ConfigError, match="log.jsonl has lines.*move it away"):
        trim(tmp_path / "log.jsonl", 3)
    for text in ("a = " + "[" * 100_000, "\x00", "[optimizer]\nlr = nan", "[optimizer]\nlr = inf"):
        (tmp_path / "a.toml").write_text(text)
        with pytest.raises(ConfigError):
            configuration.load(str(tmp_path / "a.toml"))


# -- pickles -----------------------------------------------------------------------------------------------------------


def test_deepspeed_checkpoints_are_not_read_unless_trusted(tmp_path, monkeypatch):
    folder = tmp_path / "step-00000001"
    (folder / "pytorch_model").mkdir(parents=True)
    (folder / "pytorch_model" / "zero_pp_rank_0_mp_rank_00_optim_states.pt").write_bytes(pickle.dumps(Evil()))
    (folder / "latest").write_text("pytorch_model")
    with pytest.raises(ConfigError, match="pickles, which can run any program.*--trust.*\\.safetensors"):
        convert.weights(folder, averaged=True)
    config = configuration.build(SMALL | {"optimizer": {"ema": 0.0}, "system": {"deepspeed": "zero2"}})
    run = Run(config, *[None] * 11)
    with pytest.raises(ConfigError, match="--system.trust_checkpoint true.*somebody gave you"):
        run.resume(folder)


@pytest.mark.parametrize("version", ["2.9.1", "2.5.0+cu121", "1.13.1"])
def test_an_old_torch_reads_safetensors_only(tmp_path, monkeypatch, version):
    torch.save({"weight": torch.ones(2)}, tmp_path / "a.pth")
    save_file({"weight": torch.ones(2)}, tmp_path / "a.safetensors")
    assert list(checkpoint.read_tensors(tmp_path / "a.pth")[0]) == ["weight"]
    monkeypatch.setattr(weight_files.torch, "__version__", version)
    with pytest.raises(
        ConfigError, match=f"{version.split('+')[0]}.*Use the .safetensors version.*update torch to 2.10"
    ):
        checkpoint.read_tensors(tmp_path / "a.pth")
    assert list(checkpoint.read_tensors(tmp_path / "a.safetensors")[0]) == ["weight"]


@pytest.mark.parametrize("value", [Evil(), [1, 2], torch.ones(3), {"state_dict": 3}, {"a": Evil()}])
def test_files_that_hold_something_else_are_told(tmp_path, value):
    torch.save(value, tmp_path / "a.pth")
    if value == {"state_dict": 3}:
        assert checkpoint.read_tensors(tmp_path / "a.pth")[0] == {}
        return
    with pytest.raises(ConfigError, match="a.pth (is not a plain tensor file|holds a)"):
        checkpoint.read_tensors(tmp_path / "a.pth")
