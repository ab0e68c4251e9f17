"""The shipped workflows: where each of their files lies.

A workflow NAME has an API form, workflows/api/NAME.json, and a layout, tests/browser/NAME_layout.json, from which
`python -m tests.browser make` arranges it into the template that ComfyUI shows. A template's file name is its title.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
LAYOUTS = ROOT / "tests" / "browser"
EXAMPLES = ROOT / "workflows" / "examples"
TEMPLATES = ROOT / "example_workflows"
PREFIX = "colorize_"  # of the pictures in ComfyUI's input folder: nodes/example_pictures.py
NAMES = sorted(file.name.removesuffix("_layout.json") for file in LAYOUTS.glob("*_layout.json"))


def layout(name: str) -> Path:
    return LAYOUTS / f"{name}_layout.json"


def api(name: str) -> Path:
    return ROOT / "workflows" / "api" / f"{name}.json"


def template(name: str) -> Path:
    """The UI workflow as ComfyUI's template browser finds it."""
    return TEMPLATES / (json.loads(layout(name).read_text(encoding="utf-8"))["name"] + ".json")


def example(picture: str) -> Path:
    """The file that lies in ComfyUI's input folder under the name `picture`."""
    return EXAMPLES / picture.removeprefix(PREFIX)


def examples(name: str) -> dict[str, Path]:
    """The examples that a workflow loads: title of the node -> picture, or video of a shot."""
    nodes = json.loads(api(name).read_text(encoding="utf-8")).values()
    inputs = {"LoadImage": "image", "LoadImageMask": "image", "ColorizeLoadFrames": "source"}
    loads = (node for node in nodes if node["class_type"] in inputs)
    return {node["_meta"]["title"]: example(node["inputs"][inputs[node["class_type"]]]) for node in loads}


def packs() -> dict[str, dict[str, str]]:
    """What a template's nodes say about the pack they come from: ours, and ComfyUI's own."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    name, version, core = (
        re.search(rf'^{key} = "(?:>=)?(.+?)"', text, re.MULTILINE)[1] for key in ("name", "version", "requires-comfyui")
    )
    return {"ours": {"cnr_id": name, "ver": version}, "core": {"cnr_id": "comfy-core", "ver": core}}
