"""Reference encoder files and the encoder as a managed model."""

import pytest
import torch
from safetensors.torch import save_file

from colorize.reference.feature_vision import FeatureReferenceEncoder
from tests import tiny


def hugging_face(visual):
    """The tensors of an open_clip tower in the layout of CLIPVisionModelWithProjection."""
    out = {
        "vision_model.embeddings.class_embedding": visual["class_embedding"],
        "vision_model.embeddings.patch_embedding.weight": visual["conv1.weight"],
        "vision_model.embeddings.position_embedding.weight": visual["positional_embedding"],
        "vision_model.embeddings.position_ids": torch.arange(tiny.TOKENS)[None],
        "visual_projection.weight": visual["proj"].T.contiguous(),
    }
    for ours, theirs in (("ln_pre", "pre_layrnorm"), ("ln_post", "post_layernorm")):
        out |= {f"vision_model.{theirs}.{kind}": visual[f"{ours}.{kind}"] for kind in ("weight", "bias")}
    for layer in range(2):
        source, target = f"transformer.resblocks.{layer}.", f"vision_model.encoder.layers.{layer}."
        for kind in ("weight", "bias"):
            q, k, v = visual[f"{source}attn.in_proj_{kind}"].chunk(3)
            out |= {f"{target}self_attn.{n}_proj.{kind}": t.clone() for n, t in zip("qkv", (q, k, v), strict=True)}
            for ours, theirs in (
                ("attn.out_proj", "self_attn.out_proj"), ("ln_1", "layer_norm1"), ("ln_2", "layer_norm2"),
                ("mlp.c_fc", "mlp.fc1"), ("mlp.c_proj", "mlp.fc2"),
            ):  # fmt: skip
                out[f"{target}{theirs}.{kind}"] = visual[f"{source}{ours}.{kind}"]
    return out


LAYOUTS = {
    "bare": lambda v: v,
    "open_clip": lambda v: (
        tiny.prefixed("visual.", v) | {"text_projection": torch.ones(2), "logit_scale": torch.tensor(1.0)}
    ),
    "released": lambda v: tiny.prefixed("cond_stage_model.visual.model.", v),
    "hugging_face": hugging_face,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(pack, folders, encoder, layout, dtype):
    weights = {k: v.to(dtype) for k, v in tiny.reference_encoder().visual.state_dict().items()}
    path = folders.clip_vision / f"{layout}_{str(dtype)[6:]}.safetensors"
    save_file(LAYOUTS[layout](weights), path, metadata={"colorize.head_width": "16"})
    (loaded,) = pack.run("ColorizeLoadReferenceEncoder", encoder_name=path.name)
    assert loaded.encoder.visual.proj.dtype == torch.float32  # the released application computes in float32
    image = torch.rand(1, 30, 20, 3, generator=torch.Generator().manual_seed(0))
    ours, expected = (pack.run("ColorizeEncodeReference", encoder=e, image=image)[0].tokens for e in (loaded, encoder))
    assert (ours - expected).abs().max() < (1e-5 if dtype == torch.float32 else 3e-2)


def test_an_encoder_with_pretrained_features(pack, folders):
    """The layout feature_vision.py describes: found by its names, memory reckoned with, the same tokens as outside."""
    torch.manual_seed(0)
    ours = FeatureReferenceEncoder(16, 8, 32, 1, 16, 24).eval()
    save_file(ours.state_dict(), folders.clip_vision / "features.safetensors", metadata={"colorize.head_width": "16"})
    (loaded,) = pack.run("ColorizeLoadReferenceEncoder", encoder_name="features.safetensors")
    image = torch.rand(2, 30, 20, 3, generator=torch.Generator().manual_seed(0))
    (reference,) = pack.run("ColorizeEncodeReference", encoder=loaded, image=image)
    with torch.no_grad():
        expected = ours.encode(image.permute(0, 3, 1, 2) * 2 - 1)
    assert reference.tokens.shape == (2, 5, 24) and (reference.tokens - expected).abs().max() < 1e-5
    assert reference.image_size == 32
    assert loaded._working_memory(2) >= 2 * 4 * 96 * 16 * 16  # the widest layer at half the side


def test_old_pickle_with_a_state_dict(pack, folders, encoder):
    path = folders.clip_vision / "old.bin"
    weights = {k: v for k, v in tiny.reference_encoder().visual.state_dict().items()}
    torch.save(weights, path)
    with pytest.raises(ValueError, match="'old.bin'.*head width"):
        pack.run("ColorizeLoadReferenceEncoder", encoder_name="old.bin")


@pytest.mark.parametrize(
    ("weights", "text"),
    [
        ({"some.thing": torch.ones(1)}, "No CLIP vision tower.*some.thing.*models/clip_vision"),
        ({"vision_model.embeddings.patch_embedding.weight": torch.ones(64, 3, 14, 14)}, "no visual_projection"),
    ],
)
def test_wrong_files(pack, folders, weights, text):
    save_file(weights, folders.clip_vision / "wrong.safetensors")
    with pytest.raises(ValueError, match=f"'wrong.safetensors' cannot be used as reference encoder: .*{text}"):
        pack.run("ColorizeLoadReferenceEncoder", encoder_name="wrong.safetensors")


def test_broken_weights(pack, folders):
    weights = {k: v.clone() for k, v in tiny.reference_encoder().visual.state_dict().items()}
    incomplete = {k: v for k, v in weights.items() if k != "ln_post.weight"}
    save_file(incomplete, folders.clip_vision / "half.safetensors", metadata={"colorize.head_width": "16"})
    with pytest.raises(ValueError, match="'half.safetensors'.*ln_post.weight"):
        pack.run("ColorizeLoadReferenceEncoder", encoder_name="half.safetensors")
    weights["proj"][0, 0] = torch.inf
    save_file(weights, folders.clip_vision / "inf.safetensors", metadata={"colorize.head_width": "16"})
    with pytest.raises(ValueError, match="'inf.safetensors' has NaN or infinite values in 1"):
        pack.run("ColorizeLoadReferenceEncoder", encoder_name="inf.safetensors")


def test_long_batches_run_in_chunks(pack, encoder):
    import comfy.utils

    sizes, steps = [], []
    handle = encoder.encoder.visual.register_forward_pre_hook(lambda module, args: sizes.append(args[0].shape[0]))
    comfy.utils.set_progress_bar_global_hook(lambda value, total, *rest, **kw: steps.append((value, total)))
    try:
        (reference,) = pack.run("ColorizeEncodeReference", encoder=encoder, image=torch.rand(19, 8, 8, 3))
    finally:
        handle.remove()
        comfy.utils.set_progress_bar_global_hook(None)
    assert sizes == [8, 8, 3] and reference.tokens.shape[0] == 19
    assert steps[-1] == (19, 19)


def test_rows_do_not_depend_on_the_batch(pack, encoder):
    images = torch.rand(3, 20, 10, 3)
    (together,) = pack.run("ColorizeEncodeReference", encoder=encoder, image=images)
    for row in range(3):
        (alone,) = pack.run("ColorizeEncodeReference", encoder=encoder, image=images[row : row + 1])
        assert (together.tokens[row] - alone.tokens[0]).abs().max() < 1e-5


def test_fits_differ_for_long_pictures_and_agree_for_squares(pack, encoder):
    def tokens(image, fit):
        return pack.run("ColorizeEncodeReference", encoder=encoder, image=image, fit=fit)[0].tokens

    long, square = torch.rand(1, 20, 60, 3), torch.rand(1, 30, 30, 3)
    for fit in ("pad", "crop"):
        assert not torch.allclose(tokens(long, fit), tokens(long, "stretch"))
        assert torch.equal(tokens(square, fit), tokens(square, "stretch"))


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (2000, 3)])
def test_pictures_of_any_size(pack, encoder, size):
    (reference,) = pack.run("ColorizeEncodeReference", encoder=encoder, image=torch.rand(1, *size, 4))
    assert torch.isfinite(reference.tokens).all()


def test_transparent_reference_is_laid_on_white(pack, encoder):
    image = torch.rand(1, 10, 10, 3)
    mask = torch.zeros(1, 10, 10)
    mask[:, :5] = 1
    white = image.clone()
    white[:, :5] = 1
    (ours,) = pack.run("ColorizeEncodeReference", encoder=encoder, image=image, mask=mask)
    (expected,) = pack.run("ColorizeEncodeReference", encoder=encoder, image=white)
    assert torch.allclose(ours.tokens, expected.tokens, atol=1e-6)


def test_memory_is_managed(encoder):
    import comfy.model_management
    import comfy.model_patcher

    assert isinstance(encoder.patcher, comfy.model_patcher.ModelPatcher) and encoder.patcher.model is encoder.encoder
    encoder.encode(torch.zeros(1, 3, 4, 4))
    assert encoder.patcher in [loaded.model for loaded in comfy.model_management.current_loaded_models]


def test_missing_open_clip_is_explained(pack, folders, encoder, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "open_clip.transformer", None)
    with pytest.raises(RuntimeError, match="pip install open_clip_torch"):
        pack.run("ColorizeLoadReferenceEncoder", encoder_name="tiny_vision.safetensors")
