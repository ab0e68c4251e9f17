"""Optimisers: they learn, their state survives a checkpoint's format, and what they do not go together with."""

import sys

import pytest
import torch
from torch import nn

from trainer import config as configuration
from trainer.config import ConfigError, Optimizer
from trainer.models import checkpoint, packed
from trainer.run import loop, memory
from trainer.run.optimizers import KINDS, ScheduleFreeAverage, new_optimizer
from trainer.run.schedules import parameter_groups

CPU = torch.device("cpu")
RATES = {"adafactor": 0.1, "lion": 1e-2, "prodigy": 1.0, "dadapt": 1.0}


def optimizer_of(kind: str, layer: nn.Module, **settings) -> torch.optim.Optimizer:
    if KINDS[kind].package:
        pytest.importorskip(KINDS[kind].package)
    chosen = Optimizer(kind=kind, lr=RATES.get(kind, 1e-2), weight_decay=0.0, **settings)
    return new_optimizer(parameter_groups(dict(layer.named_parameters()), chosen), chosen, CPU)


def steps(layer: nn.Module, optimizer: torch.optim.Optimizer, count: int) -> float:
    """The loss of the last of so many steps of a small problem."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(16, 6, generator=generator)
    y = x @ torch.randn(6, 3, generator=generator)
    for _ in range(count):
        loss = (layer(x) - y).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return loss.item()


def new_layer() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(6, 3)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "adamw8bit"])
def test_it_learns_and_goes_on_from_a_checkpoint(kind):
    layer = new_layer()
    optimizer = optimizer_of(kind, layer)
    begin, later = steps(layer, optimizer, 1), steps(layer, optimizer, 60)
    assert later < 0.8 * begin
    other = new_layer()
    other.load_state_dict(layer.state_dict())
    again = optimizer_of(kind, other)
    again.load_state_dict(packed.unpack(*packed.pack(optimizer.state_dict())))
    assert steps(layer, optimizer, 3) == steps(other, again, 3)
    assert torch.equal(layer.weight, other.weight)


def test_fused_adamw_is_adamw():
    results = []
    for fused in (True, False):
        layer = new_layer()
        steps(layer, new_optimizer(layer.parameters(), Optimizer(lr=1e-2, fused=fused), CPU), 3)
        results.append(layer.weight.detach())
    assert torch.allclose(*results, atol=1e-6)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if KINDS[kind].package])
def test_a_missing_package_is_named(kind, monkeypatch):
    monkeypatch.setitem(sys.modules, KINDS[kind].package, None)
    with pytest.raises(ConfigError, match=f"needs the package .*pip install {KINDS[kind].install}"):
        new_optimizer([], Optimizer(kind=kind, lr=1.0), CPU)


def test_the_average_of_schedule_free_is_its_package_s():
    layer = new_layer()
    optimizer = optimizer_of("schedule_free", layer)
    average = ScheduleFreeAverage(dict(layer.named_parameters()), optimizer)
    assert torch.equal(average.shadow["weight"], layer.weight)
    steps(layer, optimizer, 5)
    ours = average.shadow["weight"]
    optimizer.eval()
    assert torch.equal(ours, layer.weight)


def test_a_run_without_a_schedule(values, tmp_path):
    """Resumed to the bit; what is exported, sampled and converted is the average."""
    pytest.importorskip("pytorch_optimizer")
    values["optimizer"] = {"kind": "schedule_free", "lr": 1e-3, "batch": 2, "warmup": 2}

    def train(**run):
        return loop.train(configuration.build(values | {"run": values["run"] | run}))

    whole = train(output=str(tmp_path / "straight"), steps=4)
    train(output=str(tmp_path / "broken"), steps=2)
    parts = train(output=str(tmp_path / "broken"), steps=4)
    ours, theirs = (checkpoint.read_tensors(file)[0] for file in (whole, parts))
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    saved = checkpoint.load(checkpoint.folders(parts.parent)[-1])[1]
    moved = [key for key in saved["ema"] if not torch.equal(saved["ema"][key], saved["model"][key])]
    assert moved and all(torch.equal(saved["ema"][key], theirs[key]) for key in moved)
    values["optimizer"] = {"lr": 1e-3, "batch": 2}
    with pytest.raises(ConfigError, match="holds a run with optimizer.kind = 'schedule_free'"):
        train(output=str(tmp_path / "broken"), steps=4)


def test_what_does_not_go_together():
    cases = [
        ({"kind": "prodigy"}, "optimizer.lr is a factor on it: set 1, not 1e-05"),
        ({"kind": "dadapt", "lr": 1.0, "rates": ("proj.=0.5",)}, "one learning rate for all parts"),
        ({"kind": "schedule_free", "ema": 0.9}, "set optimizer.ema = 0"),
        ({"kind": "schedule_free", "decay": "cosine"}, 'optimizer.decay = "constant"'),
        ({"kind": "schedule_free", "betas": (0.0, 0.9)}, "above 0 in optimizer.betas"),
    ]
    for settings, words in cases:
        with pytest.raises(ConfigError, match=words):
            Optimizer(**settings)


def test_the_memory_of_their_states(values):
    values["optimizer"] = {"batch": 2}
    sizes = {}
    for kind in KINDS:
        values["optimizer"] |= {"kind": kind, "lr": 1.0}
        sizes[kind] = memory.estimate(configuration.build(values), 1000, 0, 0).optimizer
    assert sizes["adafactor"] < sizes["lion"] < sizes["adamw"] == sizes["schedule_free"] < sizes["prodigy"]
    with pytest.raises(ConfigError, match="deepspeed shards the states of AdamW: set optimizer.kind = .adamw."):
        values["optimizer"] |= {"kind": "lion"}
        configuration.build(values | {"system": {"deepspeed": "zero2"}})
