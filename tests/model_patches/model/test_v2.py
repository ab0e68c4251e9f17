"""v2: style and background are read once per picture and heard by the decoder; without them it is v1."""

import dataclasses

import pytest
import torch
from safetensors.torch import load_file, save_file

from colorize.unet.config import unet_weights
from colorize.unet.decoder_guide import DecoderGuide, figure_split
from colorize.unet.split_attention import Split, SplitOptions
from colorize.unet.unet import UNet
from tests import tiny
from tests.model_patches.model.test_xl_model import random, recorded_calls
from tests.tiny import half_mask

LATENT = {"samples": torch.zeros(1, 4, 8, 8)}


def picture(batch=1, seed=3):
    return torch.rand(batch, 40, 52, 3, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def reference(graph):
    """With a background picture of its own."""
    return graph.reference(background=picture())


@pytest.fixture
def plain(graph, loaded_v2, reference):
    """(MODEL, positive, negative) in the mode vanilla."""
    return graph.conditioned(loaded_v2, reference)


@pytest.fixture
def split(graph, loaded_v2, reference):
    """(MODEL, positive, negative) in the mode fig2fig, the left half is figure."""
    return graph.conditioned(loaded_v2, reference, mode="fig2fig", figure_mask=half_mask())


@pytest.fixture
def apply(pack, loaded_v2, reference):
    """apply(positive, negative, style_image=..., background=..., ...) -> (positive, negative) behind the node."""

    def run(positive, negative, loaded=loaded_v2, latent=LATENT, reference=reference, **inputs):
        return pack.run(
            "ColorizeApplyStyleBackground", loaded.colorizer, loaded.vae, positive, negative, reference, latent,
            **inputs,
        )  # fmt: skip

    return run


def guides_of(conditioning):
    return conditioning[0][1]["colorize"].features


def differ(first, second):
    return (first - second).abs().max() > 1e-2


# -- the file ----------------------------------------------------------------------------------------------------------


def test_loads(loaded_v2):
    family = loaded_v2.colorizer.family
    assert (family.name, family.is_v2, family.has_regions, family.prediction_type) == ("v2", True, True, "v")
    assert type(loaded_v2.model.model).__name__ == "ColorizeV2Model"
    assert loaded_v2.colorizer.plugin is None and loaded_v2.colorizer.background_encoder is None
    assert not {"style", "background"} & set(vars(loaded_v2.colorizer.picture_encoders))  # built when used


def test_every_tensor_is_used(loaded_v2, pack):
    """Each U-Net tensor of the file is in the network under its released name."""
    given = {k for k in tiny.checkpoint_v2() if k.startswith("model.diffusion_model.")}
    names = pack.module("colorize.unet.region_lora").to_official_names
    own = names(loaded_v2.model.model.diffusion_model.state_dict())
    assert {f"model.diffusion_model.{key}" for key in own if key != "distilled.weight"} == given


def test_without_the_node_it_is_v1(graph, loaded, loaded_v2):
    assert torch.equal(graph.run(loaded_v2), graph.run(loaded))


def test_save_and_load_again(pack, loaded_v2, folders, v2_file):
    import comfy.sd

    path = folders.checkpoints / "saved_v2.safetensors"
    comfy.sd.save_checkpoint(str(path), loaded_v2.model, vae=loaded_v2.vae)
    saved, first = load_file(path), tiny.checkpoint_v2()
    parts = ("model.diffusion_model.", "bg_encoder.", "style_encoder.", "control_encoder.")
    wanted = {k for k in first if k.startswith(parts)}
    assert wanted <= set(saved)
    assert all(torch.equal(saved[k].float(), first[k]) for k in wanted)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_small_dtypes(pack, graph, folders, apply, reference, dtype):
    name = f"tiny_v2_{str(dtype)[6:]}.safetensors"
    save_file({k: v.to(dtype) for k, v in tiny.checkpoint_v2().items()}, folders.checkpoints / name, tiny.METADATA_V2)
    names = ("model", "vae", "control_net", "colorizer")
    loaded = type("Loaded", (), dict(zip(names, pack.run("ColorizeLoadCheckpoint", ckpt_name=name), strict=True)))
    model, positive, negative = graph.conditioned(loaded, reference, mode="fig2fig", figure_mask=half_mask())
    both = apply(positive, negative, loaded, style_image=picture(seed=1), background=picture())
    assert torch.isfinite(graph.sample(model, *both)).all()


def test_an_incomplete_encoder(loaded_v2):
    encoders = loaded_v2.colorizer.picture_encoders
    for prefix in ("bg_encoder.", "style_encoder."):
        cut = {k: v for k, v in encoders.weights.items() if k != f"{prefix}input_blocks.4.0.in_layers.0.bias"}
        broken = dataclasses.replace(encoders, weights=cut)
        with pytest.raises(ValueError, match="encoder in 'tiny_v2.safetensors' is not complete.*Download or convert"):
            _ = broken.style if prefix.startswith("style") else broken.background


# -- what it computes --------------------------------------------------------------------------------------------------


def test_same_answer_as_the_pure_network(split, apply):
    """Style, warps and region weights: the velocity of the pure-torch U-Net."""
    pure = UNet(dataclasses.replace(tiny.CONFIG, region_ranks=(4, 4), v2=True))
    pure.load_state_dict(unet_weights(tiny.checkpoint_v2(), "model.diffusion_model."))
    model, positive, negative = split
    positive, _ = apply(positive, negative, style_image=picture(seed=1), background=picture(), background_factor=0.7)
    guides, payload = guides_of(positive), positive[0][1]["colorize"]
    assert len(guides.tensors) == 24 and guides.backgrounds == 12
    tokens = (positive[0][0], *payload.region_tokens)
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1
    options = SplitOptions(kinds=("fg", "bg"), strengths=(1.0, 1.0), threshold=0.05)
    decoder = DecoderGuide(guides.tensors[:12], guides.tensors[12:], figure_split(mask))
    x, t = random(1, 4, 8, 8), torch.tensor([612.25])
    with torch.no_grad():
        expected = pure.eval()(x, t, None, split=Split(tokens, mask, options), decoder=decoder)
        sampling = model.model.model_sampling
        sigma = sampling.sigma(t)
        noisy = x * (1 + sigma**2) ** 0.5
        answer = model.model.apply_model(
            noisy, sigma, c_crossattn=tokens[0], transformer_options={}, colorize_settings=payload.settings,
            colorize_tokens=list(tokens[1:]), colorize_masks=mask, colorize_features=guides,
        )  # fmt: skip
        expected = sampling.calculate_denoised(sigma, expected, noisy)
    assert (answer - expected).abs().max() < 1e-3 * expected.abs().max()


def test_what_the_encoders_read(pack, split, apply, loaded_v2, reference, monkeypatch):
    """The squashed picture's latent, its tokens, its sides over the drawing's; the figure is white."""
    encoders, seen = loaded_v2.colorizer.picture_encoders, []
    forward = encoders.background.model.forward
    monkeypatch.setattr(encoders.background.model, "forward", lambda *a: seen.extend(a) or forward(*a))
    figure = torch.zeros(1, 40, 52)
    figure[:, 20:] = 1
    _, positive, negative = split
    apply(positive, negative, background=picture(), figure_mask=figure)
    x, tokens, y = seen
    painted = picture().clone()
    painted[:, 20:] = 1
    squashed = pack.module("colorize.pictures.masks").squash(painted.movedim(-1, 1), 64, 64)
    expected = loaded_v2.vae.encode(squashed.movedim(1, -1)) * 0.18215
    assert torch.allclose(x, expected, atol=1e-4)
    assert torch.equal(tokens, reference.background_tokens)
    module = pack.module("colorize.unet.size_embedding")
    assert torch.equal(y, module.embed(module.ratio_scalars((40, 52), (64, 64)), tiny.RATIO_WIDTH))


def test_variant_released_gives_the_background_the_references_tokens(loaded_v2, split, apply, reference, monkeypatch):
    encoders, seen = loaded_v2.colorizer.picture_encoders, []
    forward = encoders.background.model.forward
    monkeypatch.setattr(encoders.background.model, "forward", lambda *a: seen.append(a[1]) or forward(*a))
    both = dict(style_image=picture(seed=1), background=picture())
    for variant in ("paper", "released"):
        apply(*split[1:], **both, variant=variant)
    assert torch.equal(seen[0], reference.background_tokens) and torch.equal(seen[1], reference.local_tokens)


def test_style_and_background_change_the_picture(graph, split, apply):
    model, *both = split
    results = [graph.sample(model, *both)]
    for inputs in (
        dict(style_image=picture(seed=1)),
        dict(background=picture()),
        dict(background=picture(seed=4)),
        dict(background=picture(), background_factor=0.3),
        dict(style_image=picture(seed=1), background=picture()),
        dict(style_image=picture(seed=1), background=picture(), merge=0.5),
    ):
        results.append(graph.sample(model, *apply(*both, **inputs)))
        assert all(differ(results[-1], other) for other in results[:-1]), inputs


def test_masks_and_keys_are_made_once(graph, split, apply, plainly, pack, monkeypatch):
    model, *both = split
    both, module, resized = apply(*both, background=picture()), pack.module("colorize.unet.split_attention"), []
    monkeypatch.setattr(module, "composition", lambda *a, make=module.composition: resized.append(a) or make(*a))
    shared = graph.sample(model, *both, steps=3)
    assert len(resized) <= 8  # twice, for regions and decoder, on each of four sizes: not in every block and step
    plain = plainly(graph, model, *both, steps=3)
    assert (shared - plain).abs().max() < 1e-4 * plain.abs().max()


def test_style_without_regions(graph, plain, apply):
    model, *both = plain
    styled = [graph.sample(model, *apply(*both, style_image=picture(seed=seed))) for seed in (1, 2)]
    assert differ(*styled) and differ(styled[0], graph.sample(model, *both))
    assert guides_of(apply(*both, style_image=picture())[1]).backgrounds == 0


def test_a_merge_in_vanilla_reads_the_background_as_a_style(graph, plain, apply):
    model, *both = plain
    style = dict(style_image=picture(seed=1))
    merged = apply(*both, **style, background=picture(), merge=0.3)
    assert guides_of(merged[0]).backgrounds == 0
    assert differ(graph.sample(model, *merged), graph.sample(model, *apply(*both, **style)))


# -- off means off -----------------------------------------------------------------------------------------------------


def test_without_pictures_nothing_changes(plain, apply):
    _, positive, negative = plain
    first, second = apply(positive, negative)
    assert first is positive and second is negative


def test_a_figure_everywhere_hears_no_background(graph, loaded_v2, reference, apply):
    model, *both = graph.conditioned(loaded_v2, reference, mode="fig2fig", figure_mask=torch.ones(1, 64, 64))
    untouched = graph.sample(model, *both)
    assert torch.equal(graph.sample(model, *apply(*both, background=picture())), untouched)


def test_it_is_off_where_the_reference_is(graph, loaded_v2, reference, apply):
    model, *both = graph.conditioned(
        loaded_v2, reference, mode="fig2fig", figure_mask=half_mask(), off_start=0.0, off_end=1.0
    )
    untouched = graph.sample(model, *both)
    both = apply(*both, style_image=picture(seed=1), background=picture())
    assert torch.equal(graph.sample(model, *both), untouched)


def test_it_leaves_the_model_as_it_was(graph, split, apply):
    model, *both = split
    before = graph.sample(model, *both)
    graph.sample(model, *apply(*both, style_image=picture(seed=1), background=picture()))
    assert torch.equal(graph.sample(model, *both), before)


# -- rows, memory ------------------------------------------------------------------------------------------------------


def test_positive_and_negative_run_in_one_call_and_read_once(graph, split, apply, loaded_v2, monkeypatch):
    encoders, passes = loaded_v2.colorizer.picture_encoders, []
    for patcher in (encoders.style, encoders.background):
        forward = patcher.model.forward
        monkeypatch.setattr(patcher.model, "forward", lambda *a, f=forward: passes.append(len(a[0])) or f(*a))
    model, *both = split
    both = apply(*both, style_image=picture(seed=1), background=picture())
    assert passes == [1, 1] and guides_of(both[0]) is guides_of(both[1])
    calls, model = recorded_calls(model)
    graph.sample(model, *both, steps=3)
    assert [len(call["c_crossattn"]) for call in calls] == [2] * 3 and passes == [1, 1]


def test_one_call_for_both_or_one_each(graph, split, apply, monkeypatch):
    """Low memory: ComfyUI runs the conditions one after the other; the picture stays."""
    import comfy.model_management

    model, *both = split
    both = apply(*both, style_image=picture(seed=1), background=picture())
    together = graph.sample(model, *both)
    monkeypatch.setattr(comfy.model_management, "get_free_memory", lambda *a, **k: 1)
    calls, model = recorded_calls(model)
    assert (graph.sample(model, *both) - together).abs().max() < 1e-3
    assert {len(call["c_crossattn"]) for call in calls} == {1}


def test_weights_that_are_cast_at_use(loaded_v2, split, apply):
    """Low memory: warps and modulations too are cast where they are used."""
    import comfy.model_management

    comfy.model_management.unload_all_models()
    model, *both = split
    positive, _ = apply(*both, style_image=picture(seed=1), background=picture())
    payload, x, sigma = positive[0][1]["colorize"], random(1, 4, 8, 8), torch.tensor([3.0])

    def answer(model):
        mask = torch.zeros(1, 1, 8, 8)
        return model.model.apply_model(
            x, sigma, c_crossattn=positive[0][0], transformer_options={}, colorize_settings=payload.settings,
            colorize_tokens=list(payload.region_tokens), colorize_masks=mask, colorize_features=payload.features,
        )  # fmt: skip

    with torch.no_grad():
        plain = answer(loaded_v2.model)
        cast = loaded_v2.model.clone()
        with cast.use_ejected():
            cast.load(torch.device("cpu"), lowvram_model_memory=64 * 1024)
        network = cast.model.diffusion_model
        assert hasattr(network.warp_modules[0].ff[0], "prev_comfy_cast_weights")
        assert hasattr(network.style_modules[0][1], "prev_comfy_cast_weights")
        assert torch.allclose(answer(cast), plain, atol=1e-4)


def test_guides_leave_the_device_after_a_run(split, apply):
    """All conditions of a run share one copy, which goes with them."""
    guides = guides_of(apply(*split[1:], style_image=picture(seed=1), background=picture())[0])
    copy = guides.on(torch.device("meta"))
    assert guides.on(torch.device("meta")) is copy and copy.backgrounds == 12 and copy.tensors[0].is_meta
    del copy
    assert not list(guides._copies.values())


def test_compiled(graph, split, apply, compiled):
    model, *both = split
    both = apply(*both, style_image=picture(seed=1), background=picture())
    plain = graph.sample(model, *both, steps=1)
    torch.testing.assert_close(graph.sample(compiled(model), *both, steps=1), plain, atol=1e-4, rtol=1e-4)


def test_batches(graph, loaded_v2, reference, apply):
    """One picture for all drawings, or one for each; a batch gives what its rows give alone."""
    sketch = graph.sketch(batch=2)[0]
    model, *both = graph.conditioned(loaded_v2, reference, sketch, mode="fig2fig", figure_mask=half_mask())
    latent = {"samples": random(2, 4, 8, 8), "batch_index": [0, 1]}
    inputs = dict(style_image=picture(2, seed=1), background=picture(2))
    each = graph.sample(model, *apply(*both, **inputs), latent=latent)
    for row in range(2):
        one = apply(*both, **{name: image[row : row + 1] for name, image in inputs.items()})
        assert (each[row] - graph.sample(model, *one, latent=latent)[row]).abs().max() < 1e-3
    with pytest.raises(ValueError, match="2 style or background pictures for 1 pictures"):
        graph.sample(model, *apply(*both, **inputs))


# -- modes and bad input -----------------------------------------------------------------------------------------------


def test_masked_vanilla_is_the_released_fg_enhance(graph, loaded, loaded_v2):
    """[e ; e] without region weights: the answer of a v1 file, but for ties between mask and threshold."""
    options = dict(mode="masked vanilla", figure_mask=half_mask(), background_strength=0.5)
    v2, v1 = (graph.sample(*graph.conditioned(files, **options)) for files in (loaded_v2, loaded))
    assert torch.equal(v1, v2)


def test_bg2fig_is_not_for_v2(graph, loaded_v2):
    with pytest.raises(ValueError, match="v2, whose weights know no bg2fig. Choose masked vanilla"):
        graph.conditioned(loaded_v2, mode="bg2fig", figure_mask=half_mask())


def test_fig2fig_needs_a_background(graph, loaded_v2):
    with pytest.raises(ValueError, match="In Encode Reference connect figure_mask.*choose masked vanilla"):
        graph.conditioned(loaded_v2, mode="fig2fig", figure_mask=half_mask())


def test_another_family(graph, loaded, loaded_v2, apply, plain, pack):
    _, positive, negative = graph.conditioned(loaded)
    with pytest.raises(ValueError, match="tiny.safetensors is ColorizeDiffusion v1, without style and background"):
        apply(positive, negative, loaded=loaded, style_image=picture())
    both = apply(*plain[1:], style_image=picture())
    with pytest.raises(ValueError, match="comes from Apply Style and Background, but the sampled model"):
        graph.sample(loaded.model, *both)


def test_a_background_needs_regions(graph, plain, apply):
    for inputs in (dict(background=picture()), dict(background=picture(), style_image=picture())):
        with pytest.raises(ValueError, match="Set mode of Apply Reference to fig2fig"):
            apply(*plain[1:], **inputs)


def test_a_reference_without_background(graph, split, apply):
    with pytest.raises(ValueError, match="In Encode Reference connect the same picture to background"):
        apply(*split[1:], background=picture(), reference=graph.reference())


def test_a_masked_reference_cannot_be_merged_into_the_style(graph, plain, apply):
    masked = graph.reference(figure_mask=half_mask())
    inputs = dict(style_image=picture(), background=picture(), merge=0.5)
    with pytest.raises(ValueError, match="Only a background picture can be merged"):
        apply(*plain[1:], **inputs, reference=masked)


def test_counts_that_do_not_fit(split, apply, graph):
    with pytest.raises(ValueError, match="There are 2 style pictures and 3 backgrounds"):
        apply(*split[1:], style_image=picture(2), background=picture(3))
    with pytest.raises(ValueError, match="There are 3 pictures in style_image and 2 references"):
        apply(*split[1:], style_image=picture(3), reference=graph.reference(batch=2))


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        ({"latent": {"samples": torch.zeros(1, 4, 1, 8, 8)}}, "latent is not of the form"),
        ({"background": torch.zeros(9, 9)}, "background has the shape"),
        ({"style_image": torch.zeros(9, 9)}, "style_image has the shape"),
        ({"figure_mask": torch.zeros(3, 9, 9)}, "3 figure masks for"),
    ],
)
def test_bad_inputs(split, apply, inputs, text):
    with pytest.raises(ValueError, match=text):
        apply(*split[1:], **{"background": picture()} | inputs)
