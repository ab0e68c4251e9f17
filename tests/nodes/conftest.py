"""A tiny reference encoder, without a file."""

import pytest

from tests import tiny


@pytest.fixture(scope="session")
def tiny_encoder(pack):
    """A REFERENCE_ENCODER of 56 pixels and 17 tokens, on the CPU."""
    import comfy.model_patcher
    import torch

    cpu = torch.device("cpu")
    tower = tiny.reference_encoder()
    patcher = comfy.model_patcher.CoreModelPatcher(tower, load_device=cpu, offload_device=cpu)
    return pack.module("model_patches.reference.encoder").LoadedReferenceEncoder(tower, patcher, "tiny")
