"""The runner itself: it reads sizes from the files, it notices what is wrong, and it says what it did not do."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from tests.golden import __main__ as command
from tests.golden import files, needs, registry, remake, runner
from tests.golden import weights as recipes


@pytest.fixture(scope="module")
def remade(tmp_path_factory):
    """A folder of cases with other seeds and sizes, from the literal transcriptions."""
    folder = tmp_path_factory.mktemp("remade")
    remake.everything(folder)
    return folder


def change(path, output, amount):
    """Add `amount` to the first value of one recorded output."""
    with safe_open(path, "pt") as file:
        tensors, metadata = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()
    tensors[f"outputs.{output}"].view(-1)[0] += amount
    save_file(tensors, path, metadata=metadata)


def test_other_seeds_and_sizes_torch(remade, capsys):
    assert command.main([str(remade), "--side", "torch"]) == 0
    printed = capsys.readouterr().out
    for row in ("cfg ", "clip_tiny ", "multi_encoder ", "training_losses ", "unet_v1 "):
        assert any(line.startswith(row) and line.rstrip().endswith("ok") for line in printed.splitlines()), printed


@pytest.mark.comfyui
def test_other_seeds_and_sizes_comfy(remade):
    needs.comfyui()
    outcomes, unknown, remarks = runner.run_folder(remade, sides=("comfy",))
    assert {outcome.case for outcome in outcomes} == {"cfg", "multi_encoder", "unet_v1"}
    assert all(outcome.passed for outcome in outcomes), runner.notes(outcomes)
    assert not unknown and not remarks


def test_a_wrong_number_is_found(tmp_path, capsys):
    remake.training_losses(tmp_path)
    change(tmp_path / "training_losses.safetensors", "v.plain.loss", 1e-3)
    assert command.main([str(tmp_path), "--side", "torch"]) == 1
    assert "v.plain.loss: off by 0.001" in capsys.readouterr().out


def test_a_wrong_weight_is_found(tmp_path, capsys):
    remake.multi_encoder(tmp_path)
    path = tmp_path / "multi_encoder.safetensors"
    with safe_open(path, "pt") as file:
        tensors, metadata = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()
    config = json.loads(metadata["config"])
    config["weights"]["seed"] += 1
    save_file(tensors, path, metadata={**metadata, "config": json.dumps(config)})
    assert command.main([str(tmp_path), "--side", "torch"]) == 1
    assert "weights are not those of the golden file" in capsys.readouterr().out


def test_unknown_cases_are_listed_and_do_not_fail(tmp_path, capsys):
    remake.cfg(tmp_path)
    remake.write(tmp_path / "moon_landing.safetensors", {"description": "?"}, {"outputs.y": torch.zeros(1)})
    assert command.main([str(tmp_path), "--side", "torch"]) == 0
    assert "not yet implemented (1): moon_landing" in capsys.readouterr().out


def test_the_config_names_the_case(tmp_path):
    remake.cfg(tmp_path)
    (tmp_path / "cfg.safetensors").rename(tmp_path / "cfg_seed_9.safetensors")
    outcomes, unknown, _ = runner.run_folder(tmp_path, sides=("torch",))
    assert [outcome.case for outcome in outcomes] == ["cfg_seed_9"] and not unknown


@pytest.mark.parametrize("arguments", (["nowhere"], ["{folder}", "--case", "moon_landing"]))
def test_nothing_to_run(tmp_path, capsys, arguments):
    remake.cfg(tmp_path)
    assert command.main([argument.format(folder=tmp_path) for argument in arguments]) == 2
    assert "no golden file" in capsys.readouterr().err


def test_an_empty_answer_is_no_success(tmp_path):
    remake.write(tmp_path / "ema.safetensors", {}, {"inputs.step0_a": torch.ones(2), "outputs.other": torch.ones(2)})
    (outcome,) = runner.run_side([tmp_path / "ema.safetensors"], "torch")
    assert not outcome.passed


def outcome_of(recorded, answer, tolerance=None):
    golden = files.Golden("x", None, {}, {}, {"y": recorded, "z": recorded}, {})
    outcome = registry.Outcome("x", "torch", total=2)
    check = registry.Check(golden, outcome, tolerance or registry.Tolerance())
    check("y", answer)
    check.skip("z*", "a reason")
    check.finish()
    return outcome


def test_comparison():
    ones = torch.ones(3)
    assert outcome_of(ones, ones + 5e-5).passed
    assert not outcome_of(ones, ones + 2e-4).passed
    assert outcome_of(ones * 100, ones * 100.05, registry.Tolerance(1e-4, 1e-3)).passed
    assert not outcome_of(ones, torch.ones(3, 1)).passed
    assert not outcome_of(ones, ones * float("nan")).passed
    assert outcome_of(ones, ones).skipped == {"z": "a reason"}
    partial = runner.table([outcome_of(ones, ones)]).splitlines()[-1]
    assert "1/2" in partial and partial.endswith("ok (partial)")


def test_the_two_recipes():
    """First numbers of both generators, as recorded when the readers were checked against all golden files."""
    expected = [-0.1418057680130005, -0.7309566736221313, -0.04577457904815674]
    assert recipes.stream("conv.weight", 3, 11).tolist() == expected
    shapes = {"b.weight": [2, 3], "a.bias": [4], "a.running_var": [4], "a.num_batches_tracked": []}
    drawn = recipes.numbered_weights(shapes, 1, 1.0)
    assert drawn["a.num_batches_tracked"].dtype == torch.int64
    assert (drawn["a.running_var"] >= 1).all()
    # The keys are numbered in sorted order: a.bias 0, a.num_batches_tracked 1, a.running_var 2, b.weight 3.
    again = recipes.numbered_weights({"b.weight": [2, 3]}, 4, 1.0)
    assert torch.equal(drawn["b.weight"], again["b.weight"])
