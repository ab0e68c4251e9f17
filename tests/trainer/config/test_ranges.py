"""Numbers that cannot be meant are refused by their key before anything is built."""

from __future__ import annotations

import pytest

from trainer.__main__ import main

WRONG = {
    "run.seed": (-1, "run.seed is at least 0, not -1"),
    "model.channel_mult": ([1, 1], r"[model]: channel_mult has 2 levels, but level 2 has attention; give at least 3"),
    "model.num_head_channels": (24, "[model]: Level 0 has 32 channels, which heads of 24 do not divide"),
    "model.model_channels": (0, "model.model_channels is at least 1, not 0"),
    "data.size": (-64, "data.size is at least 1, not -64"),
    "optimizer.batch": (1, "a batch of 1 leaves nothing to normalise there: set data.size or optimizer.batch to more"),
    "optimizer.lr": (-1, "optimizer.lr is at least 0, not -1"),
    "optimizer.ema": (1.5, "optimizer.ema is a decay from 0 up to 1, such as 0.9999, not 1.5"),
    "optimizer.betas": ([0.9], "optimizer.betas are two numbers from 0 up to, not including, 1"),
    "optimizer.weight_decay": (-0.1, "optimizer.weight_decay is at least 0"),
    "system.threads": (-1, "system.threads is at least 0"),
    "report.keep": (-1, "report.keep is at least 0"),
    "report.sample_steps": (0, "report.sample_steps is a number from 1 to 999"),
}


@pytest.mark.parametrize("key", WRONG)
@pytest.mark.parametrize("how", [["--dry-run"], []])
def test_a_number_that_cannot_be_meant(values, write_toml, capsys, key, how):
    """Regression: -1 trained upwards, 1.5 averaged into infinity, others ended in a traceback of torch."""
    section, _, name = key.partition(".")
    value, message = WRONG[key]
    values["model"]["channel_mult"] = [1, 1, 1, 1]
    values[section][name] = value
    assert main(["train", "--config", write_toml(values), *how]) == 2
    assert message in capsys.readouterr().err


def test_two_samples_can_be_normalised_where_one_cannot(values, write_toml):
    values["model"]["channel_mult"] = [1, 1, 1, 1]
    assert main(["train", "--config", write_toml(values), "--dry-run"]) == 0
