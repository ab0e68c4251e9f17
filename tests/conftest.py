"""Fixtures for tests that start a real ComfyUI server through quickstart's own code, and for those on two Ray nodes."""

import functools
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def comfyui_folder() -> Path:
    """ComfyUI's folder; skips without one, or fails where COLORIZE_REQUIRE_COMFYUI=1."""
    from quickstart_lib import comfyui, environment

    found = comfyui.find(ROOT, os.environ, Path.home(), environment.cache_folder(os.environ, Path.home()))
    if found is None:
        reason = "ComfyUI not found; set COMFYUI_PATH to its folder (the one with main.py)"
        (pytest.fail if os.environ.get("COLORIZE_REQUIRE_COMFYUI") == "1" else pytest.skip)(reason)
    return found


@pytest.fixture(scope="session")
def current_environment(comfyui_folder):
    """The environment the tests run in, which must be able to start ComfyUI."""
    from quickstart_lib import environment

    return environment.current(comfyui_folder, ROOT, ())


@pytest.fixture(scope="session")
def small_models(tmp_path_factory) -> tuple[Path, Path]:
    """(checkpoint, reference encoder): the bundled files, or random ones of the same layout where they are missing."""
    bundled = (
        ROOT / "models/checkpoints/colorize_small.safetensors",
        ROOT / "models/clip_vision/colorize_small_vision.safetensors",
    )
    if all(file.is_file() for file in bundled):
        return bundled
    from safetensors.torch import save_file

    from tests import tiny

    folder = tmp_path_factory.mktemp("models")
    checkpoint, encoder = (folder / file.name for file in bundled)
    weights = {k: v.contiguous() for k, v in tiny.checkpoint_v1_5().items()}
    save_file(weights, checkpoint, metadata=tiny.METADATA_V1_5)
    tower = tiny.reference_encoder()
    save_file(
        {k: v.contiguous() for k, v in tower.state_dict().items()},
        encoder,
        metadata={
            "colorize.kind": "reference_encoder",
            "colorize.image_size": str(tower.image_size),
            "colorize.head_width": "16",
        },
    )
    return checkpoint, encoder


@pytest.fixture(scope="session")
def live_server(comfyui_folder, current_environment, small_models, tmp_path_factory):
    """One running ComfyUI with this pack for all tests of the session: a quickstart_lib.server.Server."""
    from quickstart_lib.server import Server, place
    from quickstart_lib.terminal import Status

    logs = tmp_path_factory.mktemp("server")
    with Server(current_environment, comfyui_folder, ROOT, logs, Status(sys.__stderr__), cpu=True) as server:
        for file, kind in zip(small_models, ("checkpoints", "clip_vision"), strict=True):
            if ROOT not in file.parents:
                place(file, server.base / "models" / kind / file.name)
        yield server


RAY_NODE = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": 100 * 2**20}


@pytest.fixture(scope="session")
def ray_cluster():
    """Two Ray nodes of one core each on this machine; skips where there is no Ray."""
    ray = pytest.importorskip("ray", reason='ray is not installed: pip install ".[ray]"')
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    cluster = Cluster(initialize_head=True, head_node_args={**RAY_NODE, "include_dashboard": False})
    cluster.add_node(**RAY_NODE)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture
def kill_node(ray_cluster):
    """kill_node(ready) kills the second node as soon as ready() is true; call what it returns to know it is dead."""
    node = next(iter(ray_cluster.worker_nodes))

    def kill_when(ready) -> Callable[[], None]:
        def kill() -> None:
            while not ready():
                time.sleep(0.02)
            ray_cluster.remove_node(node, allow_graceful=False)

        thread = threading.Thread(target=kill, daemon=True)
        thread.start()
        return functools.partial(thread.join, 60)

    yield kill_when
    if not ray_cluster.worker_nodes:
        ray_cluster.add_node(**RAY_NODE)
