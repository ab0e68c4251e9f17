"""References of XL models: encoders, token projection, modes, and everything that works as for v1.5."""

import dataclasses
import logging

import pytest
import torch
from safetensors.torch import save_file

from colorize.reference import fitting, token_projection, wd_tagger
from colorize.unet.region_lora import to_module_names
from colorize.unet.split_attention import Split, SplitOptions, to_latent_size
from colorize.unet.unet import UNet
from tests import tiny, tiny_xl
from tests.model_patches.conftest import _loaded
from tests.model_patches.model.test_guidance import by_formula, denoised, predictions, single
from tests.model_patches.model.test_xl_model import random, recorded_calls
from tests.tiny import half_mask


def tokens_of(graph, loaded, reference, **apply):
    """(positive, negative) of Apply Reference."""
    _, positive, negative = graph.pack.run(
        "ColorizeApplyReference", model=loaded.model, colorizer=loaded.colorizer, reference=reference, **apply
    )
    return positive, negative


# -- encoding ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fit", ["stretch", "pad", "crop"])
def test_both_encoders_see_the_same_part(xl_graph, fit):
    """The tagger reads the picture squashed, BGR, in -1..1, after the same fit as the image encoder."""
    image = torch.rand(1, 40, 70, 3, generator=torch.Generator().manual_seed(0))
    reference = xl_graph.reference(image=image, fit=fit)
    picture = fitting.fitted(image.movedim(-1, 1) * 2 - 1, fit)
    size = (128, 128)
    square = torch.nn.functional.interpolate(picture, size, mode="bicubic", align_corners=True, antialias=True)
    network = wd_tagger.WDTagger.from_state_dict(tiny_xl.tagger_weights(), tiny_xl.TAGGER_METADATA)
    with torch.no_grad():
        expected = network.tokens(square.flip(1))
    assert reference.tokens.shape == (1, 17, 40) and reference.tagger_tokens.shape == (1, 16, 64)
    assert (reference.tagger_tokens - expected).abs().max() < 1e-4
    assert reference.tagger_mark.shape == (64,)


def test_background_has_both_token_sets(xl_graph, figure_reference):
    white = xl_graph.reference(image=torch.ones(1, 8, 8, 3))
    scene = xl_graph.reference(background=torch.ones(1, 9, 9, 3))
    assert torch.allclose(scene.background_class_token, white.tokens[:, :1], atol=1e-5)
    assert torch.allclose(scene.background_tagger_tokens, white.tagger_tokens, atol=1e-4)
    own = figure_reference
    assert own.background_tagger_tokens.shape == own.tagger_tokens.shape
    assert not torch.allclose(own.background_tagger_tokens, own.tagger_tokens, atol=1e-3)
    two = xl_graph.reference(batch=2, background=torch.ones(1, 9, 9, 3))
    assert two.background_class_token.shape == (2, 1, 40) and two.background_tagger_tokens.shape == (2, 16, 64)


def test_without_tagger_nothing_changes(graph):
    """Models of v1 do not read one. The background's class token is there all the same, for CLS models."""
    reference = graph.reference(background=torch.ones(1, 9, 9, 3))
    assert reference.tagger_tokens is reference.tagger_mark is reference.background_tagger_tokens is None
    white = graph.reference(image=torch.ones(1, 9, 9, 3))
    assert torch.allclose(reference.background_class_token, white.tokens[:, :1], atol=1e-5)


def test_projection(xl_graph, loaded_xl, figure_reference):
    """Cross-attention reads what the checkpoint's projection makes of both, class tokens included."""
    network = token_projection.from_state_dict(tiny_xl.checkpoint())
    own, other = figure_reference, torch.cat
    with torch.no_grad():
        expected = network(own.tokens, own.tagger_tokens)
        both = other([own.background_class_token, own.background_tokens], dim=1)
        background = network(both, own.background_tagger_tokens)
    positive, negative = tokens_of(xl_graph, loaded_xl, own)
    assert positive[0][1] == {} and torch.allclose(positive[0][0], expected, atol=1e-5)
    assert negative[0][0].shape == (1, 16, 48) and not negative[0][0].any()
    positive, _ = tokens_of(xl_graph, loaded_xl, own, mode="masked vanilla", figure_mask=half_mask())
    payload = positive[0][1]["colorize"]
    assert torch.allclose(payload.region_tokens[0], background, atol=1e-5)
    assert payload.settings.split.kinds == (None, None) and not payload.settings.split.ties_to_figure


def test_one_queue_encodes_once(xl_graph, loaded_xl, monkeypatch):
    """Encoders and projection run before sampling, once, however many steps follow."""
    calls = []
    networks = (xl_graph.encoder.encoder, "tokens"), (xl_graph.tagger.network, "tokens")
    for owner, name in (*networks, (loaded_xl.colorizer.projection.network, "forward")):
        function = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *a, f=function, **k: calls.append(1) or f(*a, **k))
    parts = xl_graph.conditioned(loaded_xl)
    assert len(calls) == 3
    xl_graph.sample(*parts, steps=3)
    assert len(calls) == 3


def test_geometry_of_the_sketch(xl_graph):
    """The features say of pose what the sketch says, of colours what the reference says; 0 and no sketch are off."""
    plain = xl_graph.reference()
    drawing = tiny.drawing(90, 90)
    assert torch.equal(xl_graph.reference(sketch=drawing).tagger_tokens, plain.tagger_tokens)
    moved = xl_graph.reference(sketch=drawing, geometry_strength=1.0)
    assert torch.equal(moved.tokens, plain.tokens) and moved.edits == ("geometry tags of the sketch at 1",)
    network, names = xl_graph.tagger.network, xl_graph.tagger.tags.names
    weight = network.model.head.fc.weight
    with torch.no_grad():
        sketch = xl_graph.tagger.features(drawing.movedim(-1, 1) * 2 - 1).mean(dim=1)
    places = [names.index(name) for name in ("standing", "arms_up")]
    wanted, before, after = (
        (tokens.reshape(-1, 64).mean(dim=0) @ weight.T)[places]
        for tokens in (sketch, plain.tagger_tokens, moved.tagger_tokens)
    )
    assert (after - wanted).abs().max() < 0.5 * (before - wanted).abs().max()
    halfway = xl_graph.reference(sketch=drawing, geometry_strength=0.5).tagger_tokens
    assert torch.allclose(halfway, (plain.tagger_tokens + moved.tagger_tokens) / 2, atol=1e-4)
    with pytest.raises(ValueError, match="geometry_strength needs a tagger"):
        xl_graph.reference(sketch=drawing, geometry_strength=0.5, tagger=None)
    with pytest.raises(ValueError, match="2 sketches for 1 references"):
        xl_graph.reference(sketch=tiny.drawing(9, 9, 2), geometry_strength=0.5)


def test_large_encoders_on_small_cards(pack, monkeypatch):
    """bigG in float32 does not fit into 8 GB beside anything; ViT-H does."""
    import comfy.model_management as management

    precision = pack.module("model_patches.reference.encoder").precision
    big, huge = 632_000_000, 1_845_000_000
    assert precision(huge) == torch.float32  # the CPU
    monkeypatch.setattr(management, "text_encoder_device", lambda: torch.device("cuda"))
    monkeypatch.setattr(management, "should_use_fp16", lambda device: True)
    for gigabytes, expected in ((8, torch.float16), (24, torch.float32)):
        monkeypatch.setattr(management, "get_total_memory", lambda device, size=gigabytes: size * 2**30)
        assert precision(huge) == expected and precision(big) == torch.float32


# -- the wrong things --------------------------------------------------------------------------------------------------


def test_reference_of_another_family(pack, graph, xl_graph, loaded, loaded_xl):
    """The other encoder, and no tagger: each is named with its cure."""
    with pytest.raises(ValueError, match="tokens of width 48, the model tiny_xl.safetensors reads width 40"):
        tokens_of(graph, loaded_xl, graph.reference())
    with pytest.raises(ValueError, match="tokens of width 40, the model tiny.safetensors reads width 48"):
        tokens_of(xl_graph, loaded, xl_graph.reference())
    with pytest.raises(ValueError, match="also reads a tagger's features.*Connect a tagger to Encode Reference"):
        tokens_of(xl_graph, loaded_xl, xl_graph.reference(tagger=None))
    advice = pack.module("colorize.advice").encoder_advice
    assert "ViT-H/14" in advice(1024) and "ViT-bigG/14" in advice(1280) and "small" in advice(384)


def test_wrong_tagger(xl_graph, loaded_xl):
    reference = xl_graph.reference()
    wide = dataclasses.replace(reference, tagger_tokens=torch.zeros(1, 16, 72))
    with pytest.raises(ValueError, match="tagger tokens are 72 wide.*made for 64"):
        tokens_of(xl_graph, loaded_xl, wide)
    many = dataclasses.replace(reference, tagger_tokens=torch.zeros(1, 25, 64))
    with pytest.raises(ValueError, match="25 tagger tokens need as many CLIP tokens"):
        tokens_of(xl_graph, loaded_xl, many)


def test_onnx_taggers_have_no_features(pack, xl_graph):
    module = pack.module("model_patches.reference.tagger")
    onnx = module.LoadedTagger(object.__new__(module.OnnxNetwork), None, xl_graph.tagger.tags, "wd.onnx")
    with pytest.raises(ValueError, match="'wd.onnx' answers tags only.*model.safetensors"):
        xl_graph.reference(tagger=onnx)


@pytest.fixture
def loaded_regions(pack, folders):
    """As `loaded_xl`, from a file of the trainer's stage xl_lora: region weights for figure and background."""
    save_file(tiny_xl.checkpoint_regions(), folders.checkpoints / "tiny_xl_lora.safetensors", metadata=tiny_xl.METADATA)
    return _loaded(pack, "tiny_xl_lora.safetensors")


def test_region_weights_of_stage_xl_lora(pack, xl_graph, loaded_regions, figure_reference):
    """fig2fig through nodes, conditioning and sampler against one hand-made call of the pure network."""
    weights, prefix = tiny_xl.checkpoint_regions(), "model.diffusion_model."
    own = to_module_names({k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)})
    network = UNet(dataclasses.replace(tiny_xl.CONFIG, region_ranks=(4, 0.5))).eval()
    wanted = {to_module_names({k: k}).popitem()[0]: k for k in network.state_dict()}
    network.load_state_dict({name: own[key] for key, name in wanted.items()})
    family = loaded_regions.colorizer.family
    assert (family.name, family.has_regions, family.has_plugin) == ("xl", True, False)
    seen = []
    unet = loaded_regions.model.model.diffusion_model

    def note(module, given, named, out):
        seen.append((given, named, out))

    hook = unet.register_forward_hook(note, with_kwargs=True)
    mask = random(1, 64, 64).sigmoid()
    conditioned = xl_graph.conditioned(
        loaded_regions, figure_reference, sketch_strength=0.0, mode="fig2fig", figure_mask=mask, mask_threshold=0.5,
        figure_strength=0.8,
    )  # fmt: skip
    xl_graph.sample(*conditioned, steps=1, cfg=1.0)
    hook.remove()
    (given, named, out) = seen[0]
    context = pack.module("model_patches.conditioning.conditioning").context_of(
        loaded_regions.colorizer, figure_reference
    )
    options = SplitOptions(("fg", "bg"), (0.8, 1.0), threshold=0.5)
    split = Split([context.own, context.background], to_latent_size(mask[:, None], 8, 8), options)
    y = named["y"] if "y" in named else given[3]
    with torch.no_grad():
        expected = network(given[0], given[1], None, split=split, y=y)
    torch.testing.assert_close(out, expected, atol=1e-4, rtol=1e-4)
    for mode in ("masked vanilla", "bg2fig"):
        other = xl_graph.sample(
            *xl_graph.conditioned(loaded_regions, figure_reference, mode=mode, figure_mask=mask), steps=1
        )
        assert torch.isfinite(other).all() and not torch.allclose(other, out, atol=1e-3)


def test_fig2fig_of_xl_needs_a_background(xl_graph, loaded_regions):
    with pytest.raises(ValueError, match="needs to know the reference's background"):
        xl_graph.conditioned(loaded_regions, mode="fig2fig", figure_mask=half_mask())


def test_region_modes_of_v1_5(xl_graph, loaded_xl, loaded_plugin, figure_reference):
    for loaded in (loaded_xl, loaded_plugin):
        for mode in ("bg2fig", "fig2fig"):
            with pytest.raises(ValueError, match="v1.5 checkpoint.*masked vanilla.*Apply Background Plugin"):
                tokens_of(xl_graph, loaded, figure_reference, mode=mode, figure_mask=half_mask())


# -- modes -------------------------------------------------------------------------------------------------------------


def test_masked_vanilla(xl_graph, loaded_xl, figure_reference):
    """A full mask is the reference alone, an empty one its background alone, half a mask something else."""

    def run(reference=figure_reference, **apply):
        return xl_graph.sample(*xl_graph.conditioned(loaded_xl, reference, **apply))

    masked = {
        name: run(mode="masked vanilla", figure_mask=mask)
        for name, mask in (
            ("full", torch.ones(1, 64, 64)),
            ("empty", torch.zeros(1, 64, 64)),
            ("half", half_mask()),
        )
    }
    assert torch.allclose(masked["full"], run(), atol=1e-4)
    swapped = dataclasses.replace(
        figure_reference,
        tokens=torch.cat([figure_reference.background_class_token, figure_reference.background_tokens], dim=1),
        tagger_tokens=figure_reference.background_tagger_tokens,
    )
    assert torch.allclose(masked["empty"], run(swapped), atol=1e-4)
    assert not torch.allclose(masked["half"], masked["full"], atol=1e-2)
    soft = run(mode="masked vanilla", figure_mask=half_mask() * 0.5, mask_edges="soft")
    assert not torch.allclose(soft, masked["half"], atol=1e-2)


def test_released_soft_edges_overshoot(xl_graph, loaded_xl, loaded_v1_5, figure_reference):
    def options(loaded, **apply):
        apply = dict(mode="masked vanilla", figure_mask=half_mask()) | apply
        return tokens_of(xl_graph, loaded, figure_reference, **apply)[0][0][1]["colorize"].settings.split

    assert options(loaded_xl, mask_edges="soft", variant="released").overshoot
    assert not options(loaded_xl, mask_edges="soft").overshoot
    assert not options(loaded_xl, variant="released").overshoot


def test_cast(xl_graph, loaded_xl, figure_reference):
    """Several figures, each with image and tagger tokens of its own."""
    other = xl_graph.reference(seed=8)
    masks = half_mask(True), half_mask(False)
    cast = figure_reference
    for reference, mask in zip((other, figure_reference), masks, strict=True):
        (cast,) = xl_graph.pack.run("ColorizeAddRegion", reference=cast, region_reference=reference, mask=mask)
    assert [region.tagger_tokens is not None for region in cast.regions] == [True, True]
    out = xl_graph.sample(*xl_graph.conditioned(loaded_xl, cast, mode="masked vanilla"))
    (same,) = xl_graph.pack.run(
        "ColorizeAddRegion", reference=figure_reference, region_reference=other, mask=torch.ones(1, 64, 64)
    )
    alone = xl_graph.sample(*xl_graph.conditioned(loaded_xl, same, mode="masked vanilla"))
    assert torch.allclose(alone, xl_graph.sample(*xl_graph.conditioned(loaded_xl, other)), atol=1e-4)
    assert not torch.allclose(out, alone, atol=1e-2)
    with pytest.raises(ValueError, match="also reads a tagger's features"):
        (mixed,) = xl_graph.pack.run(
            "ColorizeAddRegion", reference=other, region_reference=xl_graph.reference(tagger=None), mask=masks[0]
        )
        xl_graph.conditioned(loaded_xl, mixed, mode="masked vanilla")


def test_positive_and_negative_run_in_one_call(xl_graph, loaded_xl, figure_reference):
    parts = xl_graph.conditioned(loaded_xl, figure_reference, mode="masked vanilla", figure_mask=half_mask())
    calls, model = recorded_calls(parts[0])
    xl_graph.sample(model, *parts[1:], steps=2)
    assert [len(call["c_crossattn"]) for call in calls] == [2, 2]


# -- what works as for v1.5 --------------------------------------------------------------------------------------------


def test_windows_strength_and_noise(xl_graph, loaded_xl):
    """Off is the negative, strength and noise change the picture, and off again is bit-exactly what it was."""

    def run(cfg=1.0, **apply):
        return xl_graph.sample(*xl_graph.conditioned(loaded_xl, **apply), cfg=cfg, steps=3)

    plain = run()
    assert torch.equal(run(noise_level=0.0, off_start=0.5, off_end=0.5), plain)
    assert not torch.allclose(run(end_percent=0.4), plain, atol=1e-3)
    assert not torch.allclose(run(noise_level=0.6), plain, atol=1e-3)
    assert torch.equal(run(noise_level=0.6), run(noise_level=0.6))
    levels = dict(high=0.0, low=0.0, bottom=0.0)
    (silent,) = xl_graph.pack.run("ColorizeReferenceStrength", reference=xl_graph.reference(), **levels)
    off = run(reference=silent)
    assert torch.allclose(run(off_start=0.0, off_end=1.0), off, atol=1e-4) and not torch.allclose(off, plain)


def test_levels_of_the_layers(xl_graph, loaded_xl):
    """The two resolutions are "high" and "low", the middle block "bottom"; "middle" is no layer (released groups)."""
    places = loaded_xl.model.model.diffusion_model.attention_places
    assert len(places) == 17

    def strengths(**levels):
        (reference,) = xl_graph.pack.run("ColorizeReferenceStrength", reference=xl_graph.reference(), **levels)
        return reference.levels.of(places)

    encoder, bottom, decoder = range(6), range(6, 8), range(8, 17)
    high = [*range(2), *range(14, 17)]
    for level, expected in (("high", high), ("low", [*range(2, 6), *range(8, 14)]), ("bottom", bottom), ("middle", [])):
        changed = [place for place, strength in enumerate(strengths(**{level: 0.5})) if strength == 0.5]
        assert changed == list(expected), level
    for part, expected in (("encoder", encoder), ("decoder", decoder)):
        assert [p for p, s in enumerate(strengths(**{part: 0.5})) if s == 0.5] == list(expected)
    layers = ", ".join(str(number / 10) for number in range(17))
    assert strengths(layers=layers) == tuple(number / 10 for number in range(17))
    with pytest.raises(ValueError, match="16 strengths are given, but this model has 17"):
        strengths(layers=", ".join(["1"] * 16))


def test_dual_guidance(pack, xl_graph, loaded_xl, figure_reference):
    """The mean of both guided pictures, with regions and the XL sketch encoder's blank sketch."""
    parts = xl_graph.conditioned(loaded_xl, figure_reference, mode="masked vanilla", figure_mask=half_mask())
    blanks = pack.module("model_patches.model.dual_guidance").without_sketch(parts[1], 2.0)[0]
    (guider,) = pack.run("ColorizeDualGuidance", *parts, 4.0, 2.0)
    expected = by_formula(*predictions(*parts, blanks), 4.0, 2.0)
    assert (denoised(guider) - expected).abs().max() < 1e-3 * expected.abs().max()
    (guider,) = pack.run("ColorizeDualGuidance", *parts, 4.0, 1.0)
    assert torch.equal(denoised(guider), denoised(single(*parts, 4.0)))


def test_injection_and_adain(xl_graph, loaded_xl):
    """Also with a sketch of the reference: its four maps."""
    model, positive, negative = xl_graph.conditioned(loaded_xl)
    plain = xl_graph.sample(model, positive, negative)
    latent = {"samples": 3 * random(1, 4, 8, 8)}
    enhance = xl_graph.pack.module("nodes.enhance")
    names = {i.id for i in enhance.ColorizeAttentionInjection.define_schema().inputs}
    sketch = {"control_net": loaded_xl.control_net, "sketch": xl_graph.sketch()[0]} if "sketch" in names else {}
    for node, more in (("ColorizeAttentionInjection", sketch), ("ColorizeAdaIN", {})):
        (patched,) = xl_graph.pack.run(node, model=model, reference_latent=latent, **more)
        assert (xl_graph.sample(patched, positive, negative) - plain).abs().max() > 1e-2


def test_batches(xl_graph, loaded_xl):
    """A batch gives what its rows give alone."""
    two = xl_graph.reference(batch=2)
    sketch = xl_graph.sketch(batch=2)[0]
    samples = random(2, 4, 8, 8)
    together = xl_graph.sample(
        *xl_graph.conditioned(loaded_xl, two, sketch), latent={"samples": samples, "batch_index": [0, 1]}
    )
    for row in range(2):
        alone = dataclasses.replace(
            two, tokens=two.tokens[row : row + 1], tagger_tokens=two.tagger_tokens[row : row + 1]
        )
        latent = {"samples": samples[row : row + 1], "batch_index": [row]}
        single = xl_graph.sample(*xl_graph.conditioned(loaded_xl, alone, sketch[row : row + 1]), latent=latent)
        assert (together[row] - single[0]).abs().max() < 1e-3
    with pytest.raises(ValueError, match="2 references for 1 pictures"):
        xl_graph.sample(*xl_graph.conditioned(loaded_xl, two))


def test_manipulated_references_stay_whole(xl_graph, loaded_xl, figure_reference, caplog):
    """An edit of the image tokens leaves the tagger's; the projection joins both."""
    edited = dataclasses.replace(figure_reference, tokens=figure_reference.tokens * 1.5)
    with caplog.at_level(logging.WARNING):
        one, _ = tokens_of(xl_graph, loaded_xl, edited)
    other, _ = tokens_of(xl_graph, loaded_xl, figure_reference)
    assert not torch.allclose(one[0][0], other[0][0])
