"""bf16 on a computer without its instructions: a run that somebody starts there has to end one day."""

from __future__ import annotations

import json
import logging

import pytest
import torch

from trainer import __main__ as command
from trainer.config import load
from trainer.models import precision
from trainer.models.precision import for_device, on_device, quick

CPU = torch.device("cpu")


@pytest.fixture
def without(monkeypatch):
    """A processor without bf16."""
    monkeypatch.setattr(precision, "quick", lambda name, device: name != "bf16")


def test_the_processor_is_asked():
    assert quick("bf16", CPU) == torch.ops.mkldnn._is_mkldnn_bf16_supported()
    assert quick("fp32", CPU) and quick("fp16", CPU)


def test_a_processor_without_bf16_computes_in_fp32_and_says_so(without, caplog):
    with caplog.at_level(logging.WARNING):
        assert for_device("bf16", CPU) == "fp32"
    assert "no instructions for bf16" in caplog.text
    caplog.clear()
    assert for_device("fp32", CPU) == "fp32"
    assert not caplog.text


def test_one_with_bf16_keeps_it(monkeypatch, caplog):
    monkeypatch.setattr(precision, "quick", lambda name, device: True)
    config = load("demo-v1")
    assert config.system.precision == "bf16"
    assert on_device(config, CPU) is config
    assert not caplog.text


def test_a_gpu_without_bf16_is_told_and_left_as_it_is(without, caplog):
    assert for_device("bf16", torch.device("cuda")) == "bf16"
    assert "fp16" in caplog.text


def test_frozen_weights_follow(without):
    config = load("my-character-lora-16gb", ["--adapter.frozen", "bf16"])
    changed = on_device(config, CPU)
    assert (changed.system.precision, changed.adapter.frozen) == ("fp32", "fp32")
    assert changed.optimizer == config.optimizer


def test_a_run_begins_with_it_and_a_dry_run_counts_as_configured(without, monkeypatch, capsys):
    begun = []
    monkeypatch.setattr("trainer.run.loop.train", lambda config: begun.append(config) or "FILE")
    monkeypatch.setattr("trainer.commands.dry_run.run", begun.append)
    assert command.main(["train", "--config", "demo-animediffusion"]) == 0
    assert command.main(["train", "--config", "demo-animediffusion", "--dry-run"]) == 0
    assert [config.system.precision for config in begun] == ["fp32", "bf16"]
    assert json.loads(capsys.readouterr().out.split("exported")[0])["system"]["precision"] == "fp32"
