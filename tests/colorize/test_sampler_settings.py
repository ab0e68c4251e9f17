"""How a model is best sampled: what its file says, what its family wants, and nothing that cannot be meant."""

import json
from dataclasses import asdict

import pytest

from colorize import families, names, sampler_settings
from colorize.distilled import Distilled
from colorize.sampler_settings import PAPER, PAPER_XL, SMALL, SamplerSettings
from tests import tiny

OWN = SamplerSettings("uni_pc", "beta", 6, 2.5)


def test_a_files_word_comes_before_its_familys():
    tensors = tiny.checkpoint_v1_5()
    assert families.detect(tensors, tiny.METADATA_V1_5).sampler == SMALL
    assert families.detect(tensors, tiny.METADATA_V1_5 | OWN.header()).sampler == OWN
    student = Distilled(2, 2.0)
    told = families.detect(tensors, tiny.METADATA_V1_5 | OWN.header() | student.header()).sampler
    assert told == student.settings == SamplerSettings("euler", "simple", 2, 1.0)


@pytest.mark.parametrize(
    ("name", "width", "wanted"),
    [("v1", 64, SMALL), ("xl", 64, SMALL), ("v1", 320, PAPER), ("v2", 320, PAPER), ("xl-plugin", 320, PAPER_XL)],
)
def test_by_family(name, width, wanted):
    assert families.Family(name, "", "v", "choice", width, 1024, 64).sampler == wanted


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "4 steps",
        "[1]",
        "null",
        "[" * 100_000,
        json.dumps(asdict(OWN) | {"steps": 0}),
        json.dumps(asdict(OWN) | {"steps": 10**400}),
        json.dumps(asdict(OWN) | {"steps": None}),
        json.dumps(asdict(OWN) | {"cfg": float("nan")}),
        json.dumps(asdict(OWN) | {"cfg": 1e9}),
        json.dumps(asdict(OWN) | {"sampler": "<b>euler</b>"}),
        json.dumps(asdict(OWN) | {"scheduler": "x" * 41}),
        json.dumps(asdict(OWN) | {"scheduler": ["simple"]}),
    ],
)
def test_what_cannot_be_meant_is_not_said(text):
    assert sampler_settings.read(text) is None
    assert sampler_settings.stated({names.SAMPLER_FACTS: text} if text is not None else {}) is None


@pytest.mark.comfyui
def test_comfyui_knows_the_names(pack):
    import comfy.samplers

    for settings in (SMALL, PAPER, PAPER_XL, Distilled(2, 2.0).settings):
        assert settings.sampler in comfy.samplers.KSampler.SAMPLERS
        assert settings.scheduler in comfy.samplers.KSampler.SCHEDULERS
