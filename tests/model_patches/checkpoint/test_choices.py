"""What the loaders offer of a folder with everybody's checkpoints."""

import pytest
import torch
from safetensors.torch import save_file

from tests import tiny


@pytest.fixture
def choices(pack, folders, monkeypatch):
    """The module, with ComfyUI's list of files made anew for every call."""
    import folder_paths

    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    return pack.module("model_patches.checkpoint.choices")


def test_a_loader_offers_what_it_can_load(choices, folders, tiny_file):
    zero = torch.zeros(1)
    save_file({"conditioner.embedders.0.x": zero}, folders.checkpoints / "a_sdxl.safetensors")
    anime = {"x.encoder_block.0.conv1.2.weight": zero, "x.bottom_block.1.attention.1.weight": zero + 1}
    save_file(anime, folders.checkpoints / "b_faces.safetensors")
    (folders.checkpoints / "c_old.ckpt").write_bytes(b"PK")  # unreadable without loading: offered, last
    (folders.checkpoints / "d_broken.safetensors").write_bytes(b"\xff" * 40)
    try:
        ours, faces = choices.colorize_checkpoints(), choices.animediffusion_checkpoints()
    finally:
        for name in ("a_sdxl.safetensors", "b_faces.safetensors", "c_old.ckpt", "d_broken.safetensors"):
            (folders.checkpoints / name).unlink()
    assert tiny_file in ours and "b_faces.safetensors" in faces
    assert not {"a_sdxl.safetensors", "b_faces.safetensors"} & set(ours)
    assert not {"a_sdxl.safetensors", tiny_file} & set(faces)
    for offered, known in ((ours, tiny_file), (faces, "b_faces.safetensors")):  # the folder holds more than these
        assert offered.index(known) < offered.index("c_old.ckpt") < offered.index("d_broken.safetensors")


def test_a_file_that_changes_is_looked_at_again(choices, tmp_path):
    file = tmp_path / "model.safetensors"
    save_file({"somebody.else": torch.zeros(1)}, file)
    assert choices.kind_of_file(str(file)) == ""
    save_file({k: v.contiguous() for k, v in tiny.checkpoint().items()}, file, metadata=tiny.METADATA)
    assert choices.kind_of_file(str(file)) == "v1"
    assert choices.kind_of_file(str(tmp_path / "gone.safetensors")) is None
