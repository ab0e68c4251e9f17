"""The sketch encoder against its literal transcription and the released names."""

from __future__ import annotations

import pytest
import torch

from colorize.sketch.encoder import SketchEncoder
from tests.golden.files import key_list
from tests.literal.sketch_encoder import sketch_encoder as literal_encoder
from tests.literal.weights import Weights

PREFIX = "control_encoder."


@torch.no_grad()
@pytest.mark.parametrize(("widths", "base"), (((32, 64, 64, 64), 32), ((48, 16, 80, 32), 64)))
def test_equals_the_literal_transcription(widths, base):
    sketch = torch.randn(2, 3, 64, 128).tanh()
    weights = Weights(seed=1)
    expected = literal_encoder(weights, sketch, widths, base)
    encoder = SketchEncoder.from_state_dict({f"{PREFIX}{k}": v for k, v in weights.tensors.items()}, PREFIX)
    maps = encoder(sketch)
    assert [m.shape[-2:] for m in maps] == [(8, 16), (4, 8), (2, 4), (1, 2), (1, 2)]
    for ours, literal in zip(maps, expected, strict=True):
        torch.testing.assert_close(ours, literal, atol=1e-5, rtol=1e-4)


def test_names_and_shapes_are_the_released_ones():
    released = {k.removeprefix(PREFIX): shape for k, shape in key_list("v1.json").items() if k.startswith(PREFIX)}
    assert {k: list(v.shape) for k, v in SketchEncoder(device="meta").state_dict().items()} == released
    weights = Weights(device="meta")
    literal_encoder(weights, torch.empty(1, 3, 64, 64, device="meta"))
    assert weights.shapes() == released


@torch.no_grad()
def test_zeroed_projections_change_nothing():
    encoder = SketchEncoder((32, 32, 32, 32), 32)
    encoder.zero_projections()
    assert all(m.abs().max() == 0 for m in encoder(torch.randn(1, 3, 64, 64)))


def test_a_file_without_encoder_says_so():
    with pytest.raises(ValueError, match="No sketch encoder found under 'control_encoder.'"):
        SketchEncoder.from_state_dict({"model.0.weight": torch.zeros(1)}, PREFIX)
