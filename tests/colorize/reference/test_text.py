"""The text encoder against a literal transcription; both file layouts; the real tokenizer without a network."""

from __future__ import annotations

import math
import socket

import pytest
import torch

from colorize.reference import text
from tests.golden.files import key_list
from tests.literal.layers import gelu, layer_norm, linear
from tests.literal.weights import Weights

SIZES = dict(width=48, layers=3, head_width=12, output_dim=20, vocabulary=30, length=9)
METADATA = {"colorize.text_head_width": "12"}
PREFIX = "cond_stage_model.transformer.model."
START, END = 28, 29  # the largest ids, as in CLIP's word list


def causal(q, k, v, head_width):
    """Attention in which each token sees itself and those before it, one head and one token after the other."""
    out = torch.zeros_like(q)
    for first in range(0, q.shape[-1], head_width):
        head = slice(first, first + head_width)
        for row in range(q.shape[1]):
            scores = q[:, row : row + 1, head] @ k[:, : row + 1, head].transpose(1, 2) / math.sqrt(head_width)
            out[:, row, head] = (scores.softmax(-1) @ v[:, : row + 1, head])[:, 0]
    return out


def tower(w, ids, width=1024, layers=24, head_width=64, output_dim=1024, vocabulary=49408, length=77):
    """Ids (n, length) -> projected tokens of the penultimate layer (n, length, output_dim)."""
    x = w.take("token_embedding.weight", vocabulary, width)[ids] + w.take("positional_embedding", length, width)
    for layer in range(layers):
        block = w.under(f"transformer.resblocks.{layer}.")
        h = layer_norm(block, "ln_1", x)
        qkv = h @ block.take("attn.in_proj_weight", 3 * width, width).T + block.take("attn.in_proj_bias", 3 * width)
        q, k, v = qkv[..., :width], qkv[..., width : 2 * width], qkv[..., 2 * width :]
        y = x + linear(block, "attn.out_proj", causal(q, k, v, head_width), width)
        h = gelu(linear(block, "mlp.c_fc", layer_norm(block, "ln_2", y), 4 * width))
        y = y + linear(block, "mlp.c_proj", h, width)
        if layer < layers - 1:  # the last block is there and not used
            x = y
    return layer_norm(w, "ln_final", x) @ w.take("text_projection", width, output_dim)


def sentences():
    ids = torch.zeros(3, SIZES["length"], dtype=torch.long)
    ids[0, :4] = torch.tensor([START, 5, 7, END])
    ids[1, :2] = torch.tensor([START, END])
    ids[2] = torch.tensor([START, 1, 2, 3, 4, 5, 6, 7, END])
    return ids


@pytest.fixture(scope="module")
def weights():
    weights = Weights(seed=4)
    tower(weights, sentences(), **SIZES)
    return weights


@torch.no_grad()
def test_equals_the_literal_transcription(weights):
    encoder, ids = text.load_text_encoder(weights.tensors, METADATA), sentences()
    expected = tower(weights, ids, **SIZES)
    torch.testing.assert_close(encoder.tokens(ids), expected, atol=2e-5, rtol=1e-4)
    ends = torch.stack([expected[0, 3], expected[1, 1], expected[2, 8]])
    ends = ends / ends.norm(dim=1, keepdim=True)
    torch.testing.assert_close(encoder.encode_ids(ids), ends, atol=2e-5, rtol=1e-4)
    assert (encoder.width, encoder.output_dim, encoder.vocabulary, encoder.context_length) == (48, 20, 30, 9)


@torch.no_grad()
def test_what_follows_the_end_does_not_matter(weights):
    encoder, ids = text.load_text_encoder(weights.tensors, METADATA), sentences()
    other = ids.clone()
    other[0, 4:] = 11
    torch.testing.assert_close(encoder.encode_ids(other), encoder.encode_ids(ids))


@torch.no_grad()
@pytest.mark.parametrize("prefix", ("", "text.", "cond_stage_model.model.", PREFIX))
def test_open_clip_prefixes(weights, prefix):
    named = {prefix + key: tensor for key, tensor in weights.tensors.items()}
    named |= {"visual.conv1.weight": torch.zeros(2), "logit_scale": torch.zeros(())}  # of a whole CLIP, left behind
    expected = text.load_text_encoder(weights.tensors, METADATA).encode_ids(sentences())
    torch.testing.assert_close(text.load_text_encoder(named, METADATA).encode_ids(sentences()), expected)


def hugging_face(tensors, prefix=""):
    """The tensors of an open_clip tower in the layout of CLIPTextModelWithProjection, written out by hand."""
    out = {
        "text_model.embeddings.token_embedding.weight": tensors["token_embedding.weight"],
        "text_model.embeddings.position_embedding.weight": tensors["positional_embedding"],
        "text_model.embeddings.position_ids": torch.arange(SIZES["length"])[None],
        "text_projection.weight": tensors["text_projection"].T,
    }
    for kind in ("weight", "bias"):
        out[f"text_model.final_layer_norm.{kind}"] = tensors[f"ln_final.{kind}"]
        for layer in range(SIZES["layers"]):
            ours, theirs = f"transformer.resblocks.{layer}.", f"text_model.encoder.layers.{layer}."
            out[f"{theirs}layer_norm1.{kind}"] = tensors[f"{ours}ln_1.{kind}"]
            out[f"{theirs}layer_norm2.{kind}"] = tensors[f"{ours}ln_2.{kind}"]
            out[f"{theirs}mlp.fc1.{kind}"] = tensors[f"{ours}mlp.c_fc.{kind}"]
            out[f"{theirs}mlp.fc2.{kind}"] = tensors[f"{ours}mlp.c_proj.{kind}"]
            out[f"{theirs}self_attn.out_proj.{kind}"] = tensors[f"{ours}attn.out_proj.{kind}"]
            joined = tensors[f"{ours}attn.in_proj_{kind}"]
            for part, tensor in zip("qkv", joined.split(SIZES["width"]), strict=True):
                out[f"{theirs}self_attn.{part}_proj.{kind}"] = tensor
    return {prefix + key: tensor for key, tensor in out.items()}


@torch.no_grad()
@pytest.mark.parametrize("prefix", ("", "transformer."))
def test_hugging_face_layout_gives_the_same_vectors(weights, prefix):
    expected = text.load_text_encoder(weights.tensors, METADATA).encode_ids(sentences())
    encoder = text.load_text_encoder(hugging_face(weights.tensors, prefix), METADATA)
    torch.testing.assert_close(encoder.encode_ids(sentences()), expected)


@torch.no_grad()
def test_transformers_agrees(weights):
    """An independent implementation of the same tower, where the transformers library is installed."""
    transformers = pytest.importorskip("transformers")
    config = transformers.CLIPTextConfig(
        vocab_size=30, hidden_size=48, intermediate_size=192, num_hidden_layers=3, num_attention_heads=4,
        max_position_embeddings=9, projection_dim=20, hidden_act="gelu", bos_token_id=START, eos_token_id=END,
    )  # fmt: skip
    model = transformers.CLIPTextModelWithProjection(config).eval()
    model.load_state_dict(hugging_face(weights.tensors), strict=False)
    hidden = model(sentences(), output_hidden_states=True).hidden_states[-2]
    inner = model.text_model if hasattr(model, "text_model") else model
    expected = model.text_projection(inner.final_layer_norm(hidden))
    ours = text.load_text_encoder(weights.tensors, METADATA).tokens(sentences())
    torch.testing.assert_close(ours, expected, atol=2e-5, rtol=1e-4)


def test_official_names_and_shapes():
    keys = {k.removeprefix(PREFIX): s for k, s in key_list("clip_vit_h.json").items() if k.startswith(PREFIX)}
    state_dict = {PREFIX + k: torch.empty(s, device="meta") for k, s in keys.items()}
    encoder = text.load_text_encoder(state_dict, device="meta")
    loaded = {k: list(v.shape) for k, v in encoder.text.state_dict().items()}
    last = {k for k in keys if k.startswith("transformer.resblocks.23.")}
    assert loaded == {k: s for k, s in keys.items() if k not in last and k not in ("logit_scale", "attn_mask")}
    assert (encoder.width, encoder.output_dim, encoder.vocabulary, encoder.context_length) == (1024, 1024, 49408, 77)
    assert encoder.text.heads == 16 and len(encoder.text.transformer.resblocks) == 23


@torch.no_grad()
def test_precision_and_mask_follow(weights):
    encoder = text.load_text_encoder(weights.tensors, METADATA, dtype=torch.float64)
    assert encoder.text.attn_mask.dtype == torch.float64 and encoder.encode_ids(sentences()).dtype == torch.float64
    half = {key: tensor.half() for key, tensor in weights.tensors.items()}
    single = text.load_text_encoder(half, METADATA, dtype=torch.float32).encode_ids(sentences())
    torch.testing.assert_close(single, text.load_text_encoder(weights.tensors, METADATA).encode_ids(sentences()),
                               atol=5e-3, rtol=0)  # fmt: skip


def test_bad_files_say_what_is_wrong(weights):
    with pytest.raises(ValueError, match="No CLIP text tower found in this file; it holds visual.proj. Choose the"):
        text.load_text_encoder({"visual.proj": torch.zeros(1)})
    with pytest.raises(ValueError, match="it holds nothing"):
        text.load_text_encoder({})
    for layout, name in ((dict(weights.tensors), "text_projection"), (hugging_face(weights.tensors), "text_proj")):
        layout = {k: v for k, v in layout.items() if not k.startswith("text_projection")}
        with pytest.raises(ValueError, match=rf"no projection \({name}.*use the file of the whole CLIP"):
            text.load_text_encoder(layout, METADATA)
    gap = {k: v for k, v in weights.tensors.items() if ".resblocks.1." not in k}
    with pytest.raises(ValueError, match=r"numbers 0, 2; expected 0 to n-1 without gaps.*download it again"):
        text.load_text_encoder(gap, METADATA)
    with pytest.raises(ValueError, match="width 48, which heads of 64 do not divide.*colorize.text_head_width"):
        text.load_text_encoder(weights.tensors)


# -- tokenizer ---------------------------------------------------------------------------------------------------------


def test_real_tokenizer_without_a_network(monkeypatch):
    """CLIP's own ids of a sentence, from the word list inside the open_clip package."""

    def refused(*args, **kwargs):
        raise OSError("no network in this test")

    monkeypatch.setattr(socket, "socket", refused)
    text._tokenizer.cache_clear()
    ids = text.tokenize(["A photo  of a CAT", ""])
    assert ids.shape == (2, 77) and ids[0, :8].tolist() == [49406, 320, 1125, 539, 320, 2368, 49407, 0]
    assert ids[1, :3].tolist() == [49406, 49407, 0] and text._tokenizer().vocab_size == text.VOCABULARY
    assert text.token_counts(["A photo  of a CAT", ""]) == [7, 2]


@pytest.mark.parametrize("prompt", ["金髪の少女", "金发少女", "Mädchen mit blondem Haar", "🎨", "<end_of_text>", "\n"])
def test_every_language_becomes_ids(prompt):
    ids = text.tokenize([prompt])
    assert ids[0, 0] == 49406 and (ids == 49407).any() and ids.max() < text.VOCABULARY


def test_long_prompts_keep_their_end():
    prompt = "very " * 200 + "blonde"
    ids = text.tokenize([prompt], 77)
    assert ids.shape == (1, 77) and ids[0, -1] == 49407 and text.token_counts([prompt]) == [203]
