"""Huber's loss against torch's, and that every stage which has the key hands it on."""

from __future__ import annotations

import pytest
import torch

from trainer import config as configuration
from trainer.config import ConfigError
from trainer.draws import Draws
from trainer.losses.diffusion import denoising_loss, huber_error
from trainer.stages import table

from .xl_runs import first_batch, regions_of


def test_twice_hubers_function_and_squares_where_small():
    difference = torch.linspace(-3, 3, 61)
    for delta in (0.1, 1.0):
        theirs = torch.nn.functional.huber_loss(difference, torch.zeros(61), reduction="none", delta=delta)
        assert torch.allclose(huber_error(difference, delta), 2 * theirs, atol=1e-6)
    assert torch.equal(huber_error(difference, 3.0), difference**2)
    assert torch.equal(huber_error(difference, 0.0), difference**2)


def test_weights_and_masks_stay():
    answer, wanted = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    weight, mask = torch.tensor([0.5, 2.0]), torch.ones(2, 1, 8, 8)
    for options in ({}, {"weight": weight}, {"mask": mask}):
        assert denoising_loss(answer, wanted, huber=100.0, **options) == denoising_loss(answer, wanted, **options)
        assert denoising_loss(answer, wanted, huber=0.1, **options) < denoising_loss(answer, wanted, **options)


@pytest.fixture
def stage_values(values, xl, backbone, v1_file):
    """stage_values(name) -> configuration of a tiny run of it."""

    def give(name: str) -> dict[str, dict]:
        if name == "v1":
            return values | {"loss": {"dual_condition": 4.0}}
        if name == "v1_5":
            model = {"encoder": values["model"]["encoder"], "init": v1_file, "recovery_layers": 2}
            return values | {"run": values["run"] | {"stage": "v1_5"}, "model": model, "loss": {}}
        if name == "distill":
            model = {"encoder": values["model"]["encoder"], "init": v1_file}
            return values | {"run": values["run"] | {"stage": "distill"}, "model": model, "loss": {}}
        return xl if name == "xl" else regions_of(xl, backbone, name)

    return give


@pytest.mark.parametrize("name", [name for name, row in table.TABLE.items() if "loss.huber" in row.options])
def test_every_stage_that_has_the_key_reads_it(stage_values, name):
    chosen = stage_values(name)
    losses = []
    for huber in (0.0, 0.01):
        config = configuration.build(chosen | {"loss": chosen["loss"] | {"huber": huber}})
        torch.manual_seed(0)
        stage = table.build_stage(config, torch.device("cpu"))
        losses.append(stage(first_batch(config), Draws(0, 0, range(config.optimizer.batch))))
    terms = {"denoising", "dual", "distillation"} & losses[0].keys()
    assert {"denoising", "distillation"} & terms and all(losses[1][term] < losses[0][term] for term in terms)


def test_stages_of_pixels_do_not_have_it(values):
    changed = values | {"run": values["run"] | {"stage": "vae"}, "loss": {"huber": 0.1}, "model": {}}
    with pytest.raises(ConfigError, match="loss.huber belongs to stages"):
        table.checked(configuration.build(changed))
