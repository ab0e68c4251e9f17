"""Evaluations with the papers' settings, of other methods' pictures, killed and resumed, and in two processes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.trainer.run.launch import finish, launched, start
from trainer.__main__ import main
from trainer.evaluate.parts import Parts
from trainer.evaluate.runs import ModelMaker
from trainer.metrics.intervals import _interval


@pytest.fixture
def command(v1_file, frozen, pictures, tmp_path):
    """A fast evaluation of the tiny model: 6 pairs in batches of 2, one step, no intervals."""
    arguments = ["evaluate", "--checkpoint", v1_file, "--encoder", frozen["encoder"], "--data", str(pictures)]
    arguments += ["--steps", "2", "--count", "6", "--batch", "2", "--intervals", "none", "--protocol", "deformed"]
    return [*arguments, "--output", str(tmp_path / "out")]


def report(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text())


def rows(folder: Path, protocol: int = 0) -> dict[str, dict]:
    return {one["mode"]: one for one in report(folder)["protocols"][protocol]["runs"]}


def test_every_setting_of_the_papers_is_a_row(command, tmp_path):
    settings = ["--sketch-guidance", "1", "5", "--noise-level", "0", "0.5", "--sampler", "dpmpp_2m", "dpmpp_2m_karras"]
    assert main([*command, *settings, "--mode", "vanilla", "no-reference", "--count", "2", "--guidance", "3"]) == 0
    found = rows(tmp_path / "out")
    marks = ["", ", sketch guidance 5", ", dpmpp_2m_karras", ", sketch guidance 5, dpmpp_2m_karras"]
    assert set(found) == {f"{mode}{mark}" for mode in ("vanilla", "no-reference") for mark in marks} | {
        f"vanilla{mark}, noise 0.5" for mark in marks
    }
    assert list(found)[0] == "vanilla" and list(found)[-1].startswith("no-reference")
    assert len({one["psnr"] for name, one in found.items() if name.startswith("vanilla")}) == 8  # each does something
    assert found["vanilla"]["guidance"] == 3 and found["no-reference"]["guidance"] == 1
    assert found["vanilla, sketch guidance 5, noise 0.5"]["noise_level"] == 0.5
    again = [*command[:-1], str(tmp_path / "again"), "--count", "2", "--guidance", "3", "--size", "128"]
    assert main(again[:-2]) == 0
    assert rows(tmp_path / "again")["vanilla"] == found["vanilla"]  # whatever else is measured
    assert main(again) == 0
    assert report(tmp_path / "again")["size"] == 128
    assert rows(tmp_path / "again")["vanilla"]["psnr"] != found["vanilla"]["psnr"]


def test_pictures_of_other_methods_are_rows(command, frozen, pictures, tmp_path, capsys):
    """Pairs are written, coloured elsewhere (here: the truth, and the truth with noise), and scored beside a model."""
    pairs, clean, noisy = (tmp_path / name for name in ("pairs", "clean", "noisy"))
    protocols = ["--protocol", "deformed", "random", "regions"]
    assert main([*command, *protocols, "--pairs", str(pairs)]) == 0
    shown = json.loads((pairs / "random/pairs.json").read_text())["references"]
    assert len(shown) == 6 and all(name != other for name, other in shown.items())
    random = np.random.default_rng(0)
    for protocol in protocols[1:]:
        for file in (pairs / protocol / "color").glob("*.png"):
            colours = np.array(Image.open(file))
            assert colours.shape == (64, 64, 3) and (pairs / protocol / "reference" / file.name).is_file()
            for folder, spread in ((clean, 2), (noisy, 40)):
                (folder / protocol).mkdir(parents=True, exist_ok=True)
                changed = np.clip(colours + random.normal(0, spread, colours.shape), 0, 255).round()
                Image.fromarray(changed.astype(np.uint8)).save(folder / protocol / file.name)
    both = ["--results", str(clean), str(noisy)]
    assert main([*command, *protocols, *both]) == 0
    found = rows(tmp_path / "out")
    assert list(found) == ["vanilla", "clean", "noisy"]
    assert found["clean"]["psnr"] > 35 > found["noisy"]["psnr"] > 10 and found["clean"]["ms_ssim"] > 0.98
    comparisons = report(tmp_path / "out")["protocols"][0]["comparisons"]
    assert [(one["mode"], one["against"]) for one in comparisons] == [("vanilla", "clean"), ("vanilla", "noisy")]
    assert comparisons[0]["differences"]["psnr"]["difference"] < 0
    random_rows, region_rows = rows(tmp_path / "out", 1), rows(tmp_path / "out", 2)
    assert 0 < random_rows["clean"]["encoder_frechet"] < random_rows["noisy"]["encoder_frechet"]
    assert region_rows["clean"]["all_regions"]["error"] < 1 and "ratio" not in region_rows["clean"]["all_regions"]
    assert "ratio" in region_rows["vanilla"]["all_regions"]

    alone = ["evaluate", "--data", str(pictures), "--count", "6", "--batch", "3", "--output", str(tmp_path / "alone")]
    assert main([*alone, "--protocol", "deformed", "--intervals", "pairs", *both]) == 0
    assert rows(tmp_path / "alone")["clean"]["psnr"] == pytest.approx(found["clean"]["psnr"])
    assert "encoder_similarity" not in rows(tmp_path / "alone")["clean"]  # nobody to judge
    (noisy / "deformed" / "00_0.png").unlink()
    assert main([*alone, "--protocol", "deformed", *both]) == 2
    assert "00_0.png does not exist" in capsys.readouterr().err
    Image.new("RGB", (64, 32)).save(noisy / "deformed" / "00_0.png")
    assert main([*alone, "--protocol", "deformed", *both]) == 2
    assert "64 x 32 pixels: pairs are squares" in capsys.readouterr().err
    assert main([*alone, "--protocol", "random", *both]) == 2 and "--inception" in capsys.readouterr().err
    assert main([*alone, "--protocol", "entanglement", *both]) == 2
    assert "--results-without" in capsys.readouterr().err
    shutil.copytree(clean / "random", clean / "entanglement")
    with_both = ["--results", str(clean), "--results-without", str(clean)]
    assert main([*alone, "--protocol", "entanglement", "--intervals", "none", *with_both]) == 0
    assert abs(rows(tmp_path / "alone")["clean"]["structure"]) < 1e-6


def test_a_stopped_command_goes_on(command, tmp_path, monkeypatch):
    """Batches that are measured are not made again; a damaged one is; the numbers are those of an unbroken command."""
    both = [*command, "--protocol", "deformed", "random"]
    assert main([*both, "--output", str(tmp_path / "whole")]) == 0
    begun, made = [], ModelMaker.made

    def stopped_at(limit):
        def counted(self, batch, names, start, protocol):
            if len(begun) == limit:
                raise KeyboardInterrupt
            begun.append((protocol.name, start))
            return made(self, batch, names, start, protocol)

        begun.clear()
        monkeypatch.setattr(ModelMaker, "made", counted)

    stopped_at(2)
    assert main(both) == 130 and begun == [("deformed", 0), ("deformed", 2)]
    files = sorted((tmp_path / "out" / "parts").rglob("*.safetensors"))
    assert [file.name for file in files] == ["000000000.safetensors", "000000002.safetensors"]
    files[0].write_bytes(files[0].read_bytes()[:-1])
    stopped_at(None)
    assert main([*both, "--guidance", "3"]) == 0 and len(begun) == 6  # other settings are other numbers
    stopped_at(None)
    assert main(both) == 0
    assert begun == [("deformed", 0), ("deformed", 4), ("random", 0), ("random", 2), ("random", 4)]
    ours, theirs = (report(tmp_path / name) for name in ("out", "whole"))
    assert ours == theirs and not (tmp_path / "out" / "parts").exists()
    for name in ("deformed", "random"):
        assert (tmp_path / "out" / f"{name}.png").read_bytes() == (tmp_path / "whole" / f"{name}.png").read_bytes()


def numbers(row: dict, name: str = "") -> dict[str, float]:
    """All numbers of a row, also those inside of others."""
    if isinstance(row, dict):
        return {key: value for inner, part in row.items() for key, value in numbers(part, f"{name}.{inner}").items()}
    return {name: row} if isinstance(row, (int, float)) else {}


def test_two_processes_measure_what_one_does(command, tmp_path):
    """Every number of pairs and of features, and the same files."""
    command[command.index("--output") : command.index("--output")] = ["--protocol", "deformed", "random"]
    process = start(launched(2, *command), tmp_path / "log")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the two: sums are ordered by threads
    try:
        assert main([*command[:-1], str(tmp_path / "alone")]) == 0
    finally:
        torch.set_num_threads(threads)
    finish(process, tmp_path / "log")
    for protocol in range(2):
        ours, theirs = (numbers(rows(tmp_path / name, protocol)["vanilla"]) for name in ("out", "alone"))
        assert len(ours) > 2 and ours == pytest.approx(theirs, rel=1e-4, nan_ok=True)
    written = [sorted(file.name for file in (tmp_path / name).iterdir()) for name in ("out", "alone")]
    assert written[0] == written[1]
    text = (tmp_path / "log").read_text()
    assert text.count("deformed, 6 pairs") == 1 and "2/2" in text  # one of them speaks, and has two of three batches
    assert not (tmp_path / "out" / "parts").exists()


def test_numbers_without_intervals(command, tmp_path):
    assert main([*command, "--protocol", "regions", "random", "--mode", "vanilla", "masked"]) == 0
    text = json.dumps(report(tmp_path / "out")["protocols"])
    assert "_95" not in text and '"encoder_frechet"' in text and '"ratio"' in text
    assert ".." not in (tmp_path / "out/report.txt").read_text()
    assert main([*command, "--protocol", "random", "--intervals", "pairs"]) == 0
    one = rows(tmp_path / "out")["vanilla"]
    assert "encoder_similarity_95" in one and "encoder_frechet_95" not in one


def test_features_stay_on_the_disk(tmp_path):
    """What is read at once is one number per pair; features come batch by batch, and what is common stands in each."""
    parts = Parts(tmp_path, {"seed": 0}, ["a", "b"])
    features = torch.randn(6, 3)
    for start_ in (0, 2, 4):
        own = {t: {"psnr": torch.full((2,), float(start_)), "fid:result": features[start_ : start_ + 2]} for t in "ab"}
        parts.write(start_, own, {"fid:truth": features[start_ : start_ + 2] + 1}, None)
    found = parts.read(range(0, 6, 2))["b"]
    assert found["psnr"].tolist() == [0, 0, 2, 2, 4, 4]
    assert [len(chunk) for chunk in found["fid:truth"].chunks()] == [2, 2, 2]
    assert torch.equal(found["fid:truth"].all(), features + 1) and torch.equal(found["fid:result"].all(), features)
    other = Parts(tmp_path, {"seed": 1}, ["a", "b"])
    assert parts.holds(0) and not other.holds(0) and not parts.holds(6)


def test_draws_of_an_interval_are_those_of_one_table():
    """One draw at a time, in place of 2000 x pairs numbers at once: the same numbers."""
    values = np.random.default_rng(1).normal(size=37)
    table = np.random.default_rng(0).integers(0, 37, (50, 37))
    wanted = np.percentile([values[row].mean() for row in table], (2.5, 97.5))
    assert _interval(values, np.mean, 50, 0) == pytest.approx(tuple(wanted))
