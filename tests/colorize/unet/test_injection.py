"""The formulas of attention injection and AdaIN against written-out ones (source: colorize/unet/injection.py)."""

from __future__ import annotations

import pytest
import torch

from colorize.unet import injection

OWN, STORED = 6, 9


def attend(q, k, v, mask=None):
    """Attention with one head."""
    scores = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5
    return (scores if mask is None else scores + mask).softmax(-1) @ v


def qkv(rows=3):
    generator = torch.Generator().manual_seed(0)
    sizes = (OWN, OWN + STORED, OWN + STORED)
    return [torch.randn(rows, size, 8, generator=generator, dtype=torch.float64) for size in sizes]


@pytest.mark.parametrize("fidelity", [0.25, 0.5, 0.9])
def test_even_weighs_the_stored_tokens(fidelity):
    q, k, v = qkv()
    weights = (q @ k.transpose(1, 2) / 8**0.5).exp()
    weights[..., OWN:] *= 1 - fidelity
    expected = weights @ v / weights.sum(-1, keepdim=True)
    torch.testing.assert_close(injection.even_attention(q, k, v, OWN, fidelity, attend), expected)


def test_even_goes_from_injected_to_plain():
    q, k, v = qkv()
    assert torch.equal(injection.even_attention(q, k, v, OWN, 0.0, attend), attend(q, k, v))
    plain = attend(q, k[:, :OWN], v[:, :OWN])
    torch.testing.assert_close(injection.even_attention(q, k, v, OWN, 1 - 1e-12, attend), plain, atol=1e-9, rtol=0)


def test_fidelity_half_is_half_a_copy():
    """Two copies of the stored tokens at 0.5 are one copy at 0."""
    q, k, v = qkv()
    twice = [torch.cat([values, values[:, OWN:]], dim=1) for values in (k, v)]
    torch.testing.assert_close(injection.even_attention(q, *twice, OWN, 0.5, attend), attend(q, k, v))


@pytest.mark.parametrize("fidelity", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("rows", [[], [1], [0, 2]])
def test_released_mixes_the_rows_without_reference(fidelity, rows):
    q, k, v = qkv()
    found = injection.released_attention(q, k, v, OWN, fidelity, rows, attend)
    injected, plain = attend(q, k, v), attend(q, k[:, :OWN], v[:, :OWN])
    for row in range(3):
        mixed = fidelity * plain[row] + (1 - fidelity) * injected[row]
        torch.testing.assert_close(found[row], mixed if row in rows else injected[row])


def test_match_statistics():
    generator = torch.Generator().manual_seed(0)
    features = 3 + 2 * torch.randn(2, 4, 5, 7, generator=generator)
    other = -1 + 0.5 * torch.randn(2, 4, 3, 9, generator=generator)
    mean, std = injection.statistics(other)
    torch.testing.assert_close(mean, other.mean((2, 3), keepdim=True))
    matched = injection.match_statistics(features, mean, std)
    torch.testing.assert_close(matched.mean((2, 3)), other.mean((2, 3)), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(matched.var((2, 3), correction=0), other.var((2, 3), correction=0), atol=1e-4, rtol=1e-3)
    half = injection.match_statistics(features, mean, std, 0.5)
    torch.testing.assert_close(half, (features + matched) / 2)
    assert torch.equal(injection.match_statistics(features, mean, std, 0.0), features)
    assert injection.match_statistics(features.bfloat16(), mean, std).dtype == torch.bfloat16


def test_flat_features_stay_finite():
    mean, std = injection.statistics(torch.zeros(1, 2, 4, 4))
    assert torch.isfinite(injection.match_statistics(torch.ones(1, 2, 4, 4), mean, std)).all()
