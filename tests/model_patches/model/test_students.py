"""Students inside ComfyUI: the mark in files and LoRAs, what is saved again, and what a run with cfg is told."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from colorize import distilled, names
from colorize.distilled import Distilled
from colorize.sampling.schedule import NoiseSchedule
from tests import tiny
from trainer.models.low_rank import lora_header, low_rank_difference

MARK = names.UNET + names.DISTILLED
FACTS = Distilled(2, 2.5)


@pytest.fixture(scope="module")
def learned(tiny_weights) -> dict[str, torch.Tensor]:
    """The tiny checkpoint after something was learned: every weight of its U-Net has moved a little."""
    generator = torch.Generator().manual_seed(7)
    moved = {
        key: value + 0.02 * torch.randn(value.shape, generator=generator) if key.startswith(names.UNET) else value
        for key, value in tiny_weights.items()
    }
    return {**tiny_weights, **moved}


@pytest.fixture(scope="module")
def student_file(folders, learned) -> str:
    """Name of a whole student in models/checkpoints."""
    save_file(
        learned | FACTS.marker(), folders.checkpoints / "student.safetensors", metadata=tiny.METADATA | FACTS.header()
    )
    return "student.safetensors"


@pytest.fixture(scope="module")
def lora_file(folders, tiny_weights, learned) -> str:
    """Name of the same in models/loras, of a rank at which nothing is lost."""
    before, after = (
        {key.removeprefix(names.UNET): value for key, value in weights.items() if key.startswith(names.UNET)}
        for weights in (tiny_weights, learned)
    )
    lora = low_rank_difference(before, after, 4096, torch.float32) | FACTS.lora_marker()
    save_file(lora, folders.loras / "student_lora.safetensors", metadata=lora_header("x", 4096))
    return "student_lora.safetensors"


def loaded_from(pack, name):
    parts = pack.run("ColorizeLoadCheckpoint", ckpt_name=name, prediction_type="auto")
    return SimpleNamespace(**dict(zip(("model", "vae", "control_net", "colorizer"), parts, strict=True)))


@pytest.fixture
def student(pack, student_file):
    return loaded_from(pack, student_file)


def with_student(pack, loaded, lora_file):
    """What a loader gave, with the student's LoRA on its model."""
    model = pack.run("LoraLoaderModelOnly", model=loaded.model, lora_name=lora_file, strength_model=1.0)[0]
    return SimpleNamespace(**{**vars(loaded), "model": model})


@pytest.fixture
def with_lora(pack, loaded, lora_file):
    return with_student(pack, loaded, lora_file)


@pytest.fixture
def student_of(pack):
    return pack.module("model_patches.model.students").student_of


def facts(found) -> tuple[int, float] | None:
    """The pack's module and ours are two: compare what they say."""
    return None if found is None else (found.steps, found.guidance)


def test_a_model_says_whether_it_is_a_student(student_of, loaded, student, with_lora, pack, lora_file):
    assert facts(student_of(loaded.model)) is None and facts(student_of(None)) is None
    assert facts(student_of(student.model)) == facts(student_of(with_lora.model)) == (2, 2.5)
    off = pack.run("LoraLoaderModelOnly", model=loaded.model, lora_name=lora_file, strength_model=0.0)[0]
    assert facts(student_of(off)) is None


def test_comfyuis_lora_loader_makes_the_student(graph, loaded, student, with_lora, caplog):
    plain, whole, lora = (graph.run(model, cfg=1.0) for model in (loaded, student, with_lora))
    assert torch.allclose(lora, whole, atol=2e-4) and not torch.allclose(lora, plain, atol=1e-2)
    assert "lora key not loaded" not in caplog.text


def test_the_mark_survives_saving_and_others_get_none(graph, loaded, student, with_lora, folders, pack, student_of):
    import comfy.sd

    for name, model, wanted in (("a", loaded, None), ("b", student, (2, 2.5)), ("c", with_lora, (2, 2.5))):
        path = folders.checkpoints / f"saved_student_{name}.safetensors"
        comfy.sd.save_checkpoint(str(path), model.model, vae=model.vae)
        assert (MARK in load_file(path)) == (wanted is not None)
        assert facts(student_of(loaded_from(pack, path.name).model)) == wanted


def test_a_second_guidance_is_told_once_a_run(graph, loaded, student, with_lora, caplog):
    for model in (student, with_lora):
        caplog.clear()
        graph.run(model, cfg=1.0)
        assert "student" not in caplog.text
        graph.run(model, cfg=2.0)
        assert caplog.text.count("contain guidance 2.5 already") == 1 and "2 steps, cfg 1, sampler euler" in caplog.text
    caplog.clear()
    graph.run(loaded, cfg=2.0)
    assert "student" not in caplog.text


@pytest.fixture
def with_regions(pack, loaded_v1_5, lora_file):
    """The student of a model with region weights."""
    return with_student(pack, loaded_v1_5, lora_file)


LEFT = torch.cat([torch.ones(1, 64, 32), torch.zeros(1, 64, 32)], dim=2)


@pytest.mark.parametrize(
    "change",
    [
        {"sketch_strength": 0.4},
        {"end": 0.5},
        {"noise_level": 0.5},
        {"mode": "fig2fig", "figure_mask": LEFT},
        {"mode": "bg2fig", "figure_mask": LEFT},
    ],
    ids=lambda change: next(iter(change)) + str(change.get("mode", "")),
)
def test_what_steers_the_model_steers_its_student(graph, with_regions, change):
    """In two passes without guidance, as a student is run."""
    reference = graph.reference(figure_mask=torch.ones(1, 40, 30)) if "mode" in change else None
    plain, steered = (
        graph.sample(*graph.conditioned(with_regions, reference, **how), cfg=1.0, scheduler="simple")
        for how in ({}, change)
    )
    assert (steered - plain).abs().max() > 1e-3


def test_a_region_of_its_own_reference_reaches_the_student(graph, pack, with_regions):
    how = {"mode": "fig2fig", "figure_mask": LEFT}
    first, second = (graph.reference(seed=seed, figure_mask=torch.ones(1, 40, 30)) for seed in (1, 3))
    both = pack.run("ColorizeAddRegion", reference=first, region_reference=second, mask=LEFT.flip(2))[0]
    plain, cast = (graph.sample(*graph.conditioned(with_regions, one, **how), cfg=1.0) for one in (first, both))
    assert (cast - plain).abs().max() > 1e-3


def test_a_student_inpaints_and_repaints(graph, with_regions):
    """A noise mask keeps what is outside; a second pass over a picture starts from it, as hires repair does."""
    kept = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(9))
    parts = graph.conditioned(with_regions)
    painted = graph.sample(*parts, cfg=1.0, latent={"samples": kept, "noise_mask": LEFT[:, None]})
    assert torch.allclose(painted[..., 4:], kept[..., 4:], atol=1e-5)
    assert (painted[..., :4] - kept[..., :4]).abs().max() > 0.1
    begun = (kept, kept + 1)
    first, second = (
        graph.pack.run("KSampler", parts[0], 5, 2, 1.0, "euler", "simple", *parts[1:], {"samples": one}, 0.5)[0]
        for one in begun
    )
    assert (first["samples"] - second["samples"]).abs().max() > 0.1


def test_both_guidances_act_on_a_student(graph, with_regions):
    """The scale of the sketch pushes away from what the student answers without the drawing."""
    import comfy.samplers

    model, positive, negative = graph.conditioned(with_regions)
    DualGuider = graph.pack.module("model_patches.model.dual_guidance").DualGuider  # noqa: N806

    def guided(sketch_scale: float) -> torch.Tensor:
        guider = DualGuider(model, positive, negative, 1.0, sketch_scale)
        sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", 2)
        noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(5))
        euler = comfy.samplers.sampler_object("euler")
        with torch.inference_mode():
            return guider.sample(noise, torch.zeros_like(noise), euler, sigmas, disable_pbar=True, seed=5).clone()

    assert (guided(2.0) - guided(1.0)).abs().max() > 1e-3


def test_preflight_says_how_a_student_is_run(pack, graph, student, loaded):
    for model, wanted in ((student, True), (loaded, False)):
        report = pack.run("ColorizePreflight", model=model.model, colorizer=model.colorizer)[0]
        assert ("2 steps, cfg 1, sampler euler, scheduler simple" in report) == wanted


def test_the_noise_levels_are_those_of_comfyuis_scheduler(loaded):
    import comfy.samplers

    sampling, schedule = loaded.model.model.model_sampling, NoiseSchedule()
    for steps in (1, 2, 3, 4, 8):
        levels = comfy.samplers.calculate_sigmas(sampling, distilled.SCHEDULER, steps)
        assert torch.allclose(levels[:-1], schedule.sigmas[schedule.timesteps_simple(steps)], rtol=1e-5)
        assert levels[-1] == 0


@pytest.mark.parametrize("values", [[0.0, 0.0], [float("nan"), 2.0], [2.0], [-1.0, 2.0], [2.0, -1.0], [1e9, 2.0]])
def test_numbers_of_no_sense_are_no_mark(values):
    assert Distilled.from_values(torch.tensor(values)) is None


def test_the_header_says_the_settings():
    assert json.loads(FACTS.header()["colorize.distilled"]) == {
        "steps": 2,
        "sampler": "euler",
        "scheduler": "simple",
        "cfg": 1.0,
        "guidance": 2.5,
    }
    assert Distilled.from_values(FACTS.values()) == FACTS


def test_low_rank_is_the_best_of_its_rank():
    generator = torch.Generator().manual_seed(0)
    before = {
        "a.weight": torch.randn(24, 16, 3, 3, generator=generator),
        "a.bias": torch.randn(24, generator=generator),
    }
    after = {key: value + torch.randn(value.shape, generator=generator) for key, value in before.items()}
    same = {"b.weight": torch.ones(4, 4)}
    lora = low_rank_difference(before | same, after | same, 5, torch.float64)
    assert set(lora) == {
        f"diffusion_model.a.{end}" for end in ("lora_up.weight", "lora_down.weight", "alpha", "diff_b")
    }
    up, down = lora["diffusion_model.a.lora_up.weight"], lora["diffusion_model.a.lora_down.weight"]
    assert up.shape == (24, 5, 1, 1) and down.shape == (5, 16, 3, 3)
    difference = (after["a.weight"] - before["a.weight"]).flatten(1)
    left = difference - (up.flatten(1) @ down.flatten(1)).float()
    lost = torch.linalg.svdvals(difference)[5:].square().sum().sqrt()
    assert left.norm() == pytest.approx(float(lost), rel=1e-4)
    assert torch.allclose(lora["diffusion_model.a.diff_b"].float(), after["a.bias"] - before["a.bias"])
