"""A tiny reference encoder, without a file, and a text encoder with the nodes that edit by words."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests import tiny


@pytest.fixture(scope="session")
def tiny_encoder(pack):
    """A REFERENCE_ENCODER of 56 pixels and 17 tokens, on the CPU."""
    import comfy.model_patcher

    cpu = torch.device("cpu")
    tower = tiny.reference_encoder()
    patcher = comfy.model_patcher.CoreModelPatcher(tower, load_device=cpu, offload_device=cpu)
    return pack.module("model_patches.reference.encoder").LoadedReferenceEncoder(tower, patcher, "tiny")


@pytest.fixture(scope="module")
def text_weights():
    """A tiny text tower with CLIP's whole word list, in open_clip's names. Do not change it."""
    from open_clip.transformer import TextTransformer

    tower = TextTransformer(width=32, heads=2, layers=2, output_dim=tiny.CONFIG.context_dim)
    return tiny.randomised(tower, seed=11)


@pytest.fixture(scope="module")
def text_file(pack, text_weights):
    folder = Path(pack.base) / "models" / "text_encoders"
    folder.mkdir(parents=True, exist_ok=True)
    save_file(text_weights, folder / "tiny_text.safetensors", metadata={"colorize.text_head_width": "16"})
    return "tiny_text.safetensors"


@pytest.fixture(scope="module")
def words(pack):
    """words("ColorizeManipulateLocal", ...): a node of this step of the graph."""

    def call(name, **kwargs):
        return getattr(pack.module("nodes.manipulate"), name).EXECUTE_NORMALIZED(**kwargs).result

    return call


@pytest.fixture(scope="module")
def text_encoder(words, text_file):
    return words("ColorizeLoadTextEncoder", encoder_name=text_file)[0]


@pytest.fixture
def encode(pack, tiny_encoder):
    def call(image, **kwargs):
        return pack.run("ColorizeEncodeReference", encoder=tiny_encoder, image=image, **kwargs)[0]

    return call
