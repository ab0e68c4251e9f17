"""The MODEL behaves like any ComfyUI model: samplers, LoRA, fp8, compile, previews, batches."""

import logging

import pytest
import torch

from colorize.sampling.schedule import NoiseSchedule
from colorize.unet.unet import UNet
from tests import tiny


@pytest.fixture(scope="module")
def pure_unet(tiny_weights):
    """The same weights in the trainer's network."""
    prefix = "model.diffusion_model."
    unet = UNet(tiny.CONFIG)
    unet.load_state_dict({k.removeprefix(prefix): v for k, v in tiny_weights.items() if k.startswith(prefix)})
    return unet.eval()


def test_same_network_as_the_trainer(loaded, pure_unet):
    generator = torch.Generator().manual_seed(0)
    x, context = torch.randn(2, 4, 8, 16, generator=generator), torch.randn(2, 16, 48, generator=generator)
    t = torch.tensor([3.25, 871.0])
    with torch.no_grad():
        ours = loaded.model.model.diffusion_model(x, t, context=context)
        assert (ours - pure_unet(x, t, context)).abs().max() < 2e-5


def test_no_step_cost(pack, loaded):
    """Nothing runs per step besides ComfyUI's own U-Net; `forward` takes the word of a trace off (compiled.py)."""
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    unet = pack.module("model_patches.model.attention").ColorizeUNet
    assert type(loaded.model.model.diffusion_model) is unet
    assert unet._forward is UNetModel._forward


def test_fractional_timesteps(loaded):
    sampling = loaded.model.model.model_sampling
    sigma = torch.tensor([0.001, 0.0292, 0.03, 0.5, 1.7, 7.3, 14.0, 14.6146, 50.0])
    expected = NoiseSchedule().sigma_to_t(sigma)
    assert (sampling.timestep(sigma) - expected).abs().max() < 2e-2
    assert sampling.timestep(sigma)[3].frac() != 0
    assert sampling.timestep(torch.tensor(1.7)).ndim == 0
    t = torch.tensor([0.0, 17.25, 500.5, 999.0])
    assert (sampling.timestep(sampling.sigma(t)) - t).abs().max() < 2e-2
    assert sampling.timestep(torch.tensor([0.0])) == 0 and sampling.timestep(torch.tensor([1e9])) == 999


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "ddim", "uni_pc", "dpmpp_2m_sde"])
def test_core_samplers(graph, loaded, sampler):
    out = graph.run(loaded, sampler=sampler, steps=3)
    assert out.shape == (1, 4, 8, 8) and torch.isfinite(out).all()
    assert torch.equal(out, graph.run(loaded, sampler=sampler, steps=3))


@pytest.mark.parametrize(
    "scheduler", ["normal", "karras", "exponential", "sgm_uniform", "simple", "ddim_uniform", "beta"]
)
def test_core_schedulers(loaded, scheduler):
    import comfy.samplers

    sigmas = comfy.samplers.calculate_sigmas(loaded.model.model.model_sampling, scheduler, 5)
    assert (sigmas.diff() < 0).all() and sigmas[-1] == 0


def test_picture_size_is_free(graph, loaded):
    model, positive, negative = graph.conditioned(loaded)
    latent = {"samples": torch.zeros(1, 4, 8, 24)}
    assert graph.sample(model, positive, negative, latent=latent).shape == (1, 4, 8, 24)


def test_seed_zero_and_given_latent(graph, loaded):
    one, two = graph.run(loaded, seed=0), graph.run(loaded, seed=1)
    assert not torch.equal(one, two)
    model, positive, negative = graph.conditioned(loaded)
    latent = {"samples": torch.ones(1, 4, 8, 8)}
    with torch.inference_mode():
        out = graph.pack.run("KSampler", model, 0, 4, 2.0, "euler", "normal", positive, negative, latent, denoise=0.3)[
            0
        ]
    assert not torch.equal(out["samples"], one)


# -- references --------------------------------------------------------------------------------------------------------


def test_reference_tokens(graph, encoder):
    reference = graph.reference(batch=2)
    assert reference.tokens.shape == (2, tiny.TOKENS, 48) and reference.local_tokens.shape == (2, tiny.TOKENS - 1, 48)
    assert (reference.count, reference.width, reference.image_size, reference.fit) == (2, 48, 56, "stretch")
    with torch.no_grad():
        expected = tiny.reference_encoder().encode(torch.ones(1, 3, 9, 9))
    white = graph.pack.run("ColorizeEncodeReference", encoder=encoder, image=torch.ones(1, 9, 9, 3))[0]
    assert (white.tokens - expected).abs().max() < 1e-5
    with pytest.raises(AttributeError):
        white.fit = "pad"


def test_positive_and_negative(graph, loaded):
    reference = graph.reference()
    model, positive, negative = graph.pack.run(
        "ColorizeApplyReference", model=loaded.model, colorizer=loaded.colorizer, reference=reference
    )
    assert torch.equal(positive[0][0], reference.local_tokens)
    assert negative[0][0].shape == positive[0][0].shape and not negative[0][0].any()
    assert model is not loaded.model and model.model is loaded.model.model


def test_one_reference_for_many_and_one_each(graph, loaded):
    """A batch gives what its rows give alone; more than one reference must be as many as pictures."""
    two = graph.reference(batch=2)
    sketch = graph.sketch(batch=2)[0]
    latent = {"samples": torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(2)), "batch_index": [0, 1]}

    def run(reference, sketch, latent):
        return graph.sample(*graph.conditioned(loaded, reference, sketch), latent=latent)

    together = run(two, sketch, latent)
    kind = type(two)
    for row in range(2):
        alone = kind(two.tokens[row : row + 1], two.image_size, two.fit)
        single = run(alone, sketch[row : row + 1], {"samples": latent["samples"][row : row + 1], "batch_index": [row]})
        assert (together[row] - single[0]).abs().max() < 1e-4
    assert not torch.allclose(together[0], together[1])
    shared = run(kind(two.tokens[:1], two.image_size, two.fit), sketch[:1], latent)
    assert (shared[0] - together[0]).abs().max() < 1e-4

    with pytest.raises(ValueError, match="2 references for 1 pictures.*Use one, or as many"):
        graph.sample(*graph.conditioned(loaded, two))
    with pytest.raises(ValueError, match="2 references for 3 pictures"):
        graph.sample(*graph.conditioned(loaded, two), batch=3)


def test_positive_and_negative_run_in_one_call(graph, loaded):
    calls = []
    model, positive, negative = graph.conditioned(loaded)
    model.set_model_unet_function_wrapper(
        lambda apply, args: calls.append(args["cond_or_uncond"]) or apply(args["input"], args["timestep"], **args["c"])
    )
    graph.sample(model, positive, negative)
    assert [sorted(call) for call in calls] == [[0, 1], [0, 1]]


def test_text_conditioning_is_refused(graph, loaded):
    model, positive, negative = graph.conditioned(loaded)
    with pytest.raises(ValueError, match="width 768, this ColorizeDiffusion model reads 48.*Apply Reference"):
        graph.sample(model, [[torch.zeros(1, 77, 768), {}]], negative)


def test_mismatched_parts(pack, graph, loaded, encoder):
    module = pack.module("model_patches.checkpoint.colorizer")
    wide = pack.module("colorize.reference.types").Reference(torch.zeros(1, 17, 1024), 224, "stretch")
    with pytest.raises(
        ValueError, match="tokens of width 1024, the model tiny.safetensors reads width 48.*Load Reference Encoder"
    ):
        graph.conditioned(loaded, wide)

    class Stranger:
        model = torch.nn.Linear(1, 1)

    with pytest.raises(ValueError, match="The model is Linear, not a ColorizeDiffusion model"):
        pack.run("ColorizeApplyReference", model=Stranger(), colorizer=loaded.colorizer, reference=wide)
    import dataclasses

    other = module.Colorizer(dataclasses.replace(loaded.colorizer.family, context_dim=96), "other.safetensors")
    with pytest.raises(ValueError, match="other.safetensors.*width 96.*the model reads width 48"):
        pack.run("ColorizeApplyReference", model=loaded.model, colorizer=other, reference=graph.reference())


# -- what people put between loader and sampler ------------------------------------------------------------------------


def lora_file(folder, key="output_blocks_5_1_transformer_blocks_0_attn2_to_q", width=64):
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(9)
    name = f"lora_unet_{key}"
    weights = {
        f"{name}.lora_down.weight": torch.randn(4, width, generator=generator),
        f"{name}.lora_up.weight": torch.randn(width, 4, generator=generator),
        f"{name}.alpha": torch.tensor(4.0),
    }
    save_file(weights, folder / "a.safetensors")
    return weights, name


def test_lora(pack, graph, loaded, folders, caplog):
    weights, name = lora_file(folders.loras)
    plain = graph.run(loaded)
    with caplog.at_level(logging.WARNING):
        (patched,) = pack.run("LoraLoaderModelOnly", loaded.model, "a.safetensors", 1.0)
    assert "lora key not loaded" not in caplog.text
    assert list(patched.patches) == ["diffusion_model.output_blocks.5.1.transformer_blocks.0.attn2.to_q.weight"]
    original, loaded.model = loaded.model, patched
    assert not torch.allclose(graph.run(loaded), plain)
    delta = weights[f"{name}.lora_up.weight"] @ weights[f"{name}.lora_down.weight"]
    with torch.inference_mode():
        layer = patched.model.diffusion_model.output_blocks[5][1].transformer_blocks[0].attn2.to_q.weight
        base = pack.run("ColorizeLoadCheckpoint", ckpt_name="tiny.safetensors")[0]
        untouched = base.model.diffusion_model.output_blocks[5][1].transformer_blocks[0].attn2.to_q.weight
        assert (layer - untouched - delta).abs().max() < 1e-3
    loaded.model = original
    assert torch.equal(graph.run(loaded), plain)


def test_lora_names_of_all_layers(loaded):
    """Every linear and convolution of the U-Net can be reached by kohya, LDM and Diffusers style names."""
    import comfy.lora

    keys = comfy.lora.model_lora_keys_unet(loaded.model.model, {})
    weights = {f"diffusion_model.{k}" for k in loaded.model.model.diffusion_model.state_dict() if k.endswith("weight")}
    assert weights <= set(keys.values())
    assert "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k" in keys


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_fp8_weights(graph, loaded, folders, dtype, tiny_weights):
    """Load Diffusion Model with an fp8 weight type keeps 8 bits in memory and still samples something alike."""
    import comfy.sd

    weights = dict(tiny_weights) | {"v_pred": torch.tensor([]), "colorize.num_head_channels": torch.tensor(32)}
    model, *_ = comfy.sd.load_state_dict_guess_config(
        weights, output_vae=False, output_clip=False, model_options={"dtype": dtype}
    )
    assert model.model.diffusion_model.middle_block[1].proj_in.weight.dtype == dtype
    full, loaded.model = graph.run(loaded), model
    eight = graph.run(loaded)
    assert torch.isfinite(eight).all()
    assert torch.nn.functional.cosine_similarity(full.flatten(), eight.flatten(), 0) > 0.8


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(graph, loaded, tiny_weights, dtype):
    import comfy.sd

    weights = dict(tiny_weights) | {"v_pred": torch.tensor([]), "colorize.num_head_channels": torch.tensor(32)}
    model, *_ = comfy.sd.load_state_dict_guess_config(
        weights, output_vae=False, output_clip=False, model_options={"dtype": dtype}
    )
    full, loaded.model = graph.run(loaded), model
    assert torch.nn.functional.cosine_similarity(full.flatten(), graph.run(loaded).flatten(), 0) > 0.99


def test_low_memory_mode(loaded):
    """Layers that are cast at use, because not everything fits, answer the same."""
    import comfy.model_management

    comfy.model_management.unload_all_models()
    x, context, sigma = torch.ones(1, 4, 8, 8), torch.ones(1, 16, 48), torch.tensor([3.0])
    with torch.no_grad():
        plain = loaded.model.model.apply_model(x, sigma, c_crossattn=context)
        model = loaded.model.clone()
        with model.use_ejected():
            model.load(torch.device("cpu"), lowvram_model_memory=64 * 1024)
        layers = [m for m in model.model.diffusion_model.modules() if hasattr(m, "prev_comfy_cast_weights")]
        assert model.model.model_lowvram and len(layers) > 100
        assert torch.allclose(model.model.apply_model(x, sigma, c_crossattn=context), plain, atol=1e-5)


def test_compile(graph, loaded, compiled):
    """Up to rounding: a traced network shares nothing between steps (run_memory.py), so its batches differ."""
    plain = graph.run(loaded)
    loaded.model = compiled(loaded.model)
    assert torch.allclose(graph.run(loaded), plain, atol=1e-4)


def test_previews(loaded):
    import latent_preview

    assert loaded.model.model.latent_format.latent_channels == 4
    previewer = latent_preview.Latent2RGBPreviewer(loaded.model.model.latent_format.latent_rgb_factors)
    assert previewer.decode_latent_to_preview(torch.randn(1, 4, 8, 8)).size == (8, 8)


def test_two_settings_do_not_leak(graph, loaded):
    """Runs with other references in between change nothing."""
    first = graph.run(loaded)
    graph.sample(*graph.conditioned(loaded, graph.reference(seed=99), strength=0.3), cfg=5.0)
    assert torch.equal(graph.run(loaded), first)


def test_memory_estimate_grows_with_the_picture(loaded):
    small, large = (loaded.model.model.memory_required([2, 4, s, s]) for s in (32, 64))
    assert 0 < small < large
