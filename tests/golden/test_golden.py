"""Every implemented golden case within its tolerance, on both sides.

The full set of files comes from $GOLDEN_DIR or `../shared/golden`; without it the shipped subset runs and the rest is
skipped. With COLORIZE_REQUIRE_GOLDEN=1 (and COLORIZE_REQUIRE_COMFYUI=1) what is missing is a failure.
"""

from __future__ import annotations

import pytest
import torch

from tests.golden import files, needs, registry, runner
from tests.networks import literal_unet
from tests.networks.literal_sketch_encoder import sketch_encoder
from tests.networks.literal_vision import tower
from tests.networks.literal_weights import Weights

CASES = sorted(registry.cases())

COMPARED = {
    ("ad_xdog", "torch"): 25,
    ("attention_injection", "comfy"): 8,
    ("cfg", "comfy"): 10,
    ("cfg", "torch"): 12,
    ("clip_preprocess", "torch"): 1,
    ("clip_preprocess_down", "torch"): 1,
    ("clip_tiny", "torch"): 9,
    ("cond_concat", "torch"): 4,
    ("conditions_v1", "comfy"): 18,
    ("conditions_v1", "torch"): 7,
    ("conditions_v1_5", "comfy"): 9,
    ("conditions_v1_5", "torch"): 5,
    ("ema", "torch"): 8,
    ("manipulation_global", "torch"): 7,
    ("manipulation_local", "torch"): 13,
    ("mask_preprocess", "torch"): 10,
    ("multi_encoder", "comfy"): 5,
    ("multi_encoder", "torch"): 5,
    ("noisy_training", "torch"): 6,
    ("pre_anime2sketch", "torch"): 3,
    ("pre_anime2sketch_tiny", "torch"): 2,
    ("pre_isnet", "torch"): 17,
    ("pre_isnet_blocks", "torch"): 5,
    ("pre_lineart_sk", "torch"): 5,
    ("pre_lineart_standard", "torch"): 11,
    ("pre_manga_blocks", "torch"): 4,
    ("pre_manga_line", "torch"): 6,
    ("pre_rmbg_wrap", "torch"): 6,
    ("pre_sketchkeras", "torch"): 8,
    ("pre_wd_tagger", "torch"): 12,
    ("recovery_transformer", "torch"): 1,
    ("sample_v1", "comfy"): 7,
    ("sample_v1", "torch"): 6,
    ("scalar_embedder", "torch"): 2,
    ("schedule", "comfy"): 22,
    ("schedule", "torch"): 25,
    ("sketch_preprocess", "torch"): 7,
    ("split_attention_bg2fig", "comfy"): 8,
    ("split_attention_bg2fig", "torch"): 8,
    ("split_attention_fig2fig", "comfy"): 9,
    ("split_attention_fig2fig", "torch"): 9,
    ("training_losses", "torch"): 32,
    ("unet_v1", "comfy"): 8,
    ("unet_v1", "torch"): 8,
    ("unet_v1_reference_scale", "comfy"): 5,
    ("unet_v1_reference_scale", "torch"): 5,
    ("xl_wd_tagger", "torch"): 8,
}
"""How many outputs of the recorded file each case compares: a case must not quietly answer less than before."""


@pytest.fixture(scope="module")
def comfy_outcomes() -> dict[str, registry.Outcome]:
    """Results of all comfy cases whose files are here, from one ComfyUI process."""
    comfy = needs.comfyui()
    folders = [folder for folder in (files.SHIPPED, files.golden_folder()) if folder is not None]
    found = {stem: path for folder in folders for stem, path in files.case_files(folder).items()}
    paths = [found[case] for case, side in CASES if side == "comfy" and case in found]
    return {outcome.case: outcome for outcome in runner.run_comfy_process(paths, comfy)}


@pytest.mark.parametrize("case", [case for case, side in CASES if side == "torch"])
def test_torch_side(case):
    path = needs.golden_file(case)
    assert_passed(runner.run_case(path, "torch", registry.cases()[case, "torch"]))


@pytest.mark.comfyui
@pytest.mark.parametrize("case", [case for case, side in CASES if side == "comfy"])
def test_comfy_side(case, comfy_outcomes):
    needs.golden_file(case)
    assert_passed(comfy_outcomes[case])


def assert_passed(outcome: registry.Outcome) -> None:
    assert outcome.passed, runner.notes([outcome])
    assert len(outcome.errors) >= COMPARED[outcome.case, outcome.side]
    assert not outcome.unanswered, f"neither compared nor explained: {outcome.unanswered}"


def test_the_table_of_compared_outputs_is_complete():
    assert sorted(COMPARED) == CASES


def test_the_shipped_subset_is_a_true_copy_and_small():
    shipped = [path for path in files.SHIPPED.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in shipped) <= 5_000_000
    full = needs.full_set()
    for path in shipped:
        assert path.read_bytes() == (full / path.relative_to(files.SHIPPED)).read_bytes(), path.name


def test_all_three_forms_can_be_read():
    """Weights in the file, in shards, and rebuilt by both recipes; loading checks the recorded sums."""
    kinds = {"explicit": "xl_unet_explicit", "procedural": "xl_unet", "recipe": "pre_lineart_sk", "sharded": "unet_v1"}
    for kind, case in kinds.items():
        golden = files.load(needs.golden_file(case))
        assert golden.weights, kind
        assert not {"recipe_first", "recipe_sum"} & golden.outputs.keys()


@torch.no_grad()
def test_the_transcriptions_give_the_recorded_numbers():
    """The literal transcriptions, which stand in for recorded files elsewhere, are right themselves."""
    golden = files.load(needs.golden_file("unet_v1"))
    sizes = {key: golden.constructor[key] for key in ("model_channels", "channel_mult", "num_head_channels")}
    for run, settings in golden.runs.items():
        if run in golden.outputs and run != "zero_context":
            t = torch.tensor(settings["timesteps"], dtype=torch.float32)
            inputs = golden.inputs["x"], t, golden.inputs["context"], golden.listed("control")
            answer = literal_unet.unet(Weights(golden.weights), *inputs, **sizes)
            torch.testing.assert_close(answer, golden.outputs[run], atol=1e-4, rtol=1e-3)

    golden = files.load(needs.golden_file("multi_encoder"))
    base, mults = golden.constructor["model_channels"], golden.constructor["ch_mults"]
    maps = sketch_encoder(Weights(golden.weights), golden.inputs["sketch"], [base * mult for mult in mults], base)
    for index, answer in enumerate(maps):
        torch.testing.assert_close(answer, golden.outputs[f"hint.{index}"], atol=2e-5, rtol=1e-4)

    golden = files.load(needs.golden_file("clip_tiny"))
    vision = golden.constructor["vision"]
    sizes = {key: vision[key] for key in ("width", "layers", "head_width", "patch_size", "mlp_ratio")}
    weights = Weights({key.removeprefix("visual.model."): value for key, value in golden.weights.items()})
    answer = tower(weights, golden.outputs["pixels"], output_dim=golden.constructor["embed_dim"], **sizes)
    torch.testing.assert_close(answer, golden.outputs["full"], atol=2e-5, rtol=1e-4)
