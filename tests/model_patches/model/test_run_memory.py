"""What the steps of a run share, against the same run in which every layer computes everything anew."""

from __future__ import annotations

import dataclasses

import pytest
import torch


@pytest.fixture
def made(pack, monkeypatch):
    """A list that gets the rows of every call whose keys and values are made."""
    module, found = pack.module("model_patches.run_memory"), []
    keep = module.keep

    def spy(layer, tokens, *rest):
        found.append((layer.place, len(tokens[0])))
        return keep(layer, tokens, *rest)

    monkeypatch.setattr(module, "keep", spy)
    return found


def close(a, b):
    """Other batches round otherwise: 1e-4 of the largest value, as the golden cases compare whole loops."""
    assert (a - b).abs().max() < 1e-4 * b.abs().max()


@pytest.mark.parametrize("cfg", [1.0, 3.0])
@pytest.mark.parametrize("settings", [{}, {"strength": 0.6}, {"noise_level": 0.5}, {"start_percent": 0.4}], ids=str)
def test_vanilla(graph, loaded, plainly, settings, cfg):
    conditioned = graph.conditioned(loaded, **settings)
    close(graph.sample(*conditioned, cfg=cfg, steps=3), plainly(graph, *conditioned, cfg=cfg, steps=3))


@pytest.mark.parametrize("cfg", [1.0, 3.0])
@pytest.mark.parametrize(
    "settings", [{}, {"merge": 0.3}, {"mask_edges": "soft"}, {"noise_level": 0.5}, {"end_percent": 0.6}], ids=str
)
def test_fig2fig(graph, fig2fig, plainly, settings, cfg):
    conditioned = fig2fig(**settings)
    close(graph.sample(*conditioned, cfg=cfg, steps=3), plainly(graph, *conditioned, cfg=cfg, steps=3))


def test_keys_and_values_are_made_once_for_the_rows_that_show_something(graph, fig2fig, loaded, made):
    graph.sample(*fig2fig(), steps=4)
    layers = len(made)
    assert made == [(place, 1) for place in range(layers)] and layers > 4
    graph.sample(*graph.conditioned(loaded), steps=3)  # the next run makes its own
    assert len(made) == 2 * layers
    graph.sample(*graph.conditioned(loaded), steps=2, batch=2)
    assert made[2 * layers :] == [(place, 2) for place in range(layers)]


def test_a_row_without_reference_asks_nothing(pack, graph, loaded, monkeypatch):
    attention, asked = pack.module("model_patches.model.attention"), []
    plain = attention.optimized_attention

    def spy(q, *rest, **named):
        asked.append(len(q))
        return plain(q, *rest, **named)

    monkeypatch.setattr(attention, "optimized_attention", spy)
    model, positive, negative = graph.conditioned(loaded)
    graph.sample(model, positive, negative, steps=1)
    assert asked and set(asked) == {1}  # of two rows
    asked.clear()
    graph.sample(model, negative, negative, steps=1, cfg=1.0)
    assert asked == []


def test_rows_of_a_batch_keep_their_order(graph, loaded, plainly):
    reference = graph.reference(batch=3)
    tokens = reference.tokens.clone()
    tokens[1] = 0  # a row without reference between two with
    conditioned = graph.conditioned(loaded, dataclasses.replace(reference, tokens=tokens), graph.sketch(3)[0])
    close(graph.sample(*conditioned, batch=3), plainly(graph, *conditioned, batch=3))


def test_weights_of_the_next_run_count(pack, graph, loaded, fig2fig):
    """The same conditioning, another LoRA: what was kept of the first run's weights is gone."""
    model, positive, negative = fig2fig()
    before = graph.sample(model, positive, negative)
    name = next(key for key in model.model.state_dict() if key.endswith("attn2.to_k.weight"))
    patched = model.clone()
    weight = model.model.state_dict()[name]
    patched.add_patches({name: (torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)),)}, 1.0)
    assert not torch.allclose(graph.sample(patched, positive, negative), before)
    assert torch.equal(graph.sample(model, positive, negative), before)


def test_hooks_and_patches_of_others_share_nothing(pack, graph, loaded):
    module = pack.module("model_patches.run_memory")
    model = graph.conditioned(loaded)[0]
    network = model.model.diffusion_model
    hooked = type("Patcher", (), {"hook_patches": {"a": {}}})()
    changes = {"patches": {"attn2_patch": [print]}}, {"patches_replace": {"attn2": {("middle", 0): print}}}
    assert module.may_share(module.RunMemory(), model, network, {})
    for patcher, options in ((hooked, {}), (model, changes[0]), (model, changes[1])):
        assert not module.may_share(module.RunMemory(), patcher, network, options)


def test_compiled_networks_share_nothing(pack, loaded):
    """Their traces would keep one run's rows for another; the fixture `compiled` compares their pictures."""
    module, model = pack.module("model_patches.run_memory"), loaded.model
    network = model.model.diffusion_model
    assert not module.may_share(module.RunMemory(), model, torch.compile(network, backend="eager"), {})
    block = torch.nn.ModuleList([torch.nn.Linear(1, 1)])
    assert module.may_share(module.RunMemory(), model, block, {})
    block[0].compile(backend="eager")
    assert not module.may_share(module.RunMemory(), model, block, {})


def test_too_much_is_not_kept(pack, graph, fig2fig, plainly, monkeypatch, made):
    monkeypatch.setattr(pack.module("model_patches.run_memory"), "BYTES", 100)
    conditioned = fig2fig()
    close(graph.sample(*conditioned), plainly(graph, *conditioned))
    assert made == []


def test_tokens_of_another_call_are_told_apart(pack, loaded):
    memory = pack.module("model_patches.run_memory").RunMemory()
    network, tokens = loaded.model.model.diffusion_model, torch.randn(3, 2, 4)
    first = memory.shown(network, [tokens], (None,))
    assert first.rows is None and memory.shown(network, [tokens.clone()], (None,)) is first
    tokens = tokens.clone()
    tokens[1] = 0
    assert memory.shown(network, [tokens], (None,)).rows == (0, 2)
    assert memory.shown(network, [tokens], ("fg",)) is not memory.shown(network, [tokens], (None,))
    for number in range(5):
        memory.shown(network, [tokens + number], (None,))


def test_rows_are_picked_and_put_back(pack):
    module, values = pack.module("model_patches.run_memory"), torch.randn(4, 2)
    for rows in (None, (1, 2), (0, 3)):
        back = module.put(module.pick(values, rows), rows, 4)
        keep = torch.zeros(4, 1)
        keep[list(rows or range(4))] = 1
        assert torch.equal(back, values * keep)
