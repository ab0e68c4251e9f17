"""The shipped workflows with tiny models: every API workflow runs, node by node, as it is shipped."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests import tiny

FOLDER = Path(__file__).parents[2] / "workflows"
FILES = sorted((FOLDER / "api").glob("*.json"))
STEPS = 2


@pytest.fixture(scope="module")
def region_file(folders) -> str:
    """Name of a tiny v1.5 checkpoint in models/checkpoints."""
    save_file(tiny.checkpoint_v1_5(), folders.checkpoints / "workflow_v1_5.safetensors", metadata=tiny.METADATA_V1_5)
    return "workflow_v1_5.safetensors"


def run(pack, workflow: dict) -> dict[str, tuple]:
    """Outputs of every node by its id, each node after those it reads from."""
    results = {}
    waiting = dict(workflow)
    while waiting:
        for node_id, node in list(waiting.items()):
            links = {name: value for name, value in node["inputs"].items() if isinstance(value, list)}
            if all(source in results for source, _ in links.values()):
                given = {name: results[source][index] for name, (source, index) in links.items()}
                results[node_id] = pack.run(node["class_type"], **(node["inputs"] | given))
                del waiting[node_id]
    return results


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_runs(pack, region_file, encoder, file):
    import folder_paths

    workflow = json.loads(file.read_text(encoding="utf-8"))
    Path(folder_paths.get_input_directory()).mkdir(exist_ok=True)
    for node in workflow.values():
        if node["class_type"].startswith("LoadImage"):
            shutil.copy(FOLDER / "examples" / node["inputs"]["image"], folder_paths.get_input_directory())
    by_type = {node["class_type"]: (node_id, node["inputs"]) for node_id, node in workflow.items()}
    by_type["ColorizeLoadCheckpoint"][1]["ckpt_name"] = region_file
    by_type["ColorizeLoadReferenceEncoder"][1]["encoder_name"] = "tiny_vision.safetensors"
    by_type["ColorizePrepareSketch"][1].update(width=128, height=128)
    by_type["KSampler"][1]["steps"] = STEPS
    with torch.inference_mode():  # as in ComfyUI's execution
        results = run(pack, workflow)
    picture = results[by_type["ColorizeRestoreSize"][0]][0]
    assert picture.shape == (1, 768, 768, 3) and torch.isfinite(picture).all()
    if file.stem == "fig2fig":
        (_, data) = results[by_type["ColorizeApplyReference"][0]][1][0]
        (mask,) = data["colorize"].masks
        assert 0.2 < mask.mean() < 0.8 and data["colorize"].settings.split.kinds == ("fg", "bg")
