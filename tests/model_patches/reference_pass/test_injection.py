"""Attention injection and AdaIN inside ComfyUI: real loader, real samplers, tiny models."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from tests.model_patches.conditioning.test_regions import with_background
from tests.model_patches.model.test_guidance import rows_of, sample, with_area
from tests.tiny import half_mask


def latent(seed: int = 7, batch: int = 1, height: int = 8, width: int = 8) -> dict:
    """The LATENT of a reference."""
    generator = torch.Generator().manual_seed(seed)
    return {"samples": 3 * torch.randn(batch, 4, height, width, generator=generator)}


@pytest.fixture
def nodes(pack):
    """inject(model, ...) and adain(model, ...): the nodes, returning the MODEL."""
    module = pack.module("nodes.enhance")

    def inject(model, reference=None, **settings):
        return module.ColorizeAttentionInjection.execute(model, reference or latent(), **settings).args[0]

    def adain(model, reference=None, **settings):
        return module.ColorizeAdaIN.execute(model, reference or latent(), **settings).args[0]

    return SimpleNamespace(inject=inject, adain=adain, module=module)


@pytest.fixture
def conditioned(graph, loaded):
    return graph.conditioned(loaded)


def differs(a, b, least=1e-3):
    return (a - b).abs().max().item() > least


# -- off is off --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("node", "settings"),
    [
        ("inject", {"fidelity": 1.0}),
        ("inject", {"start_percent": 1.0}),
        ("inject", {"start_percent": 1.0, "variant": "released"}),
        ("inject", {"start_percent": 0.9, "end_percent": 0.95}),  # no step of this run lies there
        ("adain", {"strength": 0.0}),
        ("adain", {"start_percent": 1.0}),
    ],
)
def test_off_is_bit_exactly_off(graph, conditioned, nodes, node, settings):
    model, positive, negative = conditioned
    off = getattr(nodes, node)(model, **settings)
    assert off is not model
    expected = graph.sample(model, positive, negative, steps=3)
    assert torch.equal(graph.sample(off, positive, negative, steps=3), expected)


def test_steps_before_the_window_are_untouched(graph, conditioned, nodes):
    """Only the last of three steps lies in the window: three calls of the U-Net become four."""
    model, positive, negative = conditioned
    late = nodes.inject(model, start_percent=0.6)
    rows = rows_of(model)
    first = graph.sample(late, positive, negative, steps=3)
    assert rows == [2] * 4
    assert differs(first, graph.sample(model, positive, negative, steps=3), 1e-5)


# -- what it does ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("node", ["inject", "adain"])
def test_the_reference_and_the_seed_decide(graph, conditioned, nodes, node):
    model, positive, negative = conditioned
    patch = getattr(nodes, node)
    plain = graph.sample(model, positive, negative)
    found = graph.sample(patch(model), positive, negative)
    assert differs(found, plain) and torch.isfinite(found).all()
    assert torch.equal(graph.sample(patch(model), positive, negative), found)
    assert differs(graph.sample(patch(model, latent(8)), positive, negative), found)
    assert torch.equal(graph.sample(model, positive, negative), plain)  # the model it came from is as it was


def test_fidelity_is_monotone(graph, conditioned, nodes):
    """The further from 1, the further from the plain picture."""
    model, positive, negative = conditioned
    plain = graph.sample(model, positive, negative, steps=1)
    far = [
        (graph.sample(nodes.inject(model, fidelity=f), positive, negative, steps=1) - plain).norm().item()
        for f in (0.0, 0.5, 0.9, 0.999)
    ]
    assert far == sorted(far, reverse=True) and far[-1] < 0.05 * far[0]


def test_released_differs_on_the_negative_only(graph, conditioned, nodes):
    """At cfg 1 there are no rows without reference, so its fidelity has no say."""
    model, positive, negative = conditioned
    strong, weak = (nodes.inject(model, fidelity=f, variant="released") for f in (0.0, 1.0))
    assert torch.equal(
        graph.sample(strong, positive, negative, cfg=1.0), graph.sample(weak, positive, negative, cfg=1.0)
    )
    assert differs(graph.sample(strong, positive, negative), graph.sample(weak, positive, negative))
    even = nodes.inject(model, fidelity=0.0)
    assert torch.equal(graph.sample(even, positive, negative), graph.sample(strong, positive, negative))


def test_noise_comes_from_the_seed_of_the_run(pack, graph, conditioned, nodes):
    """Both runs of a step and all steps see the same noise; another seed sees another."""
    model, positive, negative = conditioned
    injected = nodes.inject(model)
    seen = []
    model.model.diffusion_model.register_forward_pre_hook(lambda module, given: seen.append(given[0].clone()))

    def references(seed, **kwargs):
        seen.clear()
        graph.sample(injected, positive, negative, seed=seed, **kwargs)
        return seen[::2]

    first, second = references(5), references(6)
    assert differs(first[0], second[0])
    assert all(torch.equal(x[0], x[1]) for x in first)  # the rows share it
    more = references(5, batch=3)[0]
    assert len(more) == 6 and torch.allclose(more[:1].expand_as(more), more)
    assert torch.allclose(more[0], first[0][0])


@pytest.mark.parametrize("variant", ["even", "released"])
def test_the_same_whatever_the_batching(graph, conditioned, nodes, monkeypatch, variant):
    """Conditions together in one call, or one after the other when memory is short."""
    model, positive, negative = conditioned
    both = nodes.adain(nodes.inject(model, variant=variant))
    rows = rows_of(model)
    together = graph.sample(both, positive, negative, batch=2)
    assert rows == [4] * 4
    monkeypatch.setattr(model.model, "memory_required", lambda *args, **kwargs: 2.0**62)
    apart = graph.sample(both, positive, negative, batch=2)
    assert rows[4:] == [2] * 8
    assert (together - apart).abs().max() < 1e-4


def test_batches_of_references(graph, loaded, nodes):
    """One latent per picture gives what each gives alone."""
    model, positive, negative = graph.conditioned(loaded)
    together = graph.sample(nodes.inject(model, latent(batch=2)), positive, negative, batch=2)
    first = graph.sample(nodes.inject(model, {"samples": latent(batch=2)["samples"][:1]}), positive, negative, batch=2)
    assert (together[0] - first[0]).abs().max() < 1e-4 and differs(together[1], first[1])
    with pytest.raises(ValueError, match=r"There are 2 reference latents for 3 pictures. Use one, or as many"):
        graph.sample(nodes.inject(model, latent(batch=2)), positive, negative, batch=3)


def test_a_sketch_of_the_reference(graph, loaded, conditioned, nodes):
    model, positive, negative = conditioned
    sketch = graph.sketch(seed=3)[0]
    given = {"reference_sketch": sketch, "control_net": loaded.control_net}
    plain = graph.sample(nodes.inject(model), positive, negative)
    assert torch.equal(graph.sample(nodes.inject(model, **given), positive, negative), plain)  # scale 0
    one = graph.sample(nodes.inject(model, sketch_scale=1.0, **given), positive, negative)
    assert differs(one, plain)
    assert differs(graph.sample(nodes.inject(model, sketch_scale=0.5, **given), positive, negative), one)


def test_the_maps_are_those_of_the_sketch_encoder(pack, graph, loaded):
    encode = pack.module("model_patches.reference_pass.reference_pass").encode_sketch
    sketch = graph.sketch(seed=3)[0]
    with torch.no_grad():
        expected = loaded.control_net.encoder(sketch.movedim(-1, 1) * 2 - 1)
        found = encode(loaded.control_net.with_level_strengths(high=0.5), sketch, (8, 8), 0.7)
    for i, (a, b) in enumerate(zip(found, expected, strict=True)):
        torch.testing.assert_close(a, b * (0.35 if i == 0 else 0.7))


# -- cost --------------------------------------------------------------------------------------------------------------


def test_two_nodes_share_the_run_of_one_reference(graph, conditioned, nodes):
    model, positive, negative = conditioned
    rows = rows_of(model)
    graph.sample(nodes.adain(nodes.inject(model)), positive, negative)
    assert rows == [2, 2] * 2
    rows.clear()
    graph.sample(nodes.adain(nodes.inject(model), latent(8)), positive, negative)
    assert rows == [2, 2, 2] * 2


def test_memory_is_declared(graph, conditioned, nodes, monkeypatch):
    import comfy.model_management

    asked = []
    load = comfy.model_management.load_models_gpu

    def recorded(models, memory_required=0, **kwargs):
        asked.append(memory_required)
        return load(models, memory_required=memory_required, **kwargs)

    model, positive, negative = conditioned
    base = []
    for wanted in (model, nodes.inject(model), nodes.inject(model, latent(height=16))):
        asked.clear()
        monkeypatch.setattr(comfy.model_management, "load_models_gpu", recorded)
        graph.sample(wanted, positive, negative, steps=1)
        monkeypatch.undo()
        base.append(asked[-1])
    control = positive[0][1]["control"].inference_memory_requirements(torch.float32)
    plain, same, larger = (value - control for value in base)
    assert same == pytest.approx(2 * plain) and larger == pytest.approx(3 * plain)


# -- what people combine it with ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(8, 8), (6, 11)])
def test_regions_and_dual_guidance(pack, graph, loaded_v1_5, nodes, size):
    """fig2fig with a reference of the picture's size and of another; the masks are stretched over it."""
    reference = with_background(graph.reference())
    model, positive, negative = graph.conditioned(loaded_v1_5, reference, mode="fig2fig", figure_mask=half_mask())
    injected = nodes.adain(
        nodes.inject(model, latent(height=size[0], width=size[1])), latent(height=size[0], width=size[1])
    )
    guider = pack.module("model_patches.model.dual_guidance").DualGuider(injected, positive, negative, 3.0, 1.5)
    rows = rows_of(model)
    found = sample(guider)
    assert torch.isfinite(found).all() and rows == [2, 2, 1, 1] * 2
    plain = pack.module("model_patches.model.dual_guidance").DualGuider(model, positive, negative, 3.0, 1.5)
    assert differs(found, sample(plain))


def test_loras(graph, conditioned, nodes):
    """A weight patch acts in both runs, and either order of the nodes gives the same."""
    model, positive, negative = conditioned
    name = "diffusion_model.output_blocks.11.1.transformer_blocks.0.attn1.to_k.weight"
    change = {name: (torch.ones_like(model.model.state_dict()[name]) * 0.05,)}
    before, after = model.clone(), nodes.inject(model)
    before.add_patches(change)
    after.add_patches(change)
    first = graph.sample(nodes.inject(before), positive, negative)
    assert torch.equal(first, graph.sample(after, positive, negative))
    assert differs(first, graph.sample(nodes.inject(model), positive, negative), 1e-5)


def test_areas(pack, graph, conditioned, nodes):
    model, positive, negative = conditioned
    areas = [pack.run("ConditioningCombine", c, with_area(pack, c))[0] for c in (positive, negative)]
    found = graph.sample(nodes.inject(model), *areas, size=128)
    assert torch.isfinite(found).all() and differs(found, graph.sample(model, *areas, size=128))


@pytest.mark.parametrize("sampler", ["heun", "dpmpp_2s_ancestral", "dpmpp_2m_sde"])
def test_samplers(graph, conditioned, nodes, sampler):
    model, positive, negative = conditioned
    injected = nodes.inject(model)
    first = graph.sample(injected, positive, negative, steps=3, sampler=sampler)
    assert torch.isfinite(first).all()
    assert torch.equal(graph.sample(injected, positive, negative, steps=3, sampler=sampler), first)


def test_patches_of_other_packs(graph, conditioned, nodes):
    """They run in both runs, get nothing that is not theirs, and an attention override stays in the chain."""
    model, positive, negative = conditioned
    other = model.clone()
    lengths, overridden = [], []

    def attn1(n, context, value, extra):
        lengths.append(context.shape[1] == n.shape[1])
        return n, context, value

    def override(attention, *args, **kwargs):
        overridden.append(args[1].shape[1])
        return attention(*args, **kwargs)

    other.set_model_attn1_patch(attn1)
    other.model_options["transformer_options"]["optimized_attention_override"] = override
    patches = {name: list(found) for name, found in other.model_options["transformer_options"]["patches"].items()}
    plain = graph.sample(other, positive, negative, steps=1)
    calls = len(lengths), len(overridden)
    injected = nodes.inject(other)
    found = graph.sample(injected, positive, negative, steps=1)
    assert all(lengths) and len(lengths) == 3 * calls[0]
    assert len(overridden) == 3 * calls[1] - 2  # the reference's run ends at the last self-attention
    assert max(overridden) == 2 * 64  # own and stored tokens of the 8x8 map
    assert torch.equal(found, graph.sample(nodes.inject(model), positive, negative, steps=1))
    assert torch.equal(graph.sample(other, positive, negative, steps=1), plain)
    assert injected.model_options["transformer_options"]["patches"] == patches


def test_a_replaced_layer(graph, conditioned, nodes):
    """Another pack's whole-layer replacement keeps its layer; the attention after it is not taken for it."""
    model, positive, negative = conditioned
    seen = []

    def replacement(q, k, v, extra):
        seen.append((q.shape[1], k.shape[1]))
        return q

    other = nodes.inject(model)
    other.set_model_attn1_replace(replacement, "input", 1)
    found = graph.sample(other, positive, negative, steps=1)
    assert seen == [(64, 64)] * 2 and torch.isfinite(found).all()


def test_compiled(graph, conditioned, nodes, fresh_compiler):
    """A compiled network cannot be left half-way, and gives the same picture."""
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    model, positive, negative = conditioned
    both = nodes.adain(nodes.inject(model))
    plain = graph.sample(both, positive, negative, steps=1)
    set_torch_compile_wrapper(both, backend="eager")
    assert torch.allclose(graph.sample(both, positive, negative, steps=1), plain, atol=1e-4)


def test_a_run_under_a_function_wrapper(graph, conditioned, nodes):
    """model_function_wrapper, the slot that other packs take, stays free and works."""
    model, positive, negative = conditioned
    injected = nodes.inject(model)
    plain = graph.sample(injected, positive, negative, steps=1)
    wrapped = injected.clone()
    wrapped.set_model_unet_function_wrapper(lambda apply, call: apply(call["input"], call["timestep"], **call["c"]))
    assert torch.equal(graph.sample(wrapped, positive, negative, steps=1), plain)


def test_moving(pack, conditioned, nodes):
    """A device moves the tensors and keeps what is shared; a dtype changes nothing."""
    both = nodes.adain(nodes.inject(conditioned[0]))
    key = pack.module("model_patches.reference_pass.reference_pass").KEY
    (wrapper,) = both.get_wrappers("apply_model", key)
    assert wrapper.to(torch.float16) is wrapper and len(wrapper.sources) == 1
    moved = wrapper.to(torch.device("meta"))
    assert len(moved.sources) == 1 and moved.sources[0].latents.is_meta and not wrapper.sources[0].latents.is_meta


# -- nodes -------------------------------------------------------------------------------------------------------------


def test_schemas(nodes):
    for name in ("ColorizeAttentionInjection", "ColorizeAdaIN"):
        schema = getattr(nodes.module, name).define_schema()
        assert schema.node_id == name and schema.description and schema.search_aliases
        assert all(socket.tooltip for socket in (*schema.inputs, *schema.outputs))


def test_bad_input(graph, loaded, conditioned, nodes):
    model = conditioned[0]
    with pytest.raises(ValueError, match=r"passed through Attention Injection already.*remove one"):
        nodes.inject(nodes.inject(model))
    with pytest.raises(ValueError, match=r"shape \(1, 16, 8, 8\).*VAE Encode"):
        nodes.inject(model, {"samples": torch.zeros(1, 16, 8, 8)})
    with pytest.raises(ValueError, match=r"not numbers \(NaN\)"):
        nodes.adain(model, {"samples": torch.full((1, 4, 8, 8), float("nan"))})
    with pytest.raises(ValueError, match=r"The model is SimpleNamespace, not a ColorizeDiffusion model"):
        nodes.inject(SimpleNamespace(model=SimpleNamespace()))
    for settings, message in (
        ({"fidelity": 1.5}, r"fidelity is 1.5; it lies between 0 and 1"),
        ({"fidelity": float("nan")}, r"fidelity is nan"),
        ({"variant": "paper"}, r"variant is 'paper'; choose one of even, released"),
        ({"start_percent": 0.8, "end_percent": 0.2}, r"on at 0.8 of the run and off at 0.2"),
        ({"sketch_scale": 3.0}, r"sketch_scale is 3.0; choose a number between 0 and 2"),
        ({"sketch_scale": 1.0}, r"reference_sketch is not connected"),
        ({"sketch_scale": 1.0, "reference_sketch": graph.sketch()[0]}, r"control_net is not connected"),
    ):
        with pytest.raises(ValueError, match=message):
            nodes.inject(model, **settings)
    given = {"sketch_scale": 1.0, "control_net": loaded.control_net}
    with pytest.raises(ValueError, match=r"There are 3 reference sketches for 1 reference latents"):
        nodes.inject(model, reference_sketch=graph.sketch(batch=3)[0], **given)
    with pytest.raises(ValueError, match=r"The control_net is object, not the sketch encoder"):
        nodes.inject(model, reference_sketch=graph.sketch()[0], sketch_scale=1.0, control_net=object())
    with pytest.raises(ValueError, match=r"strength is -0.5; it lies between 0 and 1"):
        nodes.adain(model, strength=-0.5)


def test_an_empty_latent_is_told(conditioned, nodes, caplog):
    nodes.inject(conditioned[0], {"samples": torch.zeros(1, 4, 8, 8)})
    assert "reference_latent is empty" in caplog.text
