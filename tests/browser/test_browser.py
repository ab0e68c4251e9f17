"""The shipped workflows in a real browser: dropped on the canvas, queued, finished, without a complaint."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.browser import stand_ins

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("browser.cjs")
EXAMPLES = ROOT / "workflows" / "examples"
UI_FILES = sorted((ROOT / "workflows").glob("*.json"))
ALL = os.environ.get("COLORIZE_EVERY_TEMPLATE") == "1"  # the others take minutes each on a CPU
RUN = [f for f in UI_FILES if ALL or f.stem in ("quickstart", "fig2fig", "animediffusion")]
MADE = [f for f in UI_FILES if ALL or f.stem in ("quickstart", "recolor")]
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


@pytest.mark.parametrize("file", RUN, ids=lambda file: file.name)
def test_workflow_runs_from_a_drop(file, browse, live_server, tmp_path):
    for picture in EXAMPLES.glob("*.png"):
        live_server.upload(picture, picture.name)
    with stand_ins.placed(file, live_server.base):
        seen = browse("check", f"http://127.0.0.1:{live_server.port}", str(file), str(tmp_path / "picture.png"))
    assert seen["missing"] == [] and seen["dialogs"] == []
    assert seen["errors"] == []
    assert seen["status"]["status_str"] == "success", seen["status"]
    assert any(output.get("images") for output in seen["outputs"].values())


def test_missing_files_are_offered_for_download(browse, live_server):
    """A workflow for official files, dropped where they are not: ComfyUI names each file."""
    file = ROOT / "workflows" / "edit_reference.json"
    seen = browse("check", f"http://127.0.0.1:{live_server.port}", str(file))
    for model in stand_ins.downloads(file):
        assert model["name"] in seen["words"], seen["words"][:4000]
    assert seen["missing"] == []


@pytest.mark.parametrize("file", MADE, ids=lambda file: file.name)
def test_making_the_ui_workflow_again_changes_nothing(file, browse, live_server, tmp_path):
    layout = Path(__file__).with_name(f"{file.stem}_layout.json")
    browse(
        "make",
        f"http://127.0.0.1:{live_server.port}",
        str(ROOT / "workflows/api" / file.name),
        str(layout),
        str(tmp_path / "made.json"),
    )
    made, shipped = (json.loads(f.read_text(encoding="utf-8")) for f in (tmp_path / "made.json", file))
    keys = ("type", "title", "pos", "mode", "widgets_values")
    assert [{k: node.get(k) for k in keys} for node in made["nodes"]] == [
        {k: node.get(k) for k in keys} for node in shipped["nodes"]
    ]
    models = [[node["properties"].get("models") for node in graph["nodes"]] for graph in (made, shipped)]
    assert models[0] == models[1]
