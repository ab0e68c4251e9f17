"""`python -m trainer evaluate`: what it makes of measurements, and the whole command on a tiny model."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from trainer.__main__ import main
from trainer.commands import evaluate
from trainer.config import ConfigError, Data
from trainer.evaluate import runs
from trainer.evaluate.protocols import Protocol
from trainer.evaluate.report import Against, difference, report, scores_of_regions, summary_of_regions, table
from trainer.evaluate.sample import Setting
from trainer.metrics.entanglement import entanglement_of, mean_entanglement, next_ones
from trainer.models.colorizer import V1Colorizer
from trainer.models.denoising import Denoising
from trainer.world import REGION_NAMES

HAIR, EYES, BACKGROUND = (REGION_NAMES.index(name) for name in ("hair", "eyes", "background"))


def setting(title: str, guidance: float) -> Setting:
    return Setting(title, Denoising(guidance=guidance), title)


def measured(errors: dict[int, np.ndarray], without: dict[int, np.ndarray], shown=(), edges=0.9) -> dict:
    """Measurements of the protocol regions: errors by region label, the others not in the pictures."""
    count = len(next(iter(errors.values())))
    arrays = [np.full((count, len(REGION_NAMES)), np.nan) for _ in range(2)]
    for array, values in zip(arrays, (errors, without), strict=True):
        for region, column in values.items():
            array[:, region] = column
    visible = np.zeros((count, len(REGION_NAMES)), bool)
    for region, rows in dict(shown).items():
        visible[:, region] = rows
    tensors = {"errors": arrays[0], "errors_without": arrays[1], "shown": visible}
    edge = {"edge_f1": torch.full((count,), edges), "edge_f1_without": torch.full((count,), 0.9)}
    return {name: torch.from_numpy(array) for name, array in tensors.items()} | edge


def test_summary_compares_the_same_pairs_with_and_without_reference():
    random = np.random.default_rng(1)
    hair, eyes = random.uniform(20, 40, (2, 40))
    summary = summary_of_regions(measured({HAIR: hair * 0.2, EYES: eyes * 0.2}, {HAIR: hair, EYES: eyes}))
    assert np.isclose(summary["all_regions"]["ratio"], 0.2)
    assert np.allclose(summary["regions"]["eyes"]["ratio_95"], 0.2)
    assert summary["edge_f1_ratio"] == 1
    assert "shown_regions" not in summary  # no reference shows any of them


def test_summary_tells_shown_regions_figure_and_background_apart():
    """hair is shown in the even pairs only and right there; the background is always shown and always wrong."""
    hair, even = np.where(np.arange(40) % 2, 30.0, 3.0), np.arange(40) % 2 == 0
    values = measured(
        {BACKGROUND: np.full(40, 15.0), HAIR: hair},
        {BACKGROUND: np.full(40, 30.0), HAIR: np.full(40, 30.0)},
        {BACKGROUND: True, HAIR: even},
    )
    summary = summary_of_regions(values)
    assert summary["shown_figure"]["error"] == 3 and summary["shown_background"]["error"] == 15
    assert summary["shown_figure"]["error_95"] == [3, 3]
    assert summary["all_regions"]["error"] == 15 and summary["shown_regions"]["error"] == 15
    scores = scores_of_regions(values)
    assert scores["shown_regions"][:2].tolist() == [9, 15]  # the mean over what this reference shows
    assert np.isnan(scores["shown_figure"][1])
    text = table({"protocol": "regions", "runs": [{"mode": "vanilla", "guidance": 2, **summary}], "comparisons": []})
    rows = text.splitlines()[2:]
    assert [row[:18].strip() for row in rows[1:5]] == ["all", "shown by reference", "its figure", "its background"]
    assert rows[3].split()[2] == "3.00"


def test_a_report_compares_every_mode_with_the_first_pair_by_pair():
    random = np.random.default_rng(3)
    base = random.uniform(5, 60, 30)

    def of(offset):
        return measured({HAIR: base + offset}, {HAIR: base + 50}, {HAIR: True})

    noise = random.normal(0, 0.5, 30)
    values = {setting("vanilla", 2.0): of(0), setting("fig2fig", 2.0): of(-2 + noise), setting("vanilla", 3.0): of(1)}
    protocol = Protocol("regions", (), lambda pairs, result: {})
    found = report(protocol, values)
    assert [(one["mode"], one["guidance"]) for one in found["runs"]] == [("vanilla", 2), ("fig2fig", 2), ("vanilla", 3)]
    (comparison,) = found["comparisons"]
    figure = comparison["differences"]["shown_figure"]
    low, high = figure["difference_95"]
    assert -2.5 < low < figure["difference"] < high < -1.5 and figure["pairs"] == 30
    assert comparison["differences"]["shown_background"]["pairs"] == 0
    text = table(found)
    assert "fig2fig - vanilla, guidance 2, same pairs:" in text and "shown_background       not measured" in text
    json.dumps(found)


def test_a_report_compares_two_models_pair_by_pair():
    base = np.random.default_rng(4).uniform(0, 1, 30)
    runs = [
        {
            setting("vanilla", 1.0): {"structure": torch.from_numpy(base + a)},
            setting("vanilla", 3.0): {"structure": torch.zeros(30)},
        }
        for a in (-0.25, 0.0)
    ]
    protocol = Protocol("entanglement", (), lambda pairs, result: {})
    found = report(protocol, runs[0], [Against("plain.safetensors", runs[1], True)])
    assert [one["mode"] for one in found["runs"]] == ["vanilla"] * 2 + ["vanilla of plain.safetensors"] * 2
    first, second = found["comparisons"]
    structure = first["differences"]["structure"]
    assert structure["difference_95"] == pytest.approx([-0.25, -0.25]) and structure["pairs"] == 30
    assert second["guidance"] == 3 and second["differences"]["structure"]["difference"] == 0
    text = table(found)
    assert "vanilla - vanilla of plain.safetensors, guidance 1, same pairs:" in text
    assert len({line.index(")") for line in text.splitlines()[2:6]}) == 1  # the columns stand below one another


def test_difference_leaves_out_pairs_that_one_side_lacks():
    found = difference(np.array([1.0, np.nan, 4.0]), np.array([0.0, 5.0, 1.0]))
    assert found["difference"] == 2 and found["pairs"] == 2


def test_means_have_intervals_and_sets_have_distances():
    random = np.random.default_rng(0)
    values = {
        "psnr": torch.from_numpy(random.normal(20, 1, 40)),
        "fid:result": torch.from_numpy(random.normal(0, 1, (40, 3))),
        "fid:truth": torch.from_numpy(random.normal(2, 1, (40, 3))),
    }
    protocol = Protocol("random", (), lambda pairs, result: {})
    found = report(protocol, {setting("vanilla", 1.0): values, setting("masked", 1.0): values})
    one = found["runs"][0]
    low, high = one["psnr_95"]
    assert low < one["psnr"] < high and 9 < one["fid"] < 16 and one["fid_95"][0] < one["fid"] < one["fid_95"][1]
    assert found["comparisons"][0]["differences"] == {
        "psnr": {"difference": 0.0, "difference_95": [0.0, 0.0], "pairs": 40}
    }
    head, row = table(found).splitlines()[1:3]
    assert head.split() == ["mode", "guidance", "psnr", "fid"] and row.startswith("vanilla")


def test_the_whole_command(v1_file, frozen, pictures, tmp_path, capsys):
    """Every protocol, two modes, two scales, on a random model; all files are written, no number is missing."""
    command = ["evaluate", "--checkpoint", v1_file, "--encoder", frozen["encoder"], "--data", str(pictures)]
    command += ["--steps", "1", "--count", "6", "--batch", "3", "--guidance", "1", "2", "--mode", "vanilla", "masked"]
    command += ["--clip", frozen["encoder"], "--protocol", *evaluate.PROTOCOLS, "--output", str(tmp_path)]
    assert main(command) == 0
    text = (tmp_path / "report.txt").read_text()
    printed = capsys.readouterr().out
    assert "masked - vanilla, guidance 2" in text and all(line in printed for line in text.splitlines())
    summary = json.loads((tmp_path / "report.json").read_text())
    assert summary["pairs"] == 6 and summary["size"] == 64
    assert [one["protocol"] for one in summary["protocols"]] == list(evaluate.PROTOCOLS)
    names = {"deformed": {"psnr", "ms_ssim", "clip_similarity"}, "random": {"clip_similarity", "encoder_frechet"}}
    names["entanglement"] = {"entanglement", "structure", "leakage", "entanglement_none", "structure_noise"}
    for one in summary["protocols"]:
        assert [(r["mode"], r["guidance"]) for r in one["runs"]] == [
            ("vanilla", 1), ("masked", 1), ("vanilla", 2), ("masked", 2)
        ]  # fmt: skip
        assert len(one["comparisons"]) == 2
        for name in names.get(one["protocol"], ()):
            assert all(np.isfinite(r[name]) and len(r[f"{name}_95"]) == 2 for r in one["runs"])
    assert {path.name for path in tmp_path.glob("*.png")} == {f"{name}.png" for name in evaluate.PROTOCOLS}
    # the same numbers again: nothing depends on what was measured before
    again = tmp_path / "again"
    assert main([*command, "--protocol", "deformed", "--output", str(again)]) == 0
    deformed = json.loads((again / "report.json").read_text())["protocols"][0]
    assert deformed == summary["protocols"][1]
    assert main([*command, "--protocol", "regions", "--cut-out", "--guidance", "2", "--output", str(again)]) == 0
    found = json.loads((again / "report.json").read_text())["protocols"][0]
    assert [one["mode"] for one in found["runs"]] == ["vanilla", "masked", "masked cut out"]
    assert found["runs"][:2] == summary["protocols"][0]["runs"][2:]
    assert found["runs"][2]["all_regions"] != found["runs"][1]["all_regions"]
    # against itself: the second model's pairs and noise are the same
    assert main([*command, "--protocol", "deformed", "--against", v1_file, "--output", str(again)]) == 0
    found = json.loads((again / "report.json").read_text())["protocols"][0]
    assert [one["against"] for one in found["comparisons"][2:]] == [
        f"{mode} of {Path(v1_file).name}" for mode in ("vanilla", "masked") * 2
    ]
    assert all(one["differences"]["psnr"]["difference_95"] == [0, 0] for one in found["comparisons"][2:])
    assert (again / "deformed-against.png").is_file()


def test_strangers_are_the_next_sample_s_picture(pictures):
    dataset = runs.FolderDataset(
        Data(folder=str(pictures), size=64, reference="self"),
        ("color", "sketch", "reference", "mask", "reference_mask"),
    )
    protocol = Protocol("random", (), lambda pairs, result: {}, reference="self", strangers=True)
    last = runs.row(dataset, 2, 3, protocol)
    assert torch.equal(last["reference"], dataset[0]["color"]) and torch.equal(last["color"], dataset[2]["color"])
    assert torch.equal(last["reference_mask"], dataset[0]["mask"])


def test_the_entanglement_of_a_copied_reference_is_high():
    """A result that repeats the edges of its reference leaks; one that shows the sketch only does not."""
    generator = torch.Generator().manual_seed(0)
    sketches = torch.full((6, 3, 64, 64), -1.0)
    sketches[:, :, 10:12] = 1.0
    references = torch.rand(6, 3, 8, 8, generator=generator).repeat_interleave(8, 2).repeat_interleave(8, 3) * 2 - 1
    drawn = -sketches
    copied = torch.where(sketches > 0, -1.0, references)
    nothing = entanglement_of(drawn, drawn, drawn, references, sketches)
    everything = entanglement_of(copied, drawn, drawn, references, sketches)
    assert everything["leakage"].min() > 0.5 > nothing["leakage"].abs().max() + 0.3
    assert everything["structure"].min() > 0.3 and nothing["structure"].max() < 1e-6
    assert torch.allclose(everything["entanglement"], everything["structure"] + everything["leakage"])
    assert torch.equal(everything["entanglement_none"], nothing["leakage"])
    assert nothing["structure_noise"].max() < 1e-6


@pytest.mark.parametrize("count", [2, 3, 6])
def test_a_picture_s_own_edges_are_not_chance(count):
    """Perfect results leak nothing. Their own pictures once counted as other references: -0.2 and less of every row."""
    truths = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    truths = truths.repeat_interleave(8, 2).repeat_interleave(8, 3)
    blank = torch.full_like(truths, -1.0)
    assert entanglement_of(truths, truths, None, next_ones(truths), blank)["leakage"].abs().max() < 0.15


def test_the_number_of_a_validation_curve(v1_file, frozen):
    """The same triples give the same number; the mode asked for is the one measured; one pair is not enough."""
    colorizer = V1Colorizer.from_files(v1_file, frozen["encoder"], torch.device("cpu"))
    generator = torch.Generator().manual_seed(1)
    sketches, references = torch.full((2, 3, 64, 64), -1.0), torch.rand(2, 3, 64, 64, generator=generator) * 2 - 1
    masks = torch.zeros(2, 1, 64, 64)
    masks[..., :32] = 1
    first, again = (mean_entanglement(colorizer, sketches, references, 1, 2.0) for _ in range(2))
    split = mean_entanglement(colorizer, sketches, references, 1, 2.0, 0, "masked", masks, masks)
    assert first == again != split and first.keys() == {"entanglement", "structure", "leakage"}
    assert np.isclose(first["entanglement"], first["structure"] + first["leakage"])
    with pytest.raises(ValueError, match="two or more"):
        mean_entanglement(colorizer, sketches[:1], references[:1], 1, 2.0)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"count": 1}, "--count is 1"),
        ({"steps": 0}, "--steps is 0"),
        ({"deform": 0.0}, "--deform is 0.0"),
        ({"guidance": [2.0, 0.5]}, "reference guidance is 0.5"),
        ({"sketch_guidance": [99.0]}, "sketch guidance is 99"),
        ({"noise_level": [-0.1]}, "noise level is -0.1"),
        ({"size": 100}, "--size is 100"),
        ({"checkpoint": ""}, "nothing to measure: give --checkpoint"),
        ({"checkpoint": "", "results": ["a"], "lora": ["b"]}, "--lora changes the model of --checkpoint"),
        ({"encoder": ""}, "needs its reference encoder"),
        ({"results_without": ["a"]}, "one folder for each"),
        ({"checkpoint": "", "results": ["a"], "against": "b"}, "name that, too"),
        ({"count": 5, "batch": 2, "protocol": ["entanglement"]}, "a batch of fewer than three pairs"),
        ({"cut_out": True}, "add masked, bg2fig or fig2fig"),
        ({"views": [0.5, 1.5]}, "Y of the views is 1.5"),
        ({"views": [0.5, 0.5], "checkpoint": "", "results": ["a"]}, "--views looks inside a model"),
    ],
)
def test_numbers_that_cannot_be_meant(change, message, tmp_path):
    good = {
        "data": str(tmp_path),
        "set": None,
        "checkpoint": "model",
        "encoder": "encoder",
        "lora": [],
        "against": "",
        "pairs": "",
        "results": [],
        "results_without": [],
        "size": 0,
        "sketch_guidance": [1.0],
        "noise_level": [0.0],
        "sampler": ["dpmpp_2m"],
        "count": 2,
        "steps": 1,
        "batch": 1,
        "deform": 0.5,
        "guidance": [2.0],
        "cut_out": False,
        "mode": ["vanilla"],
        "views": None,
        "views_at": 0.5,
    }
    good["protocol"] = ["regions"]
    evaluate.check(argparse.Namespace(**good))
    with pytest.raises(ConfigError, match=message):
        evaluate.check(argparse.Namespace(**good | change))


def test_bad_data_says_what_to_do(tmp_path, pictures, v1_file, frozen, capsys):
    command = ["evaluate", "--checkpoint", v1_file, "--encoder", frozen["encoder"], "--output", str(tmp_path / "out")]
    assert main([*command, "--data", str(tmp_path)]) == 2
    assert "holds no pictures in color/" in capsys.readouterr().err
    assert main([*command, "--data", str(pictures), "--count", "99"]) == 2
    assert "holds 8 pairs, 99 are asked for" in capsys.readouterr().err


def test_the_second_run_without_reference_has_other_noise():
    """torch's CPU generator reads the low 32 bits of its seed: adding 1 << 32 gave the same noise again."""
    from trainer.evaluate.runs import SECOND_NOISE

    first, second = (torch.randn(4, generator=torch.Generator().manual_seed(seed)) for seed in (7, 7 + SECOND_NOISE))
    assert not torch.equal(first, second)
