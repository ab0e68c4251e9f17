"""The reference encoder against its literal transcription; both file layouts; preprocessing."""

from __future__ import annotations

import pytest
import torch

from colorize.reference import vision
from colorize.reference.encoder_file import load_reference_encoder
from tests.golden.files import key_list
from tests.literal.vision import normalised, tower
from tests.literal.weights import Weights

SIZES = dict(width=48, layers=2, head_width=12, output_dim=20, patch_size=8)
METADATA = {"colorize.head_width": "12"}
PREFIX = "cond_stage_model.visual.model."


@pytest.fixture(scope="module")
def weights():
    """Random weights of a tiny tower for pictures of 32x32."""
    weights = Weights(seed=3)
    tower(weights, torch.zeros(1, 3, 32, 32), **SIZES)
    return weights


@torch.no_grad()
def test_equals_the_literal_transcription(weights):
    encoder = load_reference_encoder(weights.tensors, METADATA)
    picture = torch.randn(3, 3, 32, 32).tanh()  # of the tower's size: nothing is resampled
    torch.testing.assert_close(vision.preprocess(picture, 32), normalised(picture), atol=1e-5, rtol=0)
    expected = tower(weights, normalised(picture), **SIZES)
    torch.testing.assert_close(encoder.encode(picture), expected, atol=2e-5, rtol=1e-4)
    assert (encoder.image_size, encoder.token_count, encoder.width, encoder.output_dim) == (32, 17, 48, 20)


@torch.no_grad()
@pytest.mark.parametrize("prefix", ("", "visual.", PREFIX))
def test_open_clip_prefixes(weights, prefix):
    named = {prefix + key: tensor for key, tensor in weights.tensors.items()}
    named["token_embedding.weight"] = torch.zeros(4, 4)  # of a text tower, left behind
    picture = torch.randn(1, 3, 40, 24).tanh()
    expected = load_reference_encoder(weights.tensors, METADATA).encode(picture)
    torch.testing.assert_close(load_reference_encoder(named, METADATA).encode(picture), expected)


def hugging_face(tensors):
    """The tensors of an open_clip tower in the layout of CLIPVisionModelWithProjection, written out by hand."""
    out = {
        "vision_model.embeddings.class_embedding": tensors["class_embedding"],
        "vision_model.embeddings.patch_embedding.weight": tensors["conv1.weight"],
        "vision_model.embeddings.position_embedding.weight": tensors["positional_embedding"],
        "vision_model.embeddings.position_ids": torch.arange(17)[None],
        "visual_projection.weight": tensors["proj"].T,
    }
    for kind in ("weight", "bias"):
        out[f"vision_model.pre_layrnorm.{kind}"] = tensors[f"ln_pre.{kind}"]
        out[f"vision_model.post_layernorm.{kind}"] = tensors[f"ln_post.{kind}"]
        for layer in range(SIZES["layers"]):
            ours, theirs = f"transformer.resblocks.{layer}.", f"vision_model.encoder.layers.{layer}."
            out[f"{theirs}layer_norm1.{kind}"] = tensors[f"{ours}ln_1.{kind}"]
            out[f"{theirs}layer_norm2.{kind}"] = tensors[f"{ours}ln_2.{kind}"]
            out[f"{theirs}mlp.fc1.{kind}"] = tensors[f"{ours}mlp.c_fc.{kind}"]
            out[f"{theirs}mlp.fc2.{kind}"] = tensors[f"{ours}mlp.c_proj.{kind}"]
            out[f"{theirs}self_attn.out_proj.{kind}"] = tensors[f"{ours}attn.out_proj.{kind}"]
            joined = tensors[f"{ours}attn.in_proj_{kind}"]
            for part, tensor in zip("qkv", joined.split(SIZES["width"]), strict=True):
                out[f"{theirs}self_attn.{part}_proj.{kind}"] = tensor
    return out


@torch.no_grad()
def test_hugging_face_layout_gives_the_same_tokens(weights):
    picture = torch.randn(2, 3, 30, 50).tanh()
    expected = load_reference_encoder(weights.tensors, METADATA).encode(picture)
    encoder = load_reference_encoder(hugging_face(weights.tensors), METADATA)
    torch.testing.assert_close(encoder.encode(picture), expected)


@torch.no_grad()
def test_transformers_agrees(weights):
    """An independent implementation of the same tower, where the transformers library is installed."""
    transformers = pytest.importorskip("transformers")
    config = transformers.CLIPVisionConfig(
        hidden_size=48, intermediate_size=192, num_hidden_layers=2, num_attention_heads=4, image_size=32, patch_size=8,
        projection_dim=20, hidden_act="gelu",
    )  # fmt: skip
    model = transformers.CLIPVisionModelWithProjection(config).eval()
    model.load_state_dict(hugging_face(weights.tensors), strict=False)
    pixels = torch.randn(2, 3, 32, 32)
    hidden = model.vision_model(pixels).last_hidden_state
    expected = model.visual_projection(model.vision_model.post_layernorm(hidden))
    encoder = load_reference_encoder(weights.tensors, METADATA)
    torch.testing.assert_close(encoder.tokens(pixels), expected, atol=2e-5, rtol=1e-4)


def test_official_names_and_shapes():
    official = {k.removeprefix(PREFIX): s for k, s in key_list("clip_vit_h.json").items() if k.startswith(PREFIX)}
    state_dict = {PREFIX + k: torch.empty(s, device="meta") for k, s in official.items()}
    encoder = load_reference_encoder(state_dict, device="meta")
    assert {k: list(v.shape) for k, v in encoder.visual.state_dict().items()} == official
    assert (encoder.image_size, encoder.token_count, encoder.width, encoder.output_dim) == (224, 257, 1280, 1024)
    assert encoder.head_width == 80
    shapes = Weights(device="meta")
    tower(shapes, torch.empty(1, 3, 224, 224, device="meta"), layers=32)
    assert shapes.shapes() == official


def test_preprocessing_fits():
    """pad adds white around, crop takes the middle, stretch keeps neither proportion nor border."""
    picture = torch.full((1, 3, 20, 60), -1.0)
    picture[..., 20:40] = 0.0
    white, black, grey = (float(normalised(torch.full((1, 3, 1, 1), v))[0, 0]) for v in (1.0, -1.0, 0.0))
    padded, cropped, stretched = (vision.preprocess(picture, 60, fit)[0, 0] for fit in ("pad", "crop", "stretch"))
    assert padded[5, 5] == pytest.approx(white, abs=1e-4) and padded[30, 5] == pytest.approx(black, abs=1e-4)
    assert cropped.min() == pytest.approx(grey, abs=1e-4) and cropped.max() == pytest.approx(grey, abs=1e-4)
    assert stretched[5, 5] == pytest.approx(black, abs=1e-4) and stretched[5, 30] == pytest.approx(grey, abs=1e-4)


def test_bad_files_say_what_is_wrong(weights):
    with pytest.raises(ValueError, match="No CLIP vision tower found"):
        load_reference_encoder({"a": torch.zeros(1)})
    with pytest.raises(ValueError, match="head width of a vision tower of width 48 is not known"):
        load_reference_encoder(weights.tensors)
    without = {k: v for k, v in hugging_face(weights.tensors).items() if k != "visual_projection.weight"}
    with pytest.raises(ValueError, match="visual_projection.weight"):
        load_reference_encoder(without, METADATA)
    with pytest.raises(ValueError, match="choose one of"):
        vision.preprocess(torch.zeros(1, 3, 8, 8), 8, "squeeze")
