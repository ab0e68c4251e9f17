"""torch.compile as ComfyUI's node does it: what it must not guard changes all the same between two runs."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from tests.tiny import half_mask


@pytest.fixture
def both(graph, compiled, loaded_v1_5):
    """both(**settings of Apply Reference) -> the latents without and with compiling, by one compiled model."""
    plain, fast = loaded_v1_5.model, compiled(loaded_v1_5.model)

    def run(steps: int = 1, **settings):
        pictures = []
        for model in (plain, fast):
            given = graph.conditioned(SimpleNamespace(**vars(loaded_v1_5) | {"model": model}), **settings)
            pictures.append(graph.sample(*given, steps=steps))
        return pictures

    return run


def test_another_strength_mode_and_reference_are_traced_anew(graph, both):
    """ComfyUI's node leaves transformer_options out of the guards, and there they ride: the first run's answer came."""
    reference = graph.reference()
    masked = dataclasses.replace(reference, background_tokens=torch.randn(reference.local_tokens.shape))
    runs = (
        dict(),
        dict(strength=0.5),
        dict(reference=masked, mode="fig2fig", figure_mask=half_mask()),
        dict(),
    )
    for settings in runs:
        plain, fast = both(**settings)
        torch.testing.assert_close(fast, plain, atol=1e-4, rtol=1e-4)


def test_a_patch_that_is_put_in_or_taken_out_is_traced_anew(pack, graph, loaded, compiled):
    """A network traced with Attention Injection failed without it (KeyError: 'patches'), or answered as before."""
    given = graph.conditioned(loaded)
    latent = {"samples": torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))}

    def injected(model):
        return pack.run("ColorizeAttentionInjection", model=model, reference_latent=latent)[0]

    fast = compiled(given[0])
    for plain, model in ((given[0], fast), (injected(given[0]), injected(fast)), (given[0], fast)):
        expected = graph.sample(plain, *given[1:], steps=1)
        torch.testing.assert_close(graph.sample(model, *given[1:], steps=1), expected, atol=1e-4, rtol=1e-4)


def test_an_outline_goes_by_what_a_trace_fixes(pack):
    module, guide = pack.module("model_patches.model.compiled"), pack.module("model_patches.payload").Guide

    def patch(n, context, value, extra):
        return n, context, value

    def word(strengths=None, off=False, patches=(patch,), values=0.0):
        options = {"patches": {"attn2_patch": list(patches)}, "uuids": [object()], "sample_sigmas": torch.rand(3)}
        return module.outline(guide(strengths, None, off, banks=(torch.full((1, 2, 3), values),)).into(options))

    assert word() == word(values=1.0)
    different = [word(), word((0.5,)), word((0.25,)), word(off=True), word(patches=()), word(patches=(lambda: 0,))]
    assert len(set(different)) == len(different)
    assert word(patches=(lambda: 0,)) != word(patches=(lambda: 0,))
