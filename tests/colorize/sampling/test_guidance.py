"""Dual guidance as single guidance, and joining the rows that guidance needs (source: sampling/guidance.py)."""

from __future__ import annotations

import pytest
import torch

from colorize.sampling import guidance


def predictions():
    return torch.randn(3, 2, 4, 5, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("scales", [(4.0, 1.3), (1.3, 4.0), (15.0, 5.0), (1.01, 1.01), (7.0, 1.0001)])
def test_dual_as_single(scales):
    """The form that samplers see equals the mean of the two guided predictions."""
    cond, no_reference, no_sketch = predictions()
    uncond, scale = guidance.dual_as_single(no_reference, no_sketch, *scales)
    expected = guidance.dual_guidance(cond, no_reference, no_sketch, *scales)
    torch.testing.assert_close(guidance.single_guidance(cond, uncond, scale), expected, atol=1e-5, rtol=1e-5)
    assert scale == pytest.approx(sum(scales) / 2)


def test_dual_as_single_lies_between_its_negatives():
    """Equal scales weigh the negatives alike; a scale next to 1 hardly counts."""
    _, no_reference, no_sketch = predictions()
    even, _ = guidance.dual_as_single(no_reference, no_sketch, 3.0, 3.0)
    torch.testing.assert_close(even, (no_reference + no_sketch) / 2)
    one_sided, _ = guidance.dual_as_single(no_reference, no_sketch, 3.0, 1.000001)
    torch.testing.assert_close(one_sided, no_reference, atol=1e-5, rtol=1e-5)


def test_join_rows():
    one = {"context": torch.zeros(2, 3, 4), "control": [torch.ones(2, 1), torch.ones(2, 2)], "scale": 0.5, "mask": None}
    two = {
        "context": torch.ones(1, 3, 4),
        "control": [torch.zeros(1, 1), torch.zeros(1, 2)],
        "scale": 0.5,
        "mask": None,
    }
    rows = guidance.join_rows([one, two])
    assert rows["context"].shape == (3, 3, 4) and torch.equal(rows["context"][:, 0, 0], torch.tensor([0.0, 0.0, 1.0]))
    assert [part.tolist() for part in rows["control"]] == [[[1], [1], [0]], [[1, 1], [1, 1], [0, 0]]]
    assert rows["scale"] == 0.5 and rows["mask"] is None
    assert isinstance(guidance.join_rows([(one["context"],), (two["context"],)]), tuple)
    with pytest.raises(ValueError):  # not the same number of control maps
        guidance.join_rows([[torch.ones(1)], []])
