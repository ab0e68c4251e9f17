"""Validation during a run: fixed draws, noise levels, the best checkpoint, and presets that use what a run can do."""

import json

import pytest
import torch

from trainer import config as configuration
from trainer.__main__ import main
from trainer.commands.convert import find_checkpoint
from trainer.models import checkpoint
from trainer.run import datasets, loop
from trainer.run.validation import Validation
from trainer.stages.table import build_stage


class Numbers(torch.utils.data.Dataset):
    """Sample n is the number n."""

    def __getitem__(self, position):
        return {"value": torch.tensor(float(position)), "index": position}


class Toy:
    """A stage whose loss is its samples' numbers, times the share of the schedule they were asked in."""

    def __init__(self):
        self.seen = []

    def __call__(self, batch, draws, progress):
        t = draws.timesteps(1000, len(batch["value"]))
        noise = draws.randn((len(t), 2)).mean(1)
        self.seen += zip(batch["index"].tolist(), t.tolist(), strict=True)
        assert progress == 1.0
        return {"loss": (batch["value"] * t / 1000 + noise).mean()}

    def curves(self, batch, draws):
        return {"pictures": float(len(batch["value"]))}


def test_a_validation_does_not_depend_on_batches_or_processes():
    cpu, results = torch.device("cpu"), []
    for batch in (1, 4, 7):
        stage = Toy()
        results.append(Validation(Numbers(), 7, 5, batch).run(stage, cpu))
        assert results[-1].pop("pictures") == min(max(batch, 2), 7)
        assert sorted({-1 - index for index, _ in stage.seen}) == list(range(7))
        assert sorted(t // 200 for _, t in stage.seen) == sorted(list(range(5)) * 7)  # each once in each part
    sums = []
    shared = [Validation(Numbers(), 7, 5, 2, rank, 2).run(Toy(), cpu, lambda s: sums.append(s) or s) for rank in (0, 1)]
    assert len(shared) == 2
    means = dict(zip(["validation_loss", "validation_t0", "validation"], (sums[0] + sums[1])[:3] / 7, strict=True))
    for result in results:
        assert result == pytest.approx(results[0], abs=1e-6)
        assert {name: result[name] for name in means} == pytest.approx(
            {n: float(v) for n, v in means.items()}, abs=1e-6
        )
    assert results[0]["validation"] == pytest.approx(sum(results[0][f"validation_t{part}"] for part in range(5)) / 5)


def test_the_best_checkpoint_stays_and_converts(values, pictures, tmp_path, monkeypatch):
    """Worse validations after the first: its checkpoint outlives the newest ones and a resume, and can be asked for."""
    losses = iter([0.5, 0.9, 0.7, 0.8])
    real = Validation.run
    monkeypatch.setattr(Validation, "run", lambda *arguments: real(*arguments) | {"validation": next(losses)})
    values["data"] |= {"holdout": str(pictures)}
    values["run"] |= {"steps": 3}
    values["report"] |= {"validate_every": 1, "validate_count": 2, "validate_bins": 2, "save_every": 1, "keep": 1}
    output = loop.train(configuration.build(values)).parent
    assert [folder.name for folder in checkpoint.folders(output)] == ["step-00000001", "step-00000003"]
    values["run"] |= {"steps": 4}
    loop.train(configuration.build(values))
    assert [folder.name for folder in checkpoint.folders(output)] == ["step-00000001", "step-00000004"]
    assert json.loads((output / "best.json").read_text()) == {
        "checkpoint": "step-00000001", "step": 1, "validation": 0.5}  # fmt: skip
    lines = [json.loads(line) for line in (output / "validation.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert {"validation", "validation_denoising", "validation_t0", "validation_t1"} <= lines[0].keys()
    assert find_checkpoint(output, best=True) == output / "step-00000001"
    assert main(["convert", str(output), "--best", "--output", str(tmp_path / "best.safetensors")]) == 0


def test_a_validation_that_is_not_a_number_is_never_the_best(values, pictures, monkeypatch):
    """Regression: nothing is smaller than nan, so that no later validation could become the best."""
    losses = iter([float("nan"), 0.5])
    real = Validation.run
    monkeypatch.setattr(Validation, "run", lambda *arguments: real(*arguments) | {"validation": next(losses)})
    values["data"] |= {"holdout": str(pictures)}
    values["run"] |= {"steps": 2}
    values["report"] |= {"validate_every": 1, "validate_count": 2, "validate_bins": 1}
    output = loop.train(configuration.build(values)).parent
    assert json.loads((output / "best.json").read_text())["step"] == 2


@pytest.mark.parametrize("stage", ["v1", "v1_5"])
def test_entanglement_is_a_curve_of_the_validation(values, pictures, v1_file, stage):
    """Off: nothing is sampled. On: the meter's numbers, the same at every validation of the same weights."""
    values["run"] |= {"stage": stage}
    if stage == "v1_5":
        values["model"] |= {"init": v1_file}
        values["loss"] |= {"latent_shuffle": 0.0, "noisy_reference": 0.0}
    values["data"] |= {"holdout": str(pictures)}
    values["report"] |= {"validate_every": 1, "validate_count": 4, "validate_bins": 1}
    found = []
    for asked in (False, True, True):
        values["report"] |= {"validate_entanglement": asked}
        config, cpu = configuration.build(values), torch.device("cpu")
        torch.manual_seed(0)
        found.append(datasets.held_out_samples(config, 0, 1).run(build_stage(config, cpu), cpu))
    names = {"entanglement", "structure", "leakage"}
    assert not names & found[0].keys() and names <= found[1].keys() and found[1] == found[2]
    assert found[1]["entanglement"] == pytest.approx(found[1]["structure"] + found[1]["leakage"])
    assert {k: v for k, v in found[1].items() if k not in names} == found[0]


def test_convert_says_when_nothing_was_validated(tmp_path, capsys):
    (tmp_path / "step-00000001").mkdir()
    assert main(["convert", str(tmp_path), "--best", "--output", str(tmp_path / "x.safetensors")]) == 2
    assert "no validated checkpoint" in capsys.readouterr().err


def test_validation_without_held_out_pictures_is_refused(values):
    values["report"] |= {"validate_every": 1}
    with pytest.raises(configuration.ConfigError, match="set data.holdout"):
        configuration.build(values)


def test_my_character_trains_region_weights_only(values, tmp_path):
    """The preset as it is, but for paths, sizes and speed: the exported file holds the v1 model it began with."""
    values["system"] |= {"precision": "bf16"}  # of both runs: accelerate keeps one precision per process
    init = loop.train(configuration.build(values | {"run": values["run"] | {"steps": 1}}))
    preset = configuration.load("my-character-16gb")
    changed = {
        "run": {"output": str(tmp_path / "mine"), "steps": 2},
        "model": {"init": str(init), "encoder": values["model"]["encoder"], "recovery_layers": 2},
        "data": {"folder": values["data"]["folder"], "size": 64},
        "report": {"sample_every": 0},
    }
    everything = {section: {**content, **changed.get(section, {})} for section, content in preset.to_dict().items()}
    exported = loop.train(configuration.build(everything))
    before, after = (checkpoint.read_tensors(file)[0] for file in (init, exported))
    assert all(torch.equal(before[name], after[name]) for name in before)
    new = after.keys() - before.keys()
    assert new and all(name.startswith(("transformer.", "thresh_embedder.")) or ".lora_" in name for name in new)
    assert preset.data.cache and preset.optimizer.batch * preset.optimizer.accumulate == 4
