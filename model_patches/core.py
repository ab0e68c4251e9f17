"""The ComfyUI around us: is it one that this pack was tested with, and does it wait in a way that others can bear."""

from __future__ import annotations

import json
import os
import re
import sys

import comfy.model_management
import comfyui_version

from ..colorize.preflight.samplers import SETTINGS

TESTED = ("0.21.0", "0.33.0")  # oldest and newest; the oldest is requires-comfyui of pyproject.toml


def numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: "0.30.0rc1" -> (0, 30, 0)."""
    return tuple(int(part) for part in re.split(r"[^\d.]", version)[0].split(".") if part)


def age_remark(version: str | None = None) -> str:
    """One sentence when ComfyUI (`version`, None reads it) is older than the oldest that was tested, else ""."""
    version = comfyui_version.__version__ if version is None else version
    if numbers(version) >= numbers(TESTED[0]):
        return ""
    return f"This is ComfyUI {version}; Colorize Diffusion was tested with {TESTED[0]} to {TESTED[1]}."


def waiting_remark() -> str:
    """One sentence when the CPU computes and its threads spin while they wait, else ""."""
    if comfy.model_management.cpu_state != comfy.model_management.CPUState.CPU or os.environ.get("OMP_WAIT_POLICY"):
        return ""
    return (
        "Colorize Diffusion computes on the CPU: start ComfyUI with the environment variable OMP_WAIT_POLICY=PASSIVE, "
        "else a picture takes many times longer while other programs work (README, On a CPU)."
    )


def running_samplers() -> str:
    """How the samplers of the graph that ComfyUI runs now are set, as text; "" where no server runs one.

    ComfyUI asks every node what its answer depends on, and shows it its own inputs only: the graph is in the queue.
    """
    prompt_server = getattr(sys.modules.get("server"), "PromptServer", None)  # not there in programs without a server
    queue = getattr(getattr(prompt_server, "instance", None), "prompt_queue", None)
    running = getattr(queue, "currently_running", {})  # number -> (number, id, graph, ...)
    nodes = [node for item in list(running.values()) for node in item[2].values()]
    found = [[node["inputs"].get(name) for name in SETTINGS] for node in nodes]
    return json.dumps([each for each in found if None not in each], default=str)
