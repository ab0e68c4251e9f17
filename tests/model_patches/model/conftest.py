"""A masked run, which is where patches of others most easily go wrong."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from tests.tiny import half_mask


def with_background(reference, seed: int = 9):
    tokens = torch.randn(reference.local_tokens.shape, generator=torch.Generator().manual_seed(seed))
    return dataclasses.replace(reference, background_tokens=tokens)


@pytest.fixture
def fig2fig(graph, loaded_v1_5):
    """fig2fig(**settings) -> (model, positive, negative) of the tiny v1.5 model, figure on the left."""

    def make(**settings):
        given = dict(reference=with_background(graph.reference()), mode="fig2fig", figure_mask=half_mask())
        return graph.conditioned(loaded_v1_5, **given | settings)

    return make
