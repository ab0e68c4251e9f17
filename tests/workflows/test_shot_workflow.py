"""The template of a shot with tiny models, part for part: every frame once, and what all parts share."""

import importlib
import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.workflows.shipped import api, example
from tests.workflows.test_shipped_workflows import run, small_files

__all__ = ["small_files"]
EXTRAS = {  # nodes of ComfyUI that the tests do not load by themselves -> (module, class)
    "SamplerCustomAdvanced": ("nodes_custom_sampler", "SamplerCustomAdvanced"),
    "CFGGuider": ("nodes_custom_sampler", "CFGGuider"),
    "KSamplerSelect": ("nodes_custom_sampler", "KSamplerSelect"),
    "BasicScheduler": ("nodes_custom_sampler", "BasicScheduler"),
    "ImageFromBatch": ("nodes_images", "ImageFromBatch"),
    "ImageBlend": ("nodes_post_processing", "Blend"),
    "CreateVideo": ("nodes_video", "CreateVideo"),
}
ENDS = ("SaveVideo", "SaveImage", "PreviewImage", "PreviewAny")  # left to the browser's test
FRAMES, PART = 12, 3


@pytest.fixture
def workflow(pack, small_files, monkeypatch) -> dict:
    """As it is shipped, but for the tiny files of a model, which has no student, and for smaller parts."""
    import folder_paths

    for name, (module, kind) in EXTRAS.items():
        loaded = getattr(importlib.import_module(f"comfy_extras.{module}"), kind)
        monkeypatch.setitem(pack.comfy_nodes.NODE_CLASS_MAPPINGS, name, loaded)
    inputs = Path(folder_paths.get_input_directory())
    inputs.mkdir(exist_ok=True)
    nodes = json.loads(api("shot").read_text(encoding="utf-8"))
    for name in ("colorize_shot.mp4", "colorize_shot_reference.png"):
        shutil.copy(example(name), inputs / name)
    (student,) = (number for number, node in nodes.items() if node["class_type"] == "LoraLoaderModelOnly")
    model = nodes.pop(student)["inputs"]["model"]
    for node in nodes.values():
        given = node["inputs"]
        given |= {name: file for name, file in small_files.items() if name in given}
        given |= {name: 64 for name in ("width", "height") if name in given}
        given |= {name: model for name, value in given.items() if value == [student, 0]}
    titled(nodes, "Frames")["inputs"]["frames"] = PART
    return {number: node for number, node in nodes.items() if node["class_type"] not in ENDS}


def titled(nodes: dict, title: str) -> dict:
    return next(node for node in nodes.values() if node["_meta"]["title"] == title)


def made(pack, workflow: dict, part: int) -> dict[str, tuple]:
    """Outputs by the titles of the nodes."""
    titled(workflow, "Frames")["inputs"]["part"] = part
    with torch.inference_mode():
        return {workflow[number]["_meta"]["title"]: found for number, found in run(pack, workflow).items()}


def test_parts_share_key_and_noise_and_make_every_frame_once(pack, workflow):
    first, last = (made(pack, workflow, part) for part in (0, FRAMES // PART - 1))
    for found, begin in ((first, 0), (last, FRAMES - PART)):
        frames, fps, number, _ = found["Frames"]
        assert frames.shape == (1 + PART, 320, 320, 3) and fps == 12 and number == begin
        assert found["Without the First"][0].shape == (PART, 320, 320, 3)
        assert found["Create Video"][0].get_components().images.shape[0] == PART
        drawn = titled(workflow, "Frames")["inputs"]
        (alone,) = pack.run("ColorizeLoadFrames", source=drawn["source"], frames=1, part=begin)[:1]
        assert torch.equal(frames[1:2], alone)
    assert torch.equal(first["Frames"][0][0], last["Frames"][0][0])  # the key's drawing
    latent = {"samples": torch.zeros(1 + PART, 4, 8, 8)}
    noise = [found["Shot Noise"][0].generate_noise(latent)[0] for found in (first, last)]
    assert torch.equal(*noise)
    known = {tuple(levels) for levels in first["Palette from Reference"][0].srgb.tolist()}
    assert colours(first["Key"][0]) <= known and colours(first["Carry Colours"][1]) <= known


def colours(picture: torch.Tensor) -> set[tuple[int, ...]]:
    """Those of a comfy picture, in bytes."""
    return {tuple(row) for row in (picture.reshape(-1, 3) * 255).round().int().unique(dim=0).tolist()}
