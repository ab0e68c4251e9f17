"""The presets that bear a paper's name have the paper's settings: value, where the paper says it, ours."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from trainer import config as configuration
from trainer.stages import table

FOLDER = configuration.PRESETS

V1 = [
    ("model.prediction_type", "eps", "v1, Eq. 1"),
    ("data.size", 512, "v1, 5.1: 512^2"),
    ("data.reference", "self", "v1, 3.2: references correspond to the ground truth"),
    ("optimizer.lr", 1e-5, "v1, 5.1: learning_rate"),
    ("optimizer.betas", (0.9, 0.999), "v1, 5.1: betas"),
    ("optimizer.weight_decay", 0.1, "v1, 5.1: weight_decay"),
    ("optimizer.batch", 10, "v1, 5.1: batch_size_per_gpu"),
    ("optimizer.accumulate", 2, "v1, 5.1: accumulative_batches"),
    ("optimizer.clip", 0.0, "v1: none"),
    ("optimizer.ema", 0.0, "v1: none"),
    ("loss.offset_noise", 0.0, "v1: none"),
    ("loss.min_snr_gamma", 0.0, "v1, Eq. 1: no weights"),
]
V1_5 = [
    ("model.prediction_type", "eps", "v1.5, Eq. 1"),
    ("data.reference", "self", "v1.5, 4.1: triples of sketch, colour and mask"),
    ("data.deform", 0.0, "v1.5: references are not bent"),
    ("optimizer.lr", 1e-4, "v1.5, 4.1"),
    ("optimizer.betas", (0.9, 0.999), "v1.5, 4.1"),
    ("optimizer.clip", 0.0, "v1.5: none"),
    ("loss.offset_noise", 0.0, "v1.5: none"),
]
XL = [
    ("data.size", 1024, "XL, 4.3: 1024^2"),
    ("data.reference", "self", "XL, 3.2: derived from the ground truth"),
    ("optimizer.lr", 1e-5, "XL, 4.1"),
    ("optimizer.batch", 128 // 8, "XL, 4.1: total batch size of 128 on 8 GPUs"),
    ("optimizer.clip", 0.0, "XL: none"),
]
FACES = [
    ("data.size", 256, "AnimeDiffusion, 4.1"),
    ("data.reference", "self", "AnimeDiffusion, 3.2"),
    ("data.deform", 1.0, "AnimeDiffusion, 4.2: deformed by TPS"),
    ("data.line_sigmas", (0.3, 0.4, 0.5), "AnimeDiffusion, 4.1"),
    ("data.line_variant", "paper", "AnimeDiffusion, 4.1: p = 9, k = 3.5, epsilon = 0.01"),
    ("optimizer.lr", 1e-5, "AnimeDiffusion, 4.2: Adam"),
    ("optimizer.betas", (0.9, 0.999), "Adam's usual ones"),
    ("optimizer.weight_decay", 0.0, "AnimeDiffusion, 4.2: Adam has none"),
    ("optimizer.clip", 0.0, "AnimeDiffusion: none"),
]
PAPER = {
    "v1-paper": [
        *V1,
        ("run.stage", "v1", ""),
        ("run.steps", 4_000_000 * 5 // (4 * 10 * 2), "v1, 5.1: 4M triples, five epochs"),
        ("data.deform", 1.0, "v1, 3.3: deformation training"),
        ("data.deform_kind", "mls_rigid", "v1, 3.3: Schaefer et al. 2006"),
        ("loss.reference_drop", 0.75, "v1, 3.4: 0.75 for deformation training"),
        ("loss.noisy_reference", 0.0, "v1, Table 1: Deform"),
        ("loss.latent_shuffle", 0.0, "v1, Table 1: Deform"),
    ],
    "v1-noisy-paper": [
        *V1,
        ("run.stage", "v1", ""),
        ("run.steps", 4_000_000 * 7 // (4 * 10 * 2), "v1, 5.1: Shuffle-noisy, seven epochs"),
        ("data.deform", 0.0, "v1, 3.3: shuffle training"),
        ("loss.latent_shuffle", 1.0, "v1, 3.3: shuffle training"),
        ("loss.shuffle_variant", "tokens", "v1, 3.3: the sequence of local tokens"),
        ("loss.noisy_reference", 1.0, "v1, 3.4, Eq. 3"),
        ("loss.noisy_variant", "paper", "v1, Eq. 3: alpha_t and beta_t of the picture's step"),
        ("loss.reference_drop", 0.0, "v1, Table 1: Noisy-0"),
        ("loss.dual_condition", 0.0, "v1, Table 1: Noisy"),
    ],
    "v1-cls-paper": [
        *V1,
        ("run.stage", "v1", ""),
        ("run.steps", 4_000_000 * 7 // (4 * 10 * 2), "v1, 5.1: CLS, seven epochs"),
        ("model.tokens", "cls", "v1, 3.3 and Fig. 6"),
        ("data.deform", 0.0, "v1, 3.3: Attention models only"),
        ("loss.latent_shuffle", 0.0, "v1, 3.3: Attention models only"),
        ("loss.noisy_reference", 0.0, "v1, Table 1: CLS"),
        ("loss.reference_drop", 0.0, "v1, Table 1: CLS-0"),
    ],
    "v1_5-backbone-paper": [
        *V1_5,
        ("run.stage", "v1", ""),
        ("run.steps", 4_800_000 * 6 // (4 * 32), "v1.5, 4.1: 4.8M triples, 6 epochs; the batch is ours"),
        ("loss.reference_drop", 0.8, "v1.5, 3.1: from 80 %"),
        ("loss.reference_drop_end", 0.5, "v1.5, 3.1: to 50 %"),
    ],
    "v1_5-paper": [
        *V1_5,
        ("run.stage", "v1_5", ""),
        ("run.steps", 4_800_000 * 3 // (4 * 32), "v1.5, 4.1: 3 epochs; the batch is ours"),
        ("loss.reference_drop", 0.5, "v1.5, 4.1: at least 50 %"),
        ("loss.background_bleach", 0.0, "v1.5: none"),
        ("data.reference_mask_cell", (), "v1.5: none"),
        ("model.region_rank_figure", 16, "v1.5, 3.3 and Fig. 5"),
        ("model.region_rank_background", 0.5, "v1.5, 3.3"),
        ("model.init", "runs/v1_5-backbone-paper/v1_5-backbone-paper.safetensors", "v1.5, 3.1"),
    ],
    "xl-paper": [
        *XL,
        ("run.stage", "xl", ""),
        ("run.steps", 70_000, "XL, 4.1"),
        ("gram.weight", 1.0, "XL, 3.2: lambda 0 -> 1"),
        ("gram.start", 0.33, "XL, 3.2: after the first 33 %"),
        ("gram.blocks", "last", "XL, 3.2: the final transformer blocks at the lowest resolution"),
        ("gram.other", "dataset", "XL, 3.2: randomly sampled from the dataset"),
    ],
    "xl-clip-paper": [
        *XL,
        ("run.stage", "xl", ""),
        ("run.steps", 70_000, "XL, 4.1"),
        ("model.second_tower", "clip", "XL, 4.2: dual OpenCLIP encoders"),
        ("gram.weight", 0.0, "XL, 4.2: solely with diffusion loss"),
    ],
    "xl-plugin-paper": [
        *XL,
        ("run.stage", "xl_plugin", ""),
        ("run.steps", 10_000, "XL, 4.1"),
        ("gram.weight", 0.0, "XL, Fig. 4: the Gram loss is active in the first stage only"),
        ("model.init", "runs/xl-paper/xl-paper.safetensors", "XL, 3.4"),
    ],
    "animediffusion": [
        *FACES,
        ("run.stage", "animediffusion", ""),
        ("run.steps", 31_696 * 300 // 32, "AnimeDiffusion, 4.1 and 4.2: 300 epochs, batch 32"),
        ("loss.reduction", "mean", "AnimeDiffusion, Eq. 7"),
    ],
    "animediffusion-2": [
        *FACES,
        ("run.stage", "animediffusion_2", ""),
        ("run.steps", 31_696 // 4, "AnimeDiffusion, 4.2: 1 epoch, batch 4"),
        ("optimizer.batch", 4, "AnimeDiffusion, 4.2"),
        ("loss.chain_start", "picture", "AnimeDiffusion, Algorithm 1"),
        ("loss.forward_walk", "paper", "AnimeDiffusion, Eq. 13"),
        ("loss.chain_eta", 0.0, "AnimeDiffusion, 3.4.2: eta 0"),
        ("loss.chain_steps", 10, "AnimeDiffusion, 3.4.2: a small number of steps"),
    ],
}


def paper_presets() -> Iterator[str]:
    """The presets that say they are a paper's: by their names, or by a header that says so."""
    for file in sorted(FOLDER.glob("*.toml")):
        if "paper" in file.stem or file.read_text(encoding="utf-8").startswith("# Paper:"):
            yield file.stem


def test_every_paper_preset_is_checked():
    assert set(paper_presets()) == set(PAPER)


@pytest.mark.parametrize("name", PAPER)
def test_a_preset_has_the_papers_settings(name):
    config = table.load(name)
    for key, value, source in PAPER[name]:
        section, _, field = key.partition(".")
        found = getattr(getattr(config, section), field)
        assert found == value, f"{key} is {found}, the paper's {value} ({source})"
    if name == "animediffusion":
        assert config.optimizer.batch * config.optimizer.accumulate == 32  # AnimeDiffusion, 4.2


@pytest.mark.parametrize("name", PAPER)
def test_its_header_names_paper_row_and_deviations(name):
    header = (FOLDER / f"{name}.toml").read_text(encoding="utf-8").split("\n[")[0]
    lines = header.splitlines()
    assert lines[0].startswith("# Paper: ") and any(line.startswith("# Deviations: ") for line in lines)
    assert any(word in header.split("# Deviations:")[0] for word in ("Table", "Fig."))
    assert f"{table.load(name).run.steps:,} " in header
