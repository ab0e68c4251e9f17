"""docs/PAPERS.md: every row has a command or a reason, and every command runs, here with tiny data and networks."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests import tiny, tiny_xl
from trainer.__main__ import main
from trainer.commands import evaluate_faces

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "PAPERS.md"
TEMPLATE = re.compile(r"template `(\w+)`")
COMMAND = re.compile(r"`python -m trainer ([^`]+)`")
FACES = ROOT / "models/checkpoints/animediffusion_small.safetensors"

# The tables of the four papers, and the figures they number: what the page must have.
WANTED = {
    "arXiv 2401.01456": (2, 21),
    "v1.5, CVPR 2025": (1, 10),
    "XL, CVPR 2026": (1, 10),
    "TVCG": (2, 16),
}


def rows() -> list[tuple[str, str, str, str]]:
    """(paper, row, made by, note) of every row of the page's tables."""
    found, paper = [], ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            paper = line
        if line.startswith("|") and not line.startswith(("| row |", "|---")):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            assert len(cells) == 3, line
            found.append((paper, *cells))
    return found


def commands() -> list[str]:
    """Every command of the page once; of those that differ in the names of folders of results, one."""
    page = PAGE.read_text(encoding="utf-8")
    found = [match for row in rows() for match in COMMAND.findall(row[2])]
    found += re.findall(r"^python -m trainer (.+)$", page, re.M)
    return list(dict.fromkeys(re.sub(r"results/[\w-]+", "results/one", text) for text in found))


def test_no_row_lacks_a_command_or_a_reason():
    for paper, name, made_by, note in rows():
        templates = TEMPLATE.findall(made_by)
        assert COMMAND.search(made_by) or templates or (made_by == "-" and note.startswith("Cannot: ")), (paper, name)
        assert all((ROOT / f"workflows/api/{template}.json").is_file() for template in templates), (paper, name)
        assert not note.startswith("Cannot") or len(note) > 20, (paper, name)


@pytest.mark.parametrize("paper", WANTED)
def test_every_table_and_figure_is_there(paper):
    names = [name for heading, name, *_ in rows() if paper in heading]
    tables, figures = WANTED[paper]
    assert {int(number) for name in names for number in re.findall(r"^Table (\d)", name)} == set(range(1, tables + 1))
    listed = [name.partition("(")[0].partition(", in numbers")[0] for name in names if name.startswith("Fig. ")]
    numbers = {int(number) for name in listed for number in re.findall(r"\d+", name.removeprefix("Fig. "))}
    assert numbers >= set(range(1, figures + 1)), sorted(set(range(1, figures + 1)) - numbers)


@pytest.fixture(scope="module")
def words(tmp_path_factory, pictures, v1_file, frozen) -> dict[str, str]:
    """What the page's words stand for here."""
    folder = tmp_path_factory.mktemp("papers")

    def written(name: str, tensors: dict, metadata: dict | None = None) -> Path:
        save_file({k: v.contiguous() for k, v in tensors.items()}, folder / f"{name}.safetensors", metadata=metadata)
        return folder / f"{name}.safetensors"

    encoder = written("encoder", tiny.reference_encoder().state_dict(), {"colorize.head_width": "16"})
    wide = tiny.reference_encoder(tiny_xl.CLIP_WIDTH).state_dict()
    wide_encoder = written("wide", wide, {"colorize.head_width": "16"})
    tagger = written("tagger", tiny_xl.tagger_weights(), tiny_xl.TAGGER_METADATA)
    v1_5 = written("v1_5", tiny.checkpoint_v1_5(), tiny.METADATA_V1_5)
    xl = written("xl", tiny_xl.checkpoint_plugin(), tiny_xl.METADATA | {"colorize.family": "xl-plugin"})
    backbone = written("backbone", tiny_xl.checkpoint(), tiny_xl.METADATA)
    return {
        "$V1": f"--checkpoint {v1_file} --encoder {frozen['encoder']}",
        "$V15": f"--checkpoint {v1_5} --encoder {encoder}",
        "$XL": f"--checkpoint {xl} --encoder {wide_encoder} --tagger {tagger}",
        "$FACES": f"--checkpoint {FACES}",
        "$JUDGES": f"--clip {frozen['encoder']}",
        "$PAIR": f"--sketch {pictures}/sketch/00_0.png --reference {pictures}/reference/01_0.png",
        "$MASKS": f"--mask {pictures}/mask/00_0.png --reference-mask {pictures}/reference_mask/01_0.png",
        "data/validation": str(pictures),
        "data/faces": str(pictures),
        "results/one": str(pictures / "color"),
        "runs/xl-without-gram/xl-without-gram.safetensors": str(xl),
        "vae": frozen["vae"],
        "v1": v1_file,
        "clip": frozen["encoder"],
        "backbone": str(backbone),
        "wide": str(wide_encoder),
        "square": str(encoder),
        "tagger": str(tagger),
    }


SMALL = {
    "evaluate": "--steps 1 --count 3 --batch 3 --size 64 --intervals none",
    "evaluate-faces": "--steps 2 --count 2",
}
SMALL |= {"sample": "--steps 1 --size 64"}
COLOURISER = "--model.model_channels 32 --model.channel_mult 1,1,1,2 --model.num_head_channels 16 --system.deepspeed ''"
XL = COLOURISER.replace("1,1,1,2", "1,2,2") + " --model.transformer_depth 0,1,2 --model.token_width 48"
START = "--model.init_from ''"
TINY = {
    "v1": f"{COLOURISER} {START} --model.vae vae --model.encoder clip",
    "v1_5": "--model.init v1 --model.prediction_type v --model.encoder clip --model.recovery_layers 2 "
    "--system.deepspeed ''",
    "xl-p": f"{XL} {START} --model.vae vae --model.encoder wide --model.tagger tagger",
    "xl-plugin": "--model.init backbone --model.encoder wide --model.tagger tagger --system.deepspeed ''",
    "xl-clip": f"{XL} {START} --model.vae vae --model.encoder square --model.tagger square",
    "animediffusion": "--model.model_channels 32 --model.channel_mult 1,2",
    "animediffusion-2": f"--model.init {FACES}",
}


def training(text: str, words: dict[str, str], folder: Path) -> list[str]:
    """A training command of the page with tiny networks, as a dry run: all checks, sizes, and the data set."""
    config = re.search(r"--config ([\w-]+)", text).group(1)
    preset = max((name for name in TINY if config.startswith(name)), key=len)
    if config == "v1_5-backbone-paper":
        preset = "v1"
    tiny_options = [words.get(word, word) for word in shlex.split(TINY[preset])]
    data = ["--data.folder", words["data/validation"], "--data.size", "64", "--data.workers", "0"]
    step = ["--optimizer.batch", "2", "--optimizer.accumulate", "1", "--system.precision", "fp32"]
    dry = [] if "--dry-run" in text else ["--dry-run"]
    return [*shlex.split(text), *tiny_options, *data, *step, "--run.output", str(folder / "run"), *dry]


def _one_step(predict: Callable, x: torch.Tensor, *_: object) -> torch.Tensor:
    return x - predict(x, torch.full((len(x),), 999))


@pytest.mark.parametrize("text", commands())
def test_the_command_runs(text, words, tmp_path, capsys, monkeypatch):
    verb = text.split()[0]
    if verb == "train":
        assert main(training(text, words, tmp_path)) == 0
        return
    arguments = [part for word in text.split() for part in words.get(word, word).split()]
    arguments += shlex.split(SMALL[verb])
    if "ddpm" in arguments:  # whose thousand steps cannot be fewer: one of them
        at = arguments.index("--steps")
        del arguments[at : at + 2]
        monkeypatch.setattr(evaluate_faces, "sample_ddpm", _one_step)
    if verb == "evaluate" and "--checkpoint" not in arguments:
        arguments += ["--encoder", words["clip"]]
    output = tmp_path / ("out.png" if verb == "sample" else "out")
    if "--pairs" in arguments:
        arguments[arguments.index("--pairs") + 1] = str(output)
    else:
        arguments += ["--output", str(output)]
    assert main(arguments) == 0, capsys.readouterr().err
    assert output.exists() and (output.is_file() or any(output.iterdir()))
