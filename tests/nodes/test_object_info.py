"""What ComfyUI tells the world about our nodes, frozen: a change of an id, input, type or default breaks saved graphs.

After a wanted change: COLORIZE_UPDATE_SNAPSHOTS=1 python -m pytest tests/nodes/test_object_info.py
It rewrites object_info.json here and the English texts in locales/en/nodeDefs.json; look at the difference.
"""

import json
import os
import re
from pathlib import Path

import pytest

SNAPSHOT = Path(__file__).with_name("object_info.json")
ROOT = Path(__file__).resolve().parents[2]
LOCALES = ROOT / "locales"
DOCS = ROOT / "web" / "docs"
UPDATE = os.environ.get("COLORIZE_UPDATE_SNAPSHOTS") == "1"
# Their options are the files of the machine.
FILE_WIDGETS = {"ckpt_name", "encoder_name", "card_name", "extractor_name", "segmenter_name", "tagger_name", "source"}

SHELVES = ("basic", "masks", "reference", "editing", "guidance", "flats", "AnimeDiffusion", "tools")  # of the menu
ABBREVIATIONS = {"v", "eps", "ddim", "ddpm", "psd", "ora"}  # choices that are the same in every language
IDS = [
    "ColorizeLoadCheckpoint",
    "ColorizeLoadLineExtractor",
    "ColorizeExtractSketch",
    "ColorizePrepareSketch",
    "ColorizeSketchStrength",
    "ColorizeLoadReferenceEncoder",
    "ColorizeLoadSegmenter",
    "ColorizeSegmentCharacter",
    "ColorizeFigureFromDrawing",
    "ColorizeLoadTagger",
    "ColorizeTagReference",
    "ColorizeEncodeReference",
    "ColorizeLoadTextEncoder",
    "ColorizeCorrelationPreview",
    "ColorizeManipulateGlobal",
    "ColorizeManipulateLocal",
    "ColorizeSaveReference",
    "ColorizeLoadReference",
    "ColorizeAddRegion",
    "ColorizeReferenceStrength",
    "ColorizeBlendReferences",
    "ColorizePreflight",
    "ColorizeApplyReference",
    "ColorizeApplyBackgroundPlugin",
    "ColorizeApplyStyleBackground",
    "ColorizeAttentionInjection",
    "ColorizeAdaIN",
    "ColorizeDualGuidance",
    "ColorizeRestoreSize",
    "ColorizeFindRegions",
    "ColorizeFlattenColors",
    "ColorizePaletteFromReference",
    "ColorizeLockToPalette",
    "ColorizeLoadFrames",
    "ColorizeMatchRegions",
    "ColorizeCarryColors",
    "ColorizeFollowFigures",
    "ColorizeShotNoise",
    "ColorizeSaveLayers",
    "ColorizeEntanglementMeter",
    "ColorizePlaceViews",
    "ColorizeLoadAnimeDiffusion",
    "ColorizeAnimeDiffusionConditioning",
    "ColorizeAnimeDiffusionSampler",
]


@pytest.fixture(scope="module")
def info(pack):
    """/object_info of our nodes, by the code the server runs, without this machine's files."""
    out = {}
    for node_id in sorted(pack.comfy_nodes.NODE_CLASS_MAPPINGS):
        node = pack.node(node_id)
        if getattr(node, "RELATIVE_PYTHON_MODULE", None) == f"custom_nodes.{ROOT.name}":
            out[node_id] = node.GET_NODE_INFO_V1()
            out[node_id]["python_module"] = "custom_nodes.comfyui-colorize-diffusion"
            for inputs in out[node_id]["input"].values():
                for name in FILE_WIDGETS & set(inputs):
                    inputs[name][1]["options"] = []
    return json.loads(json.dumps(out))


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def inputs_of(node):
    groups = (specs for group, specs in node["input"].items() if group != "hidden")
    return {name: spec for specs in groups for name, spec in specs.items()}


def texts_of(node):
    """The part of a node that translations cover."""
    inputs = {}
    for name, (kind, options) in inputs_of(node).items():
        inputs[name] = {"name": options.get("display_name", name), "tooltip": options["tooltip"]}
        if kind == "COMBO" and options["options"]:
            inputs[name]["options"] = {option: option for option in options["options"]}
    outputs = {
        str(i): {"name": name, "tooltip": tooltip}
        for i, (name, tooltip) in enumerate(zip(node["output_name"], node["output_tooltips"], strict=True))
    }
    return dict(display_name=node["display_name"], description=node["description"], inputs=inputs, outputs=outputs)


def test_snapshot(info):
    if UPDATE:
        write(SNAPSHOT, info)
    assert info == json.loads(SNAPSHOT.read_text(encoding="utf-8")), "see the docstring of this file"


def test_ids_are_frozen(info):
    assert sorted(info) == sorted(IDS)


@pytest.mark.parametrize("kind", ["REFERENCE", "COLORIZER"])
def test_a_dropped_link_suggests_the_way_to_a_picture_first(pack, info, kind):
    """The frontend offers the first nodes, in the order of the list, that need an input of the link's kind."""
    takers = [
        node_id
        for node_id in pack.comfy_nodes.NODE_CLASS_MAPPINGS
        if node_id in info and any(spec[0] == kind for spec in info[node_id]["input"].get("required", {}).values())
    ]
    assert takers[0] == "ColorizeApplyReference"


def test_every_text_is_there(info):
    for node_id, node in info.items():
        root, shelf = node["category"].split("/")
        assert root == "Colorize Diffusion" and shelf in SHELVES, node_id
        assert node["display_name"] and len(node["description"]) > 40, node_id
        assert node["search_aliases"], node_id
        assert all(node["output_tooltips"]) and all(node["output_name"]), node_id
        for name, (_, options) in inputs_of(node).items():
            assert options.get("tooltip"), f"{node_id}.{name} has no tooltip"


def test_defaults_are_valid(info):
    for node_id, node in info.items():
        for name, (kind, options) in inputs_of(node).items():
            if kind == "COMBO" and name not in FILE_WIDGETS:
                assert options["default"] in options["options"], f"{node_id}.{name}"
            if kind in ("INT", "FLOAT"):
                assert options["min"] <= options["default"] <= options["max"], f"{node_id}.{name}"


def test_english_texts_are_those_of_the_nodes(info):
    path = LOCALES / "en" / "nodeDefs.json"
    expected = {node_id: texts_of(node) for node_id, node in info.items()}
    if UPDATE:
        write(path, expected)
    assert json.loads(path.read_text(encoding="utf-8")) == expected


@pytest.mark.parametrize("language", ["ja", "zh"])
def test_translations_are_complete(info, language):
    translated = json.loads((LOCALES / language / "nodeDefs.json").read_text(encoding="utf-8"))
    main = json.loads((LOCALES / language / "main.json").read_text(encoding="utf-8"))
    assert {"Colorize Diffusion", *SHELVES} <= set(main["nodeCategories"])

    options = {
        (node_id, value): text
        for node_id, node in translated.items()
        for slot in node["inputs"].values()
        for value, text in slot.get("options", {}).items()
    }
    same = {value for (_, value), text in options.items() if value == text}
    assert same <= ABBREVIATIONS, f"{language}: {sorted(same - ABBREVIATIONS)} are not translated"

    def compare(ours, theirs, where):
        assert set(ours) == set(theirs), f"{language} {where}"
        for key, value in ours.items():
            if isinstance(value, dict):
                compare(value, theirs[key], f"{where}.{key}")
            else:
                assert theirs[key].strip(), f"{language} {where}.{key}"
                if key in ("tooltip", "description"):
                    assert re.search(r"[\u3040-\u9fff]", theirs[key]), f"{language} {where}.{key} is not translated"

    compare({node_id: texts_of(node) for node_id, node in info.items()}, translated, "nodeDefs")


def test_a_help_page_for_every_node(info):
    pages = {path.stem: path.read_text(encoding="utf-8") for path in DOCS.glob("*.md")}
    assert set(pages) == set(info)
    for node_id, page in pages.items():
        for name in [*inputs_of(info[node_id]), *info[node_id]["output_name"]]:
            assert f"`{name}`" in page, f"{node_id}.md says nothing about {name}"
