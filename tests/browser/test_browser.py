"""The shipped workflows in a real browser: dropped on the canvas, queued, finished, without a complaint."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.browser import stand_ins
from tests.workflows.shipped import NAMES, api, layout, packs, template

SCRIPT = Path(__file__).with_name("browser.cjs")
STEPS = Path(__file__).with_name("first_steps.json")
ALL = os.environ.get("COLORIZE_EVERY_TEMPLATE") == "1"  # the others take minutes each on a CPU
RUN = [name for name in NAMES if ALL or name in ("quickstart", "animediffusion")]
MADE = [name for name in NAMES if ALL or name == "quickstart"]
pytestmark = [pytest.mark.comfyui, pytest.mark.server, pytest.mark.browser]


@pytest.fixture(scope="session")
def browse():
    """Returns a function that runs browser.cjs; skips where chromium, node or playwright-core is missing."""
    from quickstart_lib import environment

    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    modules = environment.cache_folder(os.environ, Path.home()) / "npm" / "node_modules"
    if not chromium:
        pytest.skip("no chromium: install it, or name the browser with $CHROMIUM")
    if not shutil.which("node"):
        pytest.skip("no node: install Node.js")
    if not (modules / "playwright-core").is_dir():
        pytest.skip(f"no playwright-core: npm install --prefix {modules.parent} playwright-core")

    def run(*arguments: str) -> dict:
        result = subprocess.run(
            ["node", str(SCRIPT), *arguments],
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
            env={**os.environ, "NODE_PATH": str(modules), "CHROMIUM": chromium},
        )
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)

    return run


@pytest.mark.parametrize("name", RUN)
def test_a_template_runs_at_once(name, browse, live_server, tmp_path):
    """On a fresh installation: opened and run, a picture, no complaint, and no node covers another afterwards."""
    file = template(name)
    steps = "2" if stand_ins.downloads(file) else ""  # of official sizes, and what stand-ins paint means nothing
    url, picture = f"http://127.0.0.1:{live_server.port}", str(tmp_path / "picture.png")
    with stand_ins.placed(file, live_server.base):
        seen = browse("check", url, str(file), picture, "", steps)
    assert seen["missing"] == [] and seen["dialogs"] == []
    assert seen["complaints"] == [] and seen["errors"] == []
    assert seen["status"]["status_str"] == "success", seen["status"]
    assert any(output.get("images") for output in seen["outputs"].values())
    assert overlaps(seen["boxes"]) == []


def overlaps(boxes: list[list]) -> list[tuple[str, str]]:
    """Pairs of nodes, each (title, left, top, right, bottom) with its title bar, of which one lies on the other."""
    return [
        (a[0], b[0])
        for index, a in enumerate(boxes)
        for b in boxes[index + 1 :]
        if a[1] < b[3] and b[1] < a[3] and a[2] < b[4] and b[2] < a[4]
    ]


def test_the_template_browser_finds_and_opens_the_quickstart(browse, live_server):
    """By its title among all of ComfyUI's templates, with a thumbnail, at a zoom at which its text is drawn."""
    title = template("quickstart").stem
    seen = browse("browse", f"http://127.0.0.1:{live_server.port}", "colorize", title)
    assert {template(name).stem for name in NAMES} <= set(seen["titles"])
    assert seen["thumbnails"] and min(seen["thumbnails"]) > 0
    assert seen["nodes"] and seen["scale"] >= 0.62  # below 0.57 the frontend draws no names of nodes


def test_missing_files_are_offered_for_download(browse, live_server):
    """A workflow for official files, dropped where they are not: ComfyUI names each file."""
    file = template("edit_reference")
    names = [model["name"] for model in stand_ins.downloads(file)]
    seen = browse("offers", f"http://127.0.0.1:{live_server.port}", str(file), json.dumps(names))
    assert names and [name for name in names if name not in seen["words"]] == [], seen["words"][:4000]
    assert seen["missing"] == []


def test_a_first_graph_by_hand(browse, live_server, tmp_path):
    """An empty canvas; our six nodes, each the first answer to its search; links; Run; a picture. Only files of the
    loaders are not chosen: the first of each list must be one that works."""
    steps = json.loads(STEPS.read_text(encoding="utf-8"))
    seen = browse("first", f"http://127.0.0.1:{live_server.port}", str(STEPS), str(tmp_path / "first.png"))
    assert seen["found"] == [node["type"] for node in steps["nodes"]]
    assert seen["status"]["status_str"] == "success", seen["status"]
    assert any(output.get("images") for output in seen["outputs"].values()) and seen["errors"] == []


def test_the_blueprint_runs(browse, live_server, tmp_path):
    """The one node, its pictures and its result; widgets of nodes inside are set on it."""
    steps = SCRIPT.with_name("blueprint_steps.json")
    seen = browse("first", f"http://127.0.0.1:{live_server.port}", str(steps), str(tmp_path / "blueprint.png"))
    assert seen["found"] == ["Colorize a sketch", "LoadImage", "LoadImage", "SaveImage"] and seen["errors"] == []
    assert seen["status"]["status_str"] == "success", seen["status"]
    assert any(output.get("images") for output in seen["outputs"].values())
    listed = live_server.get_json("/global_subgraphs").values()
    assert "Colorize a sketch" in {entry["name"] for entry in listed}


@pytest.mark.parametrize("name", MADE)
def test_making_the_template_again_changes_nothing(name, browse, live_server, tmp_path):
    file = tmp_path / "made.json"
    url = f"http://127.0.0.1:{live_server.port}"
    browse("make", url, str(api(name)), str(layout(name)), json.dumps(packs()), str(file))
    made, shipped = (json.loads(f.read_text(encoding="utf-8")) for f in (file, template(name)))
    keys = ("type", "title", "pos", "mode", "widgets_values")
    assert [{k: node.get(k) for k in keys} for node in made["nodes"]] == [
        {k: node.get(k) for k in keys} for node in shipped["nodes"]
    ]
    models = [[node["properties"].get("models") for node in graph["nodes"]] for graph in (made, shipped)]
    assert models[0] == models[1]
