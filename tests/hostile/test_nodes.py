"""Hostile files given to the nodes of a real server: no code run, no program started, each told, the server goes on."""

from __future__ import annotations

import json
import math
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil  # ComfyUI brings it
import pytest

from conftest import ROOT, find_comfyui, skip_unless_required
from tests.hostile import files

pytestmark = pytest.mark.server

LOADERS = {
    "ColorizeLoadCheckpoint": ("checkpoints", "ckpt_name"),
    "ColorizeLoadAnimeDiffusion": ("checkpoints", "ckpt_name"),
    "ColorizeLoadReferenceEncoder": ("clip_vision", "encoder_name"),
    "ColorizeLoadTextEncoder": ("text_encoders", "encoder_name"),
    "ColorizeLoadTagger": ("colorize_taggers", "tagger_name"),
    "ColorizeLoadLineExtractor": ("colorize_extractors", "extractor_name"),
    "ColorizeLoadSegmenter": ("background_removal", "segmenter_name"),
}
CHOICES = {"ColorizeLoadCheckpoint": {"prediction_type": "auto"}, "ColorizeLoadSegmenter": {"made_for": "pictures"}}
MOST_MEMORY = 1500  # MiB above the server's start
LONGEST = 30.0  # processor seconds of the server for a file
HANG = 1200.0  # seconds after which nobody waits any longer
OURS = ("CheckpointError", "CardError", "ValueError")


class Server:
    def __init__(self, process: subprocess.Popen, port: int):
        self.process, self.address = process, f"http://127.0.0.1:{port}"

    def ask(self, path: str, document=None):
        data = None if document is None else json.dumps(document).encode()
        request = urllib.request.Request(self.address + path, data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return json.loads(error.read())

    def error(self, node: str, **inputs) -> dict:
        """What the server says of a graph of one node whose first output is shown."""
        graph = {"1": {"class_type": node, "inputs": inputs}}
        graph["2"] = {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}}
        queued = self.ask("/prompt", {"prompt": graph})
        if "prompt_id" not in queued:  # not offered, or known to be wrong before the run
            problem, *others = queued["node_errors"]["1"]["errors"]
            assert not others and problem["type"] in ("value_not_in_list", "custom_validation_failed"), queued
            return {problem["type"]: problem["details"]}
        before, start = self.seconds(), time.monotonic()
        while self.seconds() - before < LONGEST and time.monotonic() - start < HANG:
            if entry := self.ask(f"/history/{queued['prompt_id']}").get(queued["prompt_id"]):
                status = entry["status"]
                return next((m[1] for m in status["messages"] if m[0] == "execution_error"), status)
            time.sleep(0.25)
        raise AssertionError(f"{node} {inputs} takes longer than {LONGEST} processor seconds, or hangs")

    def seconds(self) -> float:
        """Processor time of the server so far."""
        return sum(psutil.Process(self.process.pid).cpu_times()[:2])

    def memory(self) -> float:
        """Largest memory of the process so far, MiB; 0 where the system does not say."""
        status = Path(f"/proc/{self.process.pid}/status")
        lines = status.read_text().splitlines() if status.is_file() else []
        return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    base = tmp_path_factory.mktemp("hostile")
    names = files.weights(base / "weights")
    for kind in dict.fromkeys(kind for kind, _ in LOADERS.values()):
        (base / "models" / kind).mkdir(parents=True)
        for name in names:
            os.link(base / "weights" / name, base / "models" / kind / name)
    files.cards(base / "output" / "references")
    (base / "custom_nodes").mkdir()
    (base / "input").mkdir()
    (base / "custom_nodes" / "colorize").symlink_to(ROOT, target_is_directory=True)
    (base / "bin").mkdir()
    (base / "bin" / "gs").write_text(f'#!/bin/sh\necho "$@" >> "{base}/started"\nexit 1\n')
    (base / "bin" / "gs").chmod(0o755)
    return base


@pytest.fixture(scope="module")
def server(folder):
    comfyui = find_comfyui()
    if comfyui is None:
        skip_unless_required("COMFYUI", "ComfyUI not found")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environ = os.environ | {"PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}", "HF_HUB_OFFLINE": "1"}
    environ.pop("PYTHONPATH", None)
    command = [sys.executable, str(comfyui / "main.py"), "--cpu", "--port", str(port), "--base-directory", str(folder)]
    command += ["--database-url", "sqlite:///:memory:", "--disable-auto-launch", "--disable-api-nodes"]
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=environ, stdout=log, stderr=subprocess.STDOUT)
    try:
        server = Server(process, port)
        for _ in range(2400):
            assert process.poll() is None, (folder / "log.txt").read_text(errors="replace")[-3000:]
            try:
                server.ask("/system_stats")
                break
            except OSError:
                time.sleep(0.5)
        yield server
    finally:
        process.terminate()
        process.wait(300)


def test_every_file_is_told_and_the_server_goes_on(server, folder):
    before, start = sorted(path for path in folder.rglob("*")), server.memory()
    for node, (kind, given) in LOADERS.items():
        for name in sorted(path.name for path in (folder / "models" / kind).iterdir()):
            said = server.error(node, **{given: name}, **CHOICES.get(node, {}))
            if "value_not_in_list" in said:
                assert kind == "checkpoints" or name == "evil.ckpt", (node, name)
                continue
            if "custom_validation_failed" in said:
                assert name in said["custom_validation_failed"], (node, name, said)
                continue
            assert said.get("exception_type", "").rpartition(".")[2] in OURS, (node, name, said)
            assert name.partition(".")[0] in said["exception_message"], (node, name, said["exception_message"])
    for name in sorted(path.name for path in (folder / "output" / "references").iterdir()):
        said = server.error("ColorizeLoadReference", card_name=f"references/{name} [output]")
        assert said.get("exception_type", "").rpartition(".")[2] == "CardError", (name, said)
    assert server.process.poll() is None
    assert server.memory() - start < MOST_MEMORY
    assert not (folder / files.RAN).exists() and not (folder / "started").exists()
    made = {path.relative_to(folder).parts[0] for path in set(folder.rglob("*")) - set(before)}
    assert made <= {"user", "temp", "models"}  # ComfyUI's own


def test_nan_through_the_api_is_refused(server, folder):
    shutil.copy(ROOT / "docs" / "images" / "hero.jpg", folder / "input" / "a.jpg")
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "a.jpg"}},
        "2": {
            "class_type": "ColorizePrepareSketch",
            "inputs": {"image": ["1", 0], "width": 64, "height": 64, "fit": "pad", "polarity": "auto",
                       "line_contrast": math.nan, "clean_paper": False},
        },
        "3": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}},
    }  # fmt: skip
    queued = server.ask("/prompt", {"prompt": graph})
    assert "prompt_id" in queued, queued
    for _ in range(120):
        if entry := server.ask(f"/history/{queued['prompt_id']}").get(queued["prompt_id"]):
            break
        time.sleep(0.25)
    said = next(m[1] for m in entry["status"]["messages"] if m[0] == "execution_error")
    assert "line_contrast is nan, which is no number" in said["exception_message"]
