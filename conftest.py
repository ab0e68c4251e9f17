"""Test set-up: finds ComfyUI and loads the pack into it the way ComfyUI does.

Two things need care. The pack's folder `nodes/` has the name of ComfyUI's module `nodes`, so the repository root must
not be on sys.path while ComfyUI is imported; afterwards it may, because `nodes` is then settled. And the root
`__init__.py` must not make pytest treat the repository, whose folder can have any name, as a package.
"""

from __future__ import annotations

import asyncio
import atexit
import importlib
import json
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent

# A suite started in the background inherits an ignored Ctrl-C, and so would every program that the tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is loaded; processes that tests start inherit it
NO_COMFYUI = "ComfyUI not found; set COMFYUI_PATH to its folder (the one with main.py)"

# The trainer and the pure networks are imported from the root, as `python -m trainer` does.
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))


def find_comfyui() -> Path | None:
    """ComfyUI's folder where quickstart finds it; None without one. A wrong $COMFYUI_PATH is an error."""
    from quickstart_lib import comfyui, environment

    return comfyui.find(ROOT, os.environ, Path.home(), environment.cache_folder(os.environ, Path.home()))


class Pack:
    """The loaded pack: its nodes and its modules."""

    def __init__(self, name: str, comfy_nodes: ModuleType, base: Path):
        self.name = name
        self.comfy_nodes = comfy_nodes  # ComfyUI's module `nodes`
        self.base = base  # ComfyUI's data folder of this test run

    def module(self, path: str) -> ModuleType:
        """A module of the pack as ComfyUI sees it: pack.module("model_patches.model.model")."""
        return importlib.import_module(f"{self.name}.{path}")

    def node(self, node_id: str):
        """A node class, ours or ComfyUI's."""
        return self.comfy_nodes.NODE_CLASS_MAPPINGS[node_id]

    def run(self, node_id: str, *args, **kwargs) -> tuple:
        """Execute a node, outputs as a tuple; inputs that are left out take the schema's defaults."""
        node = self.node(node_id)
        if hasattr(node, "execute"):
            result = node.EXECUTE_NORMALIZED(*args, **kwargs)
            return result.result
        return getattr(node(), node.FUNCTION)(*args, **kwargs)


def load_pack() -> Pack:
    """Import ComfyUI for the CPU and load this folder as a custom node pack through ComfyUI's own loader."""
    comfyui = find_comfyui()
    if comfyui is None:
        raise FileNotFoundError(NO_COMFYUI)
    saved = list(sys.path)
    sys.path[:] = [str(comfyui)] + [p for p in saved if Path(p or os.curdir).resolve() != ROOT]
    try:
        from comfy.cli_args import args

        base = Path(tempfile.mkdtemp(prefix="colorize-tests-"))
        atexit.register(shutil.rmtree, base, ignore_errors=True)
        (base / "custom_nodes").mkdir()
        args.cpu = True
        args.base_directory = str(base)
        args.use_pytorch_cross_attention = True

        comfy_nodes = importlib.import_module("nodes")
        if Path(comfy_nodes.__file__).resolve().parent != comfyui.resolve():
            raise ImportError(
                f"'nodes' is {comfy_nodes.__file__}, not ComfyUI's; something imported the pack's folder before."
            )
        if not asyncio.run(comfy_nodes.load_custom_node(str(ROOT))):
            raise ImportError("ComfyUI could not load the pack; its log (pytest -s) says why.")
    finally:
        sys.path[:] = [*saved, str(comfyui)]
    # ComfyUI names a pack's module after its whole path.
    return Pack(str(ROOT).replace(".", "_x_"), comfy_nodes, base)


def skip_unless_required(what: str, reason: str) -> None:
    """Skip the test, or fail it where the environment says that nothing may be skipped (.ci/run)."""
    (pytest.fail if os.environ.get(f"COLORIZE_REQUIRE_{what}") == "1" else pytest.skip)(reason)


@pytest.fixture(scope="session")
def pack() -> Pack:
    """The pack inside ComfyUI, or a skip that says what is missing."""
    if find_comfyui() is None:
        skip_unless_required("COMFYUI", NO_COMFYUI)
    return load_pack()


@pytest.fixture(scope="session")
def golden_keys():
    """golden_keys("v1"): names of a released checkpoint -> meta tensors of its shapes, or a skip."""

    def load(name: str) -> dict:
        import torch

        path = golden_file(f"keys/{name}.json")
        if path is None:
            skip_unless_required("GOLDEN", f"the released names of {name} are not here; set GOLDEN_DIR to the full set")
        shapes = json.loads(path.read_text(encoding="utf-8"))
        return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}

    return load


def golden_file(name: str) -> Path | None:
    """A file of the golden set: from $GOLDEN_DIR, from beside the repository, or from the part that is shipped."""
    folders = [os.environ.get("GOLDEN_DIR"), ROOT.parent / "shared" / "golden", ROOT / "tests" / "golden" / "data"]
    return next((path for folder in folders if folder and (path := Path(folder) / name).is_file()), None)


def pytest_collect_directory(path: Path, parent):
    if path == ROOT:
        return pytest.Dir.from_parent(parent, path=path)
    return None


def pytest_collection_modifyitems(items):
    for item in items:
        if "pack" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.comfyui)
