"""The fused backward pass: the plain loop's numbers to the bit, fewer gradients at a time, exact resume, refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from trainer import config as configuration
from trainer.config import ConfigError, Optimizer
from trainer.models import checkpoint
from trainer.run import checks, loop, memory, prepare
from trainer.run.fused import FusedBackward
from trainer.stages import table
from trainer.stages.table import build_stage


def train(values: dict, **changes: dict) -> Path:
    """Train with some keys changed."""
    merged = {section: {**content, **changes.get(section, {})} for section, content in values.items()}
    return loop.train(configuration.build(merged))


@pytest.fixture
def fused(values) -> dict:
    """Values of a run of six steps that does without all gradients together."""
    values["optimizer"] |= {"clip": 0.0, "fused_backward_pass": True}
    return values


@pytest.mark.parametrize("kind", ["adamw", "adafactor"])
def test_weights_are_those_of_the_plain_loop(fused, tmp_path, kind):
    """To the bit, with the optimiser's state and the average; the reported norms agree."""
    values = fused | {"system": {"precision": "fp32", "gradient_checkpointing": True}}
    both = [
        train(
            values,
            run={"output": str(tmp_path / name)},
            optimizer={"kind": kind, "fused_backward_pass": name == "fused"},
        ).parent
        for name in ("fused", "plain")
    ]
    (_, ours, _), (_, theirs, _) = (checkpoint.load(checkpoint.folders(folder)[-1]) for folder in both)
    for part in ("model", "ema"):
        assert all(torch.equal(ours[part][key], theirs[part][key]) for key in ours[part])
    states = ours["optimizer"]["state"], theirs["optimizer"]["state"]
    assert states[0].keys() == states[1].keys() and len(states[0]) > 100
    for number, state in states[0].items():
        assert all(
            torch.equal(torch.as_tensor(value), torch.as_tensor(states[1][number][k])) for k, value in state.items()
        )
    norms = [
        [json.loads(line)["grad_norm"] for line in (folder / "log.jsonl").read_text().splitlines()] for folder in both
    ]
    assert norms[0] == pytest.approx(norms[1], rel=1e-4) and min(norms[0]) > 0


def test_every_group_has_its_own_settings():
    """As optimizer.rates makes them: one rate of learning for each part of a model."""
    found = []
    for fused in (True, False):
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
        groups = [{"params": list(layer.parameters()), "lr": lr} for layer, lr in zip(net, (0.1, 0.001), strict=True)]
        optimizer = torch.optim.AdamW(groups)
        step = FusedBackward(optimizer) if fused else None
        for _ in range(3):
            net(torch.ones(2, 3)).square().sum().backward()
            if step is None:
                optimizer.step()
                optimizer.zero_grad()
        found.append([p.detach() for p in net.parameters()])
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*found, strict=True))


def test_fewer_gradients_live_at_a_time(fused):
    """Counted while a step of a real stage goes backwards: at most one, where the plain loop has all."""
    values = fused | {"run": fused["run"] | {"steps": 1}}
    peaks = {}
    for name in ("fused", "plain"):
        config = configuration.build(
            values
            | {"run": values["run"] | {"output": fused["run"]["output"] + name}}
            | {"optimizer": values["optimizer"] | {"fused_backward_pass": False}}
        )
        run = prepare.prepare(config)
        sizes: list[int] = []

        def count(parameter: torch.Tensor, run=run, sizes=sizes) -> None:
            sizes.append(sum(p.grad.nbytes for p in run.parameters.values() if p.grad is not None))

        for parameter in run.parameters.values():
            parameter.register_post_accumulate_grad_hook(count)
        step = FusedBackward(run.optimizer.optimizer) if name == "fused" else None
        sum(run.losses(next(run.batches), 0, 0).values()).backward()
        assert (step is None) == any(p.grad is not None for p in run.parameters.values())
        peaks[name] = max(sizes)
    largest = max(p.nbytes for p in run.parameters.values())
    assert peaks["fused"] == largest < 0.2 * peaks["plain"]


def test_three_and_three_steps_are_six_whichever_way_they_are_made(fused, tmp_path):
    """A run may change to the fused pass and back: it is the same run."""
    fused["optimizer"]["decay"] = "constant"
    straight = train(fused, run={"output": str(tmp_path / "straight")})
    train(fused, run={"output": str(tmp_path / "broken"), "steps": 3})
    broken = train(fused, run={"output": str(tmp_path / "broken")}, optimizer={"fused_backward_pass": False})
    ours, theirs = (checkpoint.read_tensors(file)[0] for file in (straight, broken))
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_a_resumed_run_follows_its_schedule(fused, tmp_path):
    """Loading an optimiser's state makes its groups anew; what was kept of the old ones had the first learning rate."""
    fused["report"]["save_every"] = 3
    straight = train(fused, run={"output": str(tmp_path / "straight")})
    broken = train(fused, run={"output": str(tmp_path / "broken")})
    shutil.rmtree(checkpoint.folders(broken.parent)[-1])
    train(fused, run={"output": str(tmp_path / "broken")})
    ours, theirs = (checkpoint.read_tensors(file)[0] for file in (straight, broken))
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_an_error_in_the_backward_pass_saves_no_half_step(fused, monkeypatch):
    """Weights are of no step while it runs: only the checkpoint before is left."""
    fused["report"]["save_every"] = 2
    calls = []

    def step(self, number: int, parameter: torch.Tensor) -> None:
        calls.append(parameter)
        if len(calls) > 1000:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        before(self, number, parameter)

    before = FusedBackward._step
    monkeypatch.setattr(FusedBackward, "_step", step)
    with pytest.raises(Exception, match="not enough memory"):
        train(fused)
    steps = [folder.name for folder in checkpoint.folders(Path(fused["run"]["output"]))]
    assert len(calls) > 1000 and all(int(name[-1]) % 2 == 0 for name in steps)


def test_the_estimate_has_one_gradient_and_the_next(fused):
    told = {}
    for on in (True, False):
        config = configuration.build(fused | {"optimizer": fused["optimizer"] | {"fused_backward_pass": on}})
        cost = table.row(config).cost(config)
        trained = sum(cost.trained.values())
        told[on] = memory.estimate(config, trained, cost.frozen_bytes, cost.activations, largest=cost.largest)
    stage = build_stage(config, torch.device("meta"))
    assert told[True].gradients == 2 * max(p.nbytes for p in stage.parameters())
    assert told[False].gradients == told[True].weights == sum(p.nbytes for p in stage.parameters())


def test_what_does_not_go_with_it(fused, monkeypatch):
    on = {"fused_backward_pass": True}
    cases = [
        ({"accumulate": 2, "clip": 0.0}, "set optimizer.accumulate = 1"),
        ({}, "set optimizer.clip = 0"),
        ({"clip": 0.0, "kind": "prodigy", "lr": 1.0}, 'set it to "adamw" or "adamw8bit" or "adafactor"'),
        ({"clip": 0.0, "kind": "schedule_free"}, "counts a step for all parameters together"),
    ]
    for settings, words in cases:
        with pytest.raises(ConfigError, match=words):
            Optimizer(**on, **settings)
    for system, words in (
        ({"deepspeed": "zero2"}, "set optimizer.fused_backward_pass = false, or system.deepspeed"),
        ({"precision": "fp16"}, "fp16's scaler .* set system.precision = 'bf16'"),
    ):
        with pytest.raises(ConfigError, match=words):
            configuration.build(fused | {"optimizer": {"clip": 0.0, "batch": 2, **on}, "system": system})
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="start one process, or set optimizer.fused_backward_pass = false"):
        checks.check_machine(configuration.build(fused))
