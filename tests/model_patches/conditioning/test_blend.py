"""Blend References in a masked mode, where Conditioning Average reaches the figure's tokens only."""

from __future__ import annotations

import dataclasses

import pytest
import torch


@pytest.fixture
def fig2fig(graph, loaded_v1_5):
    """fig2fig(reference) -> (model, positive, negative) of the tiny v1.5 model, figure on the left."""
    mask = torch.zeros(1, 64, 64)
    mask[:, :, :32] = 1
    return lambda reference: graph.conditioned(loaded_v1_5, reference=reference, mode="fig2fig", figure_mask=mask)


def two(graph) -> list:
    references = []
    for seed in (1, 2):
        reference = graph.reference(seed=seed)
        tokens = torch.randn(reference.local_tokens.shape, generator=torch.Generator().manual_seed(seed))
        references.append(dataclasses.replace(reference, background_tokens=tokens))
    return references


def test_figure_and_background_are_mixed(pack, graph, fig2fig):
    first, second = two(graph)

    def sampled(share):
        (mixed,) = pack.run("ColorizeBlendReferences", reference=first, other=second, share=share)
        return fig2fig(mixed)[1][0][0], graph.sample(*fig2fig(mixed))

    plain = [graph.sample(*fig2fig(reference)) for reference in (first, second)]
    (ours, none), (half, mixture), (theirs, all_of_it) = (sampled(share) for share in (0.0, 0.5, 1.0))
    assert torch.equal(none, plain[0]) and (all_of_it - plain[1]).abs().max() < 1e-5
    torch.testing.assert_close(half, (ours + theirs) / 2)
    assert all((mixture - picture).abs().max() > 1e-3 for picture in plain)
