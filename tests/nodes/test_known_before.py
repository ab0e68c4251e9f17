"""What is said before a run starts."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

LOADERS = {
    "ColorizeLoadCheckpoint": "checkpoints",
    "ColorizeLoadAnimeDiffusion": "checkpoints",
    "ColorizeLoadReferenceEncoder": "clip_vision",
    "ColorizeLoadTagger": "colorize_taggers",
    "ColorizeLoadSegmenter": "background_removal",
    "ColorizeLoadTextEncoder": "text_encoders",
}


@pytest.mark.parametrize(("node_id", "folder"), LOADERS.items())
def test_a_file_that_is_not_there(pack, node_id, folder):
    node = pack.node(node_id)
    text = node.validate_inputs("../gone.safetensors")
    assert text.startswith("There is no file ../gone.safetensors in models/") and folder in text and "press R" in text
    assert node.validate_inputs(None) is True  # connected: known when it runs


def test_a_file_of_somebody_elses_model(pack):
    folder = Path(pack.base) / "models" / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"model.diffusion_model.other.weight": torch.zeros(2)}, folder / "theirs.safetensors")
    text = pack.node("ColorizeLoadCheckpoint").validate_inputs("theirs.safetensors")
    assert "theirs.safetensors is in models/checkpoints, but it is not a ColorizeDiffusion checkpoint" in text
    assert "ComfyUI's Load Checkpoint" in text


@pytest.mark.parametrize(
    ("sides", "words"),
    [
        ((300, 256), "width is 300 pixels, not divisible by 64. The nearest is 320."),
        ((256, 9000), "height is 9000 pixels. Choose 64 to 8192"),
        ((0, 256), "width is 0 pixels. Choose 64"),
    ],
)
def test_sizes(pack, sides, words):
    """All that ComfyUI no longer checks once a node asks for the value."""
    check = pack.node("ColorizePrepareSketch").validate_inputs
    assert words in check(*sides)
    assert check(256, 320) is True and check(None, None) is True
