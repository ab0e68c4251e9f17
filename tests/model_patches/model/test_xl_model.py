"""The XL MODEL and its sketch encoder behave like any ComfyUI model, and are the networks of the trainer."""

import copy
import dataclasses
import logging

import pytest
import torch
from safetensors.torch import load_file, save_file

from colorize.sketch.xl_encoder import XLSketchEncoder
from colorize.unet import size_embedding
from colorize.unet.config import unet_weights
from colorize.unet.unet import UNet
from tests import tiny, tiny_xl

PREFIX = "model.diffusion_model."


@pytest.fixture(scope="module")
def weights():
    """The tiny XL checkpoint. Do not change it."""
    return tiny_xl.checkpoint()


@pytest.fixture(scope="module")
def pure_unet(weights):
    """The same weights in the trainer's network."""
    network = UNet(tiny_xl.CONFIG)
    network.load_state_dict(unet_weights(weights, PREFIX))
    return network.eval()


def marked(weights):
    return weights | {"v_pred": torch.tensor([]), "colorize.num_head_channels": torch.tensor(32)}


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# -- detection and loading ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sdxl", "xlv2"])
def test_released_key_lists(find, golden_keys, name):
    assert find(golden_keys(name)) == "ColorizeXL"


def test_unet_alone(find, golden_keys, weights):
    """Load Diffusion Model sees bare names: the released sizes are enough, a narrow model needs its marker."""
    bare = {k.removeprefix(PREFIX): v for k, v in golden_keys("sdxl").items() if k.startswith(PREFIX)}
    assert find(bare, "") == "ColorizeXL"
    narrow = {k.removeprefix(PREFIX): v for k, v in weights.items() if k.startswith(PREFIX)}
    assert find(narrow, "") is None
    assert find(narrow | {"colorize.num_head_channels": torch.tensor(32)}, "") == "ColorizeXL"


def test_stock_sdxl_is_not_ours(find, golden_keys):
    """The same keys with SDXL's label embedding, which is the only tensor of the U-Net that differs in shape."""
    keys = {k: v for k, v in golden_keys("sdxl").items() if k.startswith((PREFIX, "first_stage_model."))}
    label = f"{PREFIX}label_emb.0.0.weight"
    stock = keys | {label: torch.empty(1280, 2816, device="meta")}
    assert find(stock) == "SDXL"
    refiner = keys | {label: torch.empty(1280, 2560, device="meta")}
    assert find(refiner) != "ColorizeXL"


def test_loader(pack, loaded_xl, loaded_plugin, xl_file, weights):
    for loaded, name in ((loaded_xl, "xl"), (loaded_plugin, "xl-plugin")):
        family = loaded.colorizer.family
        assert (family.name, family.is_xl, family.has_plugin) == (name, True, name == "xl-plugin")
        assert (family.context_dim, family.reference_dim, family.tagger_dim) == (48, 40, 64)
        assert (loaded.colorizer.plugin is not None) == family.has_plugin and not family.has_regions
        assert type(loaded.model.model).__name__ == "ColorizeXLModel"
        assert loaded.vae.decode(torch.zeros(1, 4, 2, 2)).shape == (1, 16, 16, 3)
        assert loaded.control_net.is_xl
    assert type(loaded_xl.model.model.latent_format).__name__ == "SDXL"
    projected = loaded_xl.colorizer.projection.network.proj[0].weight
    assert torch.equal(projected, weights["proj.proj.0.weight"])


@pytest.mark.parametrize(
    ("missing", "text"),
    [
        ("proj.proj.3.weight", "incomplete.*proj.proj.3.weight"),
        ("proj.attn.to_q.weight", "incomplete XL checkpoint.*proj"),
        ("model.diffusion_model.label_emb.0.0.weight", "incomplete.*label_emb"),
        ("model.diffusion_model.output_blocks.2.1.proj_out.bias", "1 of .* U-Net tensors are missing"),
    ],
)
def test_incomplete_files(pack, folders, weights, missing, text):
    save_file({k: v for k, v in weights.items() if k != missing}, folders.checkpoints / "cut.safetensors",
              metadata=tiny_xl.METADATA)  # fmt: skip
    with pytest.raises(ValueError, match=text):
        pack.run("ColorizeLoadCheckpoint", ckpt_name="cut.safetensors")


def test_mixed_files(pack, folders, weights):
    wide = {k: v for k, v in weights.items() if not k.startswith("proj.")}
    from colorize.reference.token_projection import TokenProjection

    other = TokenProjection(tiny_xl.CLIP_WIDTH, tiny_xl.TAGGER_WIDTH, 64)
    wide |= tiny.prefixed("proj.", tiny.randomised(other))
    save_file(wide, folders.checkpoints / "mixed.safetensors", metadata=tiny_xl.METADATA)
    with pytest.raises(ValueError, match="mixes two models: its token projection makes tokens of width 64.*48"):
        pack.run("ColorizeLoadCheckpoint", ckpt_name="mixed.safetensors")


def test_stock_load_checkpoint(pack, folders, xl_graph, loaded_xl, weights):
    save_file(marked(weights), folders.checkpoints / "stock_xl.safetensors")
    model, clip, _ = pack.run("CheckpointLoaderSimple", "stock_xl.safetensors")
    assert clip is None
    ours = xl_graph.run(loaded_xl)
    loaded_xl.model = model
    assert torch.equal(xl_graph.run(loaded_xl), ours)


@pytest.mark.parametrize("plugin", [False, True])
def test_save_checkpoint_round_trip(pack, folders, xl_file, plugin_file, plugin, xl_graph):
    """Core Save Checkpoint keeps every tensor under its official name, the plugin too."""
    import comfy.sd

    name = plugin_file if plugin else xl_file
    first = pack.run("ColorizeLoadCheckpoint", ckpt_name=name)
    path = folders.checkpoints / "saved_xl.safetensors"
    comfy.sd.save_checkpoint(str(path), first[0], vae=first[1], metadata={})
    saved, original = load_file(path), load_file(folders.checkpoints / name)
    assert set(saved) - set(original) == {"v_pred", "colorize.num_head_channels"} and set(original) <= set(saved)
    assert all(torch.equal(saved[key], original[key]) for key in original)
    again = pack.run("ColorizeLoadCheckpoint", ckpt_name=path.name)
    assert again[3].family == dataclasses.replace(first[3].family, prediction_source="marker tensor")


# -- the network -------------------------------------------------------------------------------------------------------


def test_same_network_as_the_trainer(loaded_xl, pure_unet):
    x, context, y = random(2, 4, 8, 12), random(2, 16, 48, seed=1), random(2, 32, seed=2)
    hints = [
        random(2, width, *size, seed=3) for width, size in ((64, (8, 12)), (64, (4, 6)), (64, (2, 3)), (128, (2, 3)))
    ]
    t = torch.tensor([3.25, 871.0])
    entries = [None] * 9
    for block, hint in zip((0, 3, 6, 8), hints, strict=True):
        entries[block] = hint
    with torch.no_grad():
        ours = loaded_xl.model.model.diffusion_model(x, t, context=context, y=y, control={"input": entries[::-1]})
        assert (ours - pure_unet(x, t, context, hints, y=y)).abs().max() < 2e-5


def test_no_step_cost(pack, loaded_xl):
    """Nothing runs per step besides ComfyUI's own U-Net; `forward` takes the word of a trace off (compiled.py)."""
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    unet = type(loaded_xl.model.model.diffusion_model)
    assert unet.__name__ == "XLUNet" and unet._forward is UNetModel._forward


def recorded_calls(model):
    """The keyword arguments of every call of the U-Net of a clone of `model`."""
    calls, clone = [], model.clone()
    clone.set_model_unet_function_wrapper(
        lambda apply, args: calls.append(args["c"]) or apply(args["input"], args["timestep"], **args["c"])
    )
    return calls, clone


def test_size_and_score(xl_graph, loaded_xl):
    """Without a choice the model is told the sampled size and 7; positive and negative alike."""

    def y_of(width=128, height=64, **apply):
        model, positive, negative = xl_graph.conditioned(loaded_xl, sketch=torch.zeros(1, height, width, 3), **apply)
        calls, model = recorded_calls(model)
        latent = {"samples": torch.zeros(1, 4, height // 8, width // 8)}
        xl_graph.sample(model, positive, negative, latent=latent, steps=1)
        assert calls[0]["y"].shape == (2, 32) and torch.equal(calls[0]["y"][0], calls[0]["y"][1])
        return calls[0]["y"][:1]

    def expected(height, width, score=7.0):
        return size_embedding.embed(size_embedding.picture_scalars(height, width, score), 16)

    assert torch.allclose(y_of(), expected(64, 128))
    assert torch.allclose(y_of(size=1024, aesthetic_score=5.5), expected(1024, 1024, 5.5))
    assert torch.allclose(y_of(aesthetic_score=5.5), expected(64, 128, 5.5))
    for wrong in ({"size": -8}, {"aesthetic_score": 11.0}):
        with pytest.raises(ValueError, match="size is .*aesthetic_score.*between 0 and 10"):
            y_of(**wrong)


def test_hand_made_conditioning(xl_graph, loaded_xl):
    """Tokens without our payload get a y too; text prompts are refused."""
    model, positive, negative = xl_graph.conditioned(loaded_xl)
    bare = [[positive[0][0], {}]]
    assert torch.isfinite(xl_graph.sample(model, bare, bare)).all()
    with pytest.raises(ValueError, match="width 2048, this ColorizeDiffusion model reads 48.*Apply Reference"):
        xl_graph.sample(model, [[torch.zeros(1, 77, 2048), {}]], negative)


def test_lora_names_of_all_layers(loaded_plugin, folders, pack, caplog):
    """Every layer can be reached by kohya, LDM and Diffusers style names, also the background LoRA's own."""
    import comfy.lora

    model = loaded_plugin.model
    keys = comfy.lora.model_lora_keys_unet(model.model, {})
    names = {f"diffusion_model.{k}" for k in model.model.diffusion_model.state_dict() if k.endswith("weight")}
    assert names <= set(keys.values())
    assert "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k" in keys
    name, width = "lora_unet_output_blocks_2_1_transformer_blocks_1_attn1_to_q", 128
    save_file(
        {f"{name}.lora_down.weight": random(4, width), f"{name}.lora_up.weight": random(width, 4)},
        folders.loras / "xl.safetensors",
    )
    with caplog.at_level(logging.WARNING):
        (patched,) = pack.run("LoraLoaderModelOnly", model, "xl.safetensors", 1.0)
    assert "lora key not loaded" not in caplog.text
    assert list(patched.patches) == ["diffusion_model.output_blocks.2.1.transformer_blocks.1.attn1.to_q.weight"]


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float16, torch.bfloat16])
def test_lower_precision(xl_graph, loaded_xl, weights, dtype):
    import comfy.sd

    model, *_ = comfy.sd.load_state_dict_guess_config(
        marked(weights), output_vae=False, output_clip=False, model_options={"dtype": dtype}
    )
    assert model.model.diffusion_model.middle_block[1].proj_in.weight.dtype == dtype
    full, loaded_xl.model = xl_graph.run(loaded_xl), model
    low = xl_graph.run(loaded_xl)
    least = 0.8 if dtype.itemsize == 1 else 0.99
    assert torch.nn.functional.cosine_similarity(full.flatten(), low.flatten(), 0) > least


def test_low_memory_mode(loaded_plugin):
    """Layers that are cast at use, because not everything fits, answer the same."""
    import comfy.model_management

    comfy.model_management.unload_all_models()
    x, context, y = torch.ones(1, 4, 8, 8), torch.ones(1, 16, 48), torch.ones(1, 32)
    with torch.no_grad():
        plain = loaded_plugin.model.model.apply_model(x, torch.tensor([3.0]), c_crossattn=context, y=y)
        model = loaded_plugin.model.clone()
        with model.use_ejected():
            model.load(torch.device("cpu"), lowvram_model_memory=64 * 1024)
        assert model.model.model_lowvram
        again = model.model.apply_model(x, torch.tensor([3.0]), c_crossattn=context, y=y)
        assert torch.allclose(again, plain, atol=1e-5)


def test_compile(xl_graph, loaded_xl, compiled):
    plain = xl_graph.run(loaded_xl)
    loaded_xl.model = compiled(loaded_xl.model)
    # Values up to 20 of random weights; a trace adds up in another order, by how much depends on the processor.
    torch.testing.assert_close(xl_graph.run(loaded_xl), plain, rtol=1e-4, atol=1e-4)


def test_memory_estimate_is_sdxl_s(pack, loaded_xl):
    import comfy.supported_models

    model = loaded_xl.model.model
    assert model.memory_usage_factor == comfy.supported_models.SDXL.memory_usage_factor
    small, large = (model.memory_required([2, 4, s, s]) for s in (64, 128))
    assert 0 < small < large
    control = loaded_xl.control_net.copy().set_cond_hint(torch.zeros(1, 3, 64, 64))
    assert control.inference_memory_requirements(torch.float32) > 64 * 64 * 64 * 4


def test_fresh_copies_from_the_file(loaded_plugin):
    """torch.compile and other devices ask for copies with their own weights."""
    if not hasattr(loaded_plugin.model, "deepclone_multigpu"):
        pytest.skip("this ComfyUI makes no copies for other devices (0.21 does not)")
    twin = loaded_plugin.model.deepclone_multigpu()
    assert twin.model is not loaded_plugin.model.model
    key = "middle_block.1.proj_in.weight"
    assert torch.equal(*(m.model.diffusion_model.state_dict()[key] for m in (twin, loaded_plugin.model)))


# -- the sketch encoder ------------------------------------------------------------------------------------------------


def by_block(control, x=None):
    x = torch.zeros(1, 4, 8, 8) if x is None else x
    hints = control.get_control(x, torch.tensor([1.0]), {}, 1, {})["input"]
    return {len(hints) - 1 - place: hint for place, hint in enumerate(hints) if hint is not None}


def test_maps_go_behind_blocks_0_3_6_8(loaded_xl, weights):
    sketch = (torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0)) > 0.9).float()
    control = loaded_xl.control_net.copy().set_cond_hint(sketch)
    found = by_block(control, torch.zeros(1, 4, 8, 12))
    with torch.no_grad():
        expected = XLSketchEncoder.from_state_dict(weights, "control_encoder.")(sketch * 2 - 1)
    assert list(found) == [8, 6, 3, 0]
    for block, values in zip((0, 3, 6, 8), expected, strict=True):
        assert torch.allclose(found[block], values, atol=1e-5)


def test_level_strengths(pack, loaded_xl):
    """Four levels, four sliders."""
    levels = {"high": 0.5, "middle": 2.0, "low": 0.0, "bottom": 3.0}
    plain = loaded_xl.control_net.copy().set_cond_hint(torch.eye(64).expand(1, 3, 64, 64))
    (control,) = pack.run("ColorizeSketchStrength", control_net=loaded_xl.control_net, **levels)
    scaled, full = by_block(control.copy().set_cond_hint(torch.eye(64).expand(1, 3, 64, 64))), by_block(plain)
    for block, strength in zip((0, 3, 6, 8), levels.values(), strict=True):
        assert torch.allclose(scaled[block], full[block] * strength, atol=1e-6)


def test_encoder_runs_once(xl_graph, loaded_xl, monkeypatch):
    calls, encoder = [], loaded_xl.control_net.encoder
    forward = encoder.forward
    monkeypatch.setattr(encoder, "forward", lambda sketch: calls.append(sketch.shape) or forward(sketch))
    model, positive, negative = xl_graph.conditioned(loaded_xl)
    xl_graph.sample(model, positive, negative, steps=3)
    xl_graph.sample(model, positive, negative, steps=2, seed=9)
    assert len(calls) == 1


def test_half_precision_keeps_the_sine(pack, weights):
    """The released application loses it; the maps then change by a third."""
    sketch = (torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) > 0.9).float()
    module = pack.module("model_patches.model.sketch_control")
    half = {key: value.half() for key, value in weights.items() if key.startswith("control_encoder.")}
    control = module.SketchControl.from_state_dict(half, "control_encoder.").set_cond_hint(sketch)
    reference = XLSketchEncoder.from_state_dict(weights, "control_encoder.")
    with torch.no_grad():
        right = reference(sketch * 2 - 1)[0]
        reference.attn_layer.cosine_only = True
        wrong = reference(sketch * 2 - 1)[0]
    found = by_block(control)[0]
    assert (found - right).norm() < 0.02 * right.norm() < (wrong - right).norm()


def test_odd_sizes_are_refused(xl_graph, loaded_xl):
    model, positive, negative = xl_graph.conditioned(loaded_xl)
    latent = {"samples": torch.zeros(1, 4, 9, 8)}
    with pytest.raises(ValueError, match="64x72 pixels does not fit.*multiples of 32"):
        xl_graph.sample(model, positive, negative, latent=latent)
    latent = {"samples": torch.zeros(1, 4, 12, 4)}
    assert xl_graph.sample(model, positive, negative, latent=latent).shape == (1, 4, 12, 4)


def test_copies_of_the_control(loaded_xl):
    control = loaded_xl.control_net.copy().set_cond_hint(torch.eye(64).expand(1, 3, 64, 64))
    twin = control.deepclone_multigpu(torch.device("cpu"))
    assert twin.encoder is not control.encoder and twin.is_xl
    assert torch.equal(by_block(twin)[8], by_block(control)[8])
    blank = by_block(copy.copy(control).blank())[0]
    assert not torch.allclose(blank, by_block(control)[0])
