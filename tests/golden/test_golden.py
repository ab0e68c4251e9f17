"""Every implemented golden case within its tolerance, on both sides.

The full set of files comes from $GOLDEN_DIR or `../shared/golden`; without it the shipped subset runs and the rest is
skipped. With COLORIZE_REQUIRE_GOLDEN=1 (and COLORIZE_REQUIRE_COMFYUI=1) what is missing is a failure.
"""

from __future__ import annotations

import pytest
import torch

from tests.golden import files, needs, registry, runner
from tests.literal import unet as literal_unet
from tests.literal.sketch_encoder import sketch_encoder
from tests.literal.vision import tower
from tests.literal.weights import Weights

CASES = sorted(registry.cases())

COMPARED = {
    ("ad_dataset", "torch"): 4,
    ("ad_ddim_10steps", "torch"): 41,
    ("ad_ddim_inversion", "torch"): 4,
    ("ad_ddim_step", "torch"): 6,
    ("ad_lr", "torch"): 1,
    ("ad_p_sample", "torch"): 2,
    ("ad_phase1_loss", "torch"): 7,
    ("ad_phase2_loss", "torch"): 13,
    ("ad_q_sample", "torch"): 2,
    ("ad_schedule", "torch"): 14,
    ("ad_time_embedding", "torch"): 2,
    ("ad_tps", "torch"): 18,
    ("ad_unet", "torch"): 4,
    ("ad_unet_cbam", "torch"): 4,
    ("ad_unet_full_recipe", "torch"): 2,
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
    ("conditions_v2", "comfy"): 53,
    ("conditions_v2", "torch"): 55,
    ("ema", "torch"): 8,
    ("fitting_weights", "torch"): 5,
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
    ("v2_bg_encoder", "torch"): 4,
    ("v2_size_embedding", "torch"): 10,
    ("v2_style_encoder", "torch"): 4,
    ("v2_unet", "comfy"): 10,
    ("v2_unet", "torch"): 10,
    ("xl_adapter_step", "torch"): 18,
    ("xl_attention_injection", "comfy"): 5,
    ("xl_cfg_dual", "comfy"): 5,
    ("xl_cfg_dual", "torch"): 5,
    ("xl_clip_tokens", "torch"): 7,
    ("xl_data_ops", "torch"): 32,
    ("xl_generate", "comfy"): 4,
    ("xl_gram", "torch"): 18,
    ("xl_guidance_interval", "comfy"): 6,
    ("xl_guidance_interval", "torch"): 6,
    ("xl_latent_inpaint", "comfy"): 8,
    ("xl_prepare_sdxl", "comfy"): 30,
    ("xl_prepare_sdxl", "torch"): 39,
    ("xl_prepare_xlv2", "comfy"): 31,
    ("xl_prepare_xlv2", "torch"): 43,
    ("xl_proj", "torch"): 6,
    ("xl_reference_net", "comfy"): 15,
    ("xl_reference_net", "torch"): 15,
    ("xl_scalar_embedding", "torch"): 8,
    ("xl_sigmas", "torch"): 12,
    ("xl_sketch_encoder", "torch"): 12,
    ("xl_split_attention", "comfy"): 25,
    ("xl_split_attention", "torch"): 25,
    ("xl_training_step", "torch"): 64,
    ("xl_ui_preprocess", "torch"): 9,
    ("xl_unet", "comfy"): 6,
    ("xl_unet", "torch"): 6,
    ("xl_unet_explicit", "comfy"): 1,
    ("xl_unet_explicit", "torch"): 1,
    ("xl_unet_reference_scale", "comfy"): 5,
    ("xl_unet_reference_scale", "torch"): 5,
    ("xl_wd_tagger", "torch"): 11,
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
