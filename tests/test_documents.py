"""Every sentence true: what a document claims is there. documents.py says how claims are found."""

import importlib
import re
from pathlib import Path

import pytest
from PIL import Image

from tests import documents
from tests.documents import ROOT, Claim

SOURCES = ("nodes", "model_patches", "colorize", "quickstart_lib")
OURS = {"trainer", "quickstart_lib.type_check", "tests.bench", "tests.golden", "tests.browser", "tests.mutations"}
MADE = ("models/",)  # folders of ComfyUI that have the name of one of ours


def ids(claims):
    return [f"{claim.where} {claim.text}"[:90] for claim in claims]


COMMANDS = documents.commands()


@pytest.mark.parametrize("claim", COMMANDS, ids=ids(COMMANDS))
def test_commands_have_their_options(claim):
    words = documents.words(claim.text)
    if words[0] == "quickstart.py":
        quickstart(words[1:], claim)
    else:
        assert words[0] == "-m" and words[1] in OURS, f"{claim.where}: no program of ours: {claim.text}"
        assert importlib.util.find_spec(words[1]), claim.where
        if words[1] == "trainer":
            trainer(words[2:], claim)
        if words[1] == "tests.bench":
            benchmark(words[2:], claim)


def quickstart(words: list[str], claim: Claim) -> None:
    from quickstart_lib.options import parser

    known = set(parser()._option_string_actions)
    assert {word for word in words if word.startswith("--")} <= known, claim


def trainer(words: list[str], claim: Claim) -> None:
    from trainer.__main__ import COMMANDS as VERBS
    from trainer.__main__ import _parser

    if not words or documents.PLACEHOLDER.match(words[0]):
        return
    verb = words[0]
    assert verb == "train" or verb in VERBS, f"{claim.where}: there is no command {verb}"
    verbs = next(a for a in _parser([verb])._actions if a.dest == "command").choices
    known = set(verbs[verb]._option_string_actions)
    sections = sections_of_a_run()
    for word in (word.split("=")[0] for word in words[1:] if word.startswith("--")):
        section, _, key = word.removeprefix("--").partition(".")
        takes = verb in ("train", "cache") and key in sections.get(section, ())
        assert word in known or takes, f"{claim.where}: {verb} has no option {word}"
    if "--config" in words:
        preset = words[words.index("--config") + 1]
        there = (ROOT / "trainer" / "presets" / f"{preset}.toml").is_file()
        assert there or preset.endswith(".toml") or documents.PLACEHOLDER.match(preset), f"{claim.where}: {preset}"


def sections_of_a_run() -> dict[str, set[str]]:
    """Section of a run's configuration -> its keys."""
    from dataclasses import fields

    from trainer.config import Config

    return {part.name: {key.name for key in fields(part.default_factory)} for part in fields(Config)}


def benchmark(words: list[str], claim: Claim) -> None:
    from tests.bench.__main__ import WITHOUT_COMFYUI

    if not words or words[0].startswith(("-", "[")):
        return
    names = {*WITHOUT_COMFYUI, *re.findall(r'^\s+"(\w+)"', (ROOT / "tests/bench/run.py").read_text(), re.MULTILINE)}
    assert words[0] in names, f"{claim.where}: there is no benchmark {words[0]}"
    if words[0] in WITHOUT_COMFYUI:
        source = Path(importlib.util.find_spec(WITHOUT_COMFYUI[words[0]]).origin).read_text(encoding="utf-8")
        for word in (word for word in words[1:] if word.startswith("--")):
            assert f'"{word}"' in source, f"{claim.where}: {words[0]} has no option {word}"


PATHS = [claim for claim in documents.paths() if not claim.text.startswith(MADE) or "safetensors" in claim.text]


@pytest.mark.parametrize("claim", PATHS, ids=ids(PATHS))
def test_files_are_there(claim):
    if claim.text.startswith("models/") and not list((ROOT / "models").glob("*/*.safetensors")):
        pytest.skip("the bundled models were left out")
    assert (ROOT / claim.text).exists(), f"{claim.where}: {claim.text}"


INPUTS = documents.inputs_of_nodes()


@pytest.mark.parametrize(("claim", "node", "name"), INPUTS, ids=[f"{c.where} {n}: {i}" for c, n, i in INPUTS])
def test_nodes_have_these_inputs(claim, node, name):
    assert name in documents.nodes()[node], f"{claim.where}: {node} has no {name}: {claim.text}"


MESSAGES = documents.messages()


@pytest.mark.parametrize("claim", MESSAGES, ids=ids(MESSAGES))
def test_messages_are_said_somewhere(claim):
    """Their words stand in the code, between the values that a message puts in."""
    code = "\n".join(
        re.sub(r'"\s*\n\s*f?"', "", file.read_text(encoding="utf-8"))
        for folder in SOURCES
        for file in (ROOT / folder).rglob("*.py")
    )
    parts = [part.strip() for part in claim.text.split("...")]
    assert all(part in code for part in parts), f"{claim.where}: nobody says {claim.text!r}"


def test_claims_are_found():
    """The checks above check something: the documents are not written in another form than they read."""
    assert len(COMMANDS) > 40 and len(PATHS) > 60 and len(INPUTS) > 20 and len(MESSAGES) > 8


def test_versions_are_those_of_the_package():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    comfyui = re.search(r'requires-comfyui = ">=(\d+\.\d+)', text)[1]
    python = re.search(r'requires-python = ">=(\d+\.\d+)', text)[1]
    onnx = re.search(r"onnxruntime>=(\d+\.\d+)", text)[1]
    assert f"({comfyui} or newer)" in readme and f"Python {python} or newer" in readme
    assert f"`onnxruntime` {onnx} or newer" in readme


def test_the_registry_s_pictures_are_files_of_the_repository():
    """The registry wants an address: a square of at most 400 pixels, and a banner of 21:9."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    owner = re.search(r'Repository = "https://github.com/(.+)"', text)[1]
    sizes = {}
    for name in ("Icon", "Banner"):
        path = re.search(rf'{name} = "https://raw.githubusercontent.com/{owner}/main/(.+)"', text)[1]
        assert (ROOT / path).stat().st_size < 100_000 and (ROOT / path).with_suffix(".svg").is_file()
        with Image.open(ROOT / path) as image:
            sizes[name] = image.size
    width, height = sizes["Banner"]
    assert sizes["Icon"][0] == sizes["Icon"][1] <= 400 and 9 * width == 21 * height


def test_presets_of_the_training_page_are_there():
    page = (ROOT / "docs" / "TRAINING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w.-]+)` \|", page, re.MULTILINE)
    presets = {file.stem for file in (ROOT / "trainer" / "presets").glob("*.toml")}
    named = {row for row in rows if "-" in row and "." not in row}
    assert named <= presets | {"none"}, named - presets


def test_the_readme_stays_short():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(re.sub(r"\]\([^)]*\)", "]", text).split()) < 2000


def test_sizes_of_bundled_files():
    """What the pages say about downloads that come with the pack."""
    small = ("checkpoints/colorize_small.safetensors", "clip_vision/colorize_small_vision.safetensors")
    files = [ROOT / "models" / name for name in small]
    if not all(file.is_file() for file in files):
        pytest.skip("the bundled models were left out")
    said = re.search(
        r"colorize_small_vision.safetensors`, all modes \| 256 px \| (\d+) MB", (ROOT / "docs/RESULTS.md").read_text()
    )
    assert abs(sum(file.stat().st_size for file in files) / 1e6 - int(said[1])) < 1
