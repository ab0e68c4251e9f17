"""Learning rates by step and by part, and the length of a run in epochs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from trainer import config as configuration
from trainer.config import ConfigError, Optimizer
from trainer.models import checkpoint
from trainer.run import loop
from trainer.run.schedules import learning_rate, parameter_groups


def rates(steps=(10, 35, 60, 85, 110), **settings) -> list[float]:
    """Of a run of 110 steps, 10 of them warm-up, from 1 to 0; by default at quarters of the decay."""
    optimizer = Optimizer(lr=1.0, warmup=10, lowest_lr=0.0, **settings)
    return [learning_rate(optimizer, step, 110) for step in steps]


def test_shapes():
    assert rates(decay="constant") == [1, 1, 1, 1, 1]
    assert rates(decay="linear") == pytest.approx([1, 0.75, 0.5, 0.25, 0])
    assert rates(decay="polynomial") == pytest.approx([1, 0.75**2, 0.25, 0.25**2, 0])
    assert rates(decay="polynomial", power=1.0) == pytest.approx(rates(decay="linear"))
    assert rates(decay="rex") == pytest.approx([1, 0.75 / 0.875, 0.5 / 0.75, 0.25 / 0.625, 0])
    assert rates(decay="cosine") == pytest.approx([1, 0.5 + 0.5**1.5, 0.5, 0.5 - 0.5**1.5, 0])
    assert rates(decay="cosine_restarts") == pytest.approx([1, 0.5, 1, 0.5, 0])
    assert rates(decay="cosine_restarts", cycles=1) == pytest.approx(rates(decay="cosine"))


@pytest.mark.parametrize("decay", ["cosine", "cosine_restarts", "linear", "polynomial", "rex"])
def test_a_decay_ends_at_a_hundredth_of_the_peak(decay):
    optimizer = Optimizer(lr=1e-3, decay=decay)
    assert learning_rate(optimizer, 0, 50) == pytest.approx(1e-3) and learning_rate(optimizer, 50, 50) == pytest.approx(
        1e-5
    )


def test_parts_by_the_first_beginning_that_fits():
    parameters = {name: torch.nn.Parameter(torch.ones(1)) for name in ("a.x.w", "a.y.w", "b.w")}
    groups = parameter_groups(parameters, Optimizer(rates=("a.x=0.5", "a.=2")))
    assert [(len(group["params"]), group["share"]) for group in groups] == [(1, 0.5), (1, 2.0), (1, 1.0)]
    assert [group["share"] for group in parameter_groups(parameters, Optimizer())] == [1.0]
    with pytest.raises(ConfigError, match="no trained parameter begins with 'c'; they begin with a., b."):
        parameter_groups(parameters, Optimizer(rates=("c=1",)))


@pytest.mark.parametrize("rate", ["a", "a=", "=1", "a=-1", "a=nan", "a=inf"])
def test_rates_of_nonsense(rate):
    with pytest.raises(ConfigError, match="optimizer.rates holds"):
        Optimizer(rates=(rate,))


def test_a_part_that_rests_rests_and_the_run_resumes_exactly(values, tmp_path):
    """Rate 0 without weight decay leaves a part as it is; 2 + 2 steps of two parts are 4."""
    values["optimizer"] |= {"rates": ["control_encoder.=0"], "weight_decay": 0.0, "decay": "constant", "ema": 0.0}

    def train(name: str, steps: int, **optimizer) -> dict[str, torch.Tensor]:
        run = values["run"] | {"output": str(tmp_path / name), "steps": steps}
        changed = values | {"run": run, "optimizer": values["optimizer"] | optimizer}
        return checkpoint.read_tensors(loop.train(configuration.build(changed)))[0]

    whole, one = train("whole", 4), train("broken", 2)
    again = train("broken", 4)
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    resting = [name for name in whole if name.startswith("control_encoder.")]
    assert resting and all(torch.equal(whole[name], one[name]) for name in resting)
    with pytest.raises(ConfigError, match=r"optimizer.rates = \['control_encoder.=0'\], not \[\]"):
        train("broken", 5, rates=[])
    train("broken", 5, rates=["control_encoder.=0.1"])


def test_a_run_is_as_long_as_its_epochs(values):
    """Eight pictures, batches of 2 in 2 micro steps: two steps are an epoch."""
    values["run"] |= {"epochs": 1.5, "steps": 100}
    values["optimizer"]["accumulate"] = 2
    output = loop.train(configuration.build(values)).parent
    assert [folder.name for folder in checkpoint.folders(output)] == ["step-00000003"]
    assert json.loads(Path(output, "config.json").read_text())["run"]["steps"] == 3
