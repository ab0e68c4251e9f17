"""Importing the pack: free, quiet, and repeatable."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

PROBE = """
import asyncio, json, socket, sys, time
sys.path.insert(0, sys.argv[1])
from comfy.cli_args import args
args.cpu = True
args.base_directory = sys.argv[3]
import nodes
before = set(sys.modules)
def refuse(*a, **k):
    raise OSError("network used at import")
socket.socket.connect = refuse
start = time.perf_counter()
ok = asyncio.run(nodes.load_custom_node(sys.argv[2]))
seconds = time.perf_counter() - start
new = sorted({m.split(".")[0] for m in set(sys.modules) - before if not m.startswith("/")})
import folder_paths
folders = [p for kind in ("checkpoints", "clip_vision") for p in folder_paths.get_folder_paths(kind)]
print(json.dumps(dict(ok=ok, seconds=seconds, new=new, folders=folders, web=list(nodes.EXTENSION_WEB_DIRS.values()))))
"""


def test_import_is_free(pack, tmp_path):
    """Under a second on top of ComfyUI's own, nothing heavy, no network; folders and help pages are known."""
    comfyui = Path(pack.comfy_nodes.__file__).parent
    (tmp_path / "custom_nodes").mkdir()
    run = subprocess.run(
        [sys.executable, "-c", PROBE, str(comfyui), str(ROOT), str(tmp_path)],
        capture_output=True, text=True, check=True, cwd=tmp_path,
    )  # fmt: skip
    found = json.loads(run.stdout.strip().splitlines()[-1])
    assert found["ok"] and found["seconds"] < 1.0
    heavy = {"open_clip", "timm", "kornia", "cv2", "onnxruntime", "accelerate", "deepspeed", "diffusers", "trainer"}
    assert not heavy & set(found["new"]), found["new"]
    for kind in ("checkpoints", "clip_vision"):
        assert str(ROOT / "models" / kind) in found["folders"]
        # Bundled models come after the user's own: the user's file of the same name wins.
        assert found["folders"].index(str(ROOT / "models" / kind)) > 0
    assert str(ROOT / "web") in [os.path.normpath(p) for p in found["web"]]
    assert "Traceback" not in run.stderr and "Cannot import" not in run.stderr


def test_root_package_imports_nothing():
    """pytest and others may import the root without ComfyUI."""
    code = textwrap.dedent(
        """
        import importlib.util, sys
        before = set(sys.modules)
        root = sys.argv[1]
        spec = importlib.util.spec_from_file_location("p", root + "/__init__.py", submodule_search_locations=[root])
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        assert set(sys.modules) == before, set(sys.modules) - before
        assert callable(module.comfy_entrypoint) and module.WEB_DIRECTORY
        """
    )
    subprocess.run([sys.executable, "-c", code, str(ROOT)], check=True)


def test_no_javascript():
    """The frontend would load every script under the web folder."""
    assert not list((ROOT / "web").rglob("*.js"))


def test_pure_modules_do_not_need_comfyui():
    """The trainer imports families and networks without ComfyUI."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import colorize.families, colorize.pictures.images;"
        "assert not [m for m in sys.modules if m.split('.')[0] in ('comfy', 'comfy_api', 'nodes')]"
    )
    subprocess.run([sys.executable, "-c", code, str(ROOT)], check=True)
