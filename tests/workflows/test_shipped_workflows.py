"""The shipped workflows with tiny models: every API workflow runs, node by node, as it is shipped."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests import tiny
from tests.browser import stand_ins
from tests.workflows.shipped import NAMES, api, example

ELSEWHERE = ("animediffusion", "shot")  # other nodes: test_animediffusion.py, test_shot_workflow.py
FILES = [api(name) for name in NAMES if name not in ELSEWHERE]
STEPS = 2


SMALLER = {"width": 128, "height": 128}
ONLY_SHOWN = ("PreviewAny",)  # of ComfyUI's extras, which the tests do not load


@pytest.fixture(scope="module")
def small_files(folders, encoder) -> dict[str, str]:
    """Widget -> name of a tiny file of the v1.5 layout, of a reference encoder, and of a CLIP with both towers."""
    save_file(tiny.checkpoint_v1_5(), folders.checkpoints / "workflow_v1_5.safetensors", metadata=tiny.METADATA_V1_5)
    stand_ins.clip(folders.clip_vision / "workflow_clip.safetensors")
    return {"ckpt_name": "workflow_v1_5.safetensors", "encoder_name": "workflow_clip.safetensors"}


@pytest.fixture(scope="module")
def v2_files(folders, small_files) -> dict[str, str]:
    """The same for v2 models."""
    stand_ins.v2_checkpoint(folders.checkpoints / "workflow_v2.safetensors")
    return small_files | {"ckpt_name": "workflow_v2.safetensors"}


@pytest.fixture(scope="module")
def xl_files(folders, pack) -> dict[str, str]:
    """The same for XL models: checkpoint with plugin, image encoder and tagger."""
    folder = Path(pack.base) / "models" / "colorize_taggers"
    folder.mkdir(parents=True, exist_ok=True)
    stand_ins.xl_plugin_checkpoint(folders.checkpoints / "workflow_xl.safetensors")
    stand_ins.xl_vision(folders.clip_vision / "workflow_xl.safetensors")
    stand_ins.tagger(folder / "workflow_xl.safetensors")
    return dict.fromkeys(("ckpt_name", "encoder_name", "tagger_name"), "workflow_xl.safetensors")


def run(pack, workflow: dict) -> dict[str, tuple]:
    """Outputs of every node by its id, each node after those it reads from."""
    results = {}
    waiting = {node_id: node for node_id, node in workflow.items() if node["class_type"] not in ONLY_SHOWN}
    while waiting:
        for node_id, node in list(waiting.items()):
            links = {name: value for name, value in node["inputs"].items() if isinstance(value, list)}
            if all(source in results for source, _ in links.values()):
                given = {name: results[source][index] for name, (source, index) in links.items()}
                results[node_id] = pack.run(node["class_type"], **(node["inputs"] | given))
                del waiting[node_id]
    return results


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_runs(pack, small_files, v2_files, xl_files, file):
    import folder_paths

    files = {"xl": xl_files, "v2": v2_files}.get(file.stem[:2], small_files)
    workflow = json.loads(file.read_text(encoding="utf-8"))
    Path(folder_paths.get_input_directory()).mkdir(exist_ok=True)
    by_type = {}
    for node_id, node in workflow.items():
        by_type.setdefault(node["class_type"], []).append(node_id)
        inputs = node["inputs"]
        if node["class_type"].startswith("LoadImage"):
            shutil.copy(example(inputs["image"]), Path(folder_paths.get_input_directory()) / inputs["image"])
        inputs.update({name: value for name, value in (files | SMALLER).items() if name in inputs})
    workflow[by_type["KSampler"][0]]["inputs"]["steps"] = STEPS
    with torch.inference_mode():  # as in ComfyUI's execution
        results = run(pack, workflow)
    picture = results[by_type["ColorizeRestoreSize"][0]][0]
    repeated = [workflow[node_id]["inputs"]["amount"] for node_id in by_type.get("RepeatLatentBatch", ())]
    assert picture.shape == (math.prod(repeated), 768, 768, 3) and torch.isfinite(picture).all()

    (_, data) = results[by_type["ColorizeApplyReference"][0]][1][0]
    if file.stem == "fig2fig":
        (mask,) = data["colorize"].masks
        assert 0.2 < mask.mean() < 0.8 and data["colorize"].settings.split.kinds == ("fg", "bg")
    if file.stem == "recolor":
        report, _, problems = results[by_type["ColorizePreflight"][0]]
        assert problems == 0, report
    if file.stem == "edit_reference":
        maps = [results[node_id][0] for node_id in by_type["ColorizeCorrelationPreview"]]
        assert len(maps) == 3 and all(torch.isfinite(picture).all() for picture in maps)
        edited = [results[node_id][0] for node_id in by_type["ColorizeManipulateLocal"]]
        assert [len(reference.edits) for reference in edited] == [1, 2, 3]
        for before, after in zip([results[by_type["ColorizeEncodeReference"][0]][0], *edited], edited):
            assert not torch.equal(before.tokens, after.tokens)
    if file.stem == "xl_plugin":
        (_, data) = results[by_type["ColorizeApplyBackgroundPlugin"][0]][0][0]
        assert data["colorize"].features.count == 1 and data["colorize"].settings.split.kinds == ("bg", "bg")
        assert data["colorize"].settings.split.soft  # as the plugin is trained
    if file.stem == "v2":
        (_, data) = results[by_type["ColorizeApplyStyleBackground"][0]][0][0]
        assert data["colorize"].features.tensors and data["colorize"].settings.split.kinds == ("fg", "bg")
    if file.stem == "texture":
        (node,) = by_type["ColorizeExtractSketch"]
        lines = results[node][0]
        assert lines.min() < 0.5 < lines.mean()  # of the reference: dark lines on white
        injection = workflow[by_type["ColorizeAttentionInjection"][0]]["inputs"]
        assert (
            injection["sketch_scale"] == 1 and workflow[injection["reference_sketch"][0]]["inputs"]["image"][0] == node
        )
    if file.stem == "xl_cast":
        assert len(data["colorize"].masks) == 2 and 0.1 < data["colorize"].masks[1].mean() < 0.4
