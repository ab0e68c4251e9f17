"""Editing tokens with words: the algorithms against loops over tokens, and what artists rely on."""

from __future__ import annotations

import pytest
import torch

from colorize.reference import manipulation as m

WIDTH = 24
T = m.THRESHOLDS


def unit(seed, width=WIDTH):
    vector = torch.randn(width, generator=torch.Generator().manual_seed(seed))
    return vector / vector.norm()


def reference(batch=2, local=16, seed=0):
    return torch.randn(batch, 1 + local, WIDTH, generator=torch.Generator().manual_seed(seed)) * 3


E, A, C = unit(1), unit(2), unit(3)


# -- against loops -----------------------------------------------------------------------------------------------------


def literal_weight(value, d, t, r, variant):
    """Eq 10 for one token."""
    t0, t1, t2, t3 = t
    if value <= t0:
        return -r * d
    if value <= t1:
        slope = r if variant == "paper" else 1
        return -slope * d + slope * d * (value - t0) / (t1 - t0)
    if value <= t2:
        return 0.5 * d * (value - t1) / (t2 - t1)
    if value <= t3:
        return 0.5 * d + 0.5 * d * (value - t2) / (t3 - t2)
    return d


def literal_local(tokens, e, a, c, s, enhance, t, r, variant):
    """Algorithm 2, one token after the other."""
    out = tokens.double().clone()
    for row in out:
        cls = row[0].clone()
        products = [float(token @ c.double()) for token in row[1:]]
        low, high = min(products), max(products)
        if a is None:
            d = s if variant == "paper" else s - float(cls @ e.double())
        else:
            d = s - float(cls @ (a if enhance else e).double())
        for token, product in zip(row[1:], products, strict=True):
            w = literal_weight((product - low) / (high - low), d, t, r, variant)
            if a is None:
                token += w * e
            else:
                token += (w + (float(token @ a.double()) if enhance else 0)) * (e - a)
    return out


@pytest.mark.parametrize("variant", m.VARIANTS)
@pytest.mark.parametrize("enhance", [False, True])
@pytest.mark.parametrize("anchor", [None, A])
def test_local_equals_the_loop(anchor, enhance, variant):
    tokens, thresholds = reference(), (0.3, 0.45, 0.7, 0.85)
    ours = m.manipulate_local(tokens, E, anchor, C, 6.0, enhance, thresholds, 3.0, variant)
    expected = literal_local(tokens, E, anchor, C, 6.0, enhance, thresholds, 3.0, variant)
    torch.testing.assert_close(ours.double(), expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(ours[:, 0], tokens[:, 0])  # the class token stays


@pytest.mark.parametrize("variant", m.VARIANTS)
def test_global_equals_the_formulas_token_by_token(variant):
    tokens, s = reference(), 5.0
    for token, plain, more, led, cleared in zip(
        tokens.flatten(0, 1),
        m.manipulate_global(tokens, E, None, s, False, variant).flatten(0, 1),
        m.manipulate_global(tokens, E, None, s, True, variant).flatten(0, 1),
        m.manipulate_global(tokens, E, A, s, False, variant).flatten(0, 1),
        m.manipulate_global(tokens, E, A, s, True, variant).flatten(0, 1),
        strict=True,
    ):
        torch.testing.assert_close(plain, token + (s - token @ E) * E)
        torch.testing.assert_close(more, token + s * E)
        torch.testing.assert_close(led, token + s * (E - A))
        rest = token - (token @ A) * A
        torch.testing.assert_close(cleared, rest + ((s - rest @ E) if variant == "paper" else s) * E)
    assert (m.manipulate_global(tokens, E, None, s) @ E - s).abs().max() < 1e-5  # the projection is the scale


# -- weights -----------------------------------------------------------------------------------------------------------


def test_weights_of_the_paper_are_continuous_and_those_released_jump_once():
    """DESIGN 8.4: the released second interval lacks the factor r."""
    d = 4.0
    for variant, jump in (("paper", 0.0), ("released", d)):
        for place, t in enumerate(T):
            below, above = m.position_weights(torch.tensor([[[t - 1e-6], [t + 1e-6]]]), d, T, 2.0, variant).flatten()
            assert abs(float(above - below)) == pytest.approx(jump if place == 0 else 0.0, abs=1e-3)
    ends = m.position_weights(torch.tensor([[[0.0], [T[1]], [T[2]], [1.0]]]), d, T, 2.0)
    torch.testing.assert_close(ends.flatten(), torch.tensor([-2 * d, 0, d / 2, d]), atol=1e-5, rtol=0)


def test_bands_are_the_intervals_of_the_weights():
    values = torch.tensor([0.0, 0.5, 0.51, 0.55, 0.56, 0.65, 0.66, 0.95, 0.96, 1.0])
    assert m.bands(values).tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


@pytest.mark.parametrize("thresholds", [(0, 0, 0, 0), (1, 1, 1, 1), (0.5, 0.5, 0.5, 0.5), (0, 0, 1, 1)])
def test_thresholds_may_coincide(thresholds):
    values = torch.linspace(0, 1, 11).view(1, -1, 1)
    weights = m.position_weights(values, 3.0, thresholds)
    assert torch.isfinite(weights).all()
    expected = [literal_weight(float(v), 3.0, thresholds, 2.0, "paper") for v in values.flatten()]
    torch.testing.assert_close(weights.flatten(), torch.tensor(expected), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "thresholds", [(0.5, 0.4, 0.6, 0.9), (-0.1, 0.5, 0.6, 0.9), (0.5, 0.6, 0.7, 1.1), (0.5, 0.6, 0.7), (0.5,) * 5]
)
def test_thresholds_out_of_order(thresholds):
    with pytest.raises(ValueError, match=r"thresholds are .*four numbers between 0 and 1.*0\.5, 0\.55, 0\.65, 0\.95"):
        m.manipulate_local(reference(), E, None, C, thresholds=thresholds)
    with pytest.raises(ValueError, match="thresholds are nan"):
        m.check_thresholds((float("nan"), 0.5, 0.6, 0.7))


def test_unknown_variant():
    for edit in (m.manipulate_global, m.manipulate_local):
        with pytest.raises(ValueError, match="variant 'papper' is unknown; choose one of paper, released"):
            edit(reference(), E, variant="papper")


def test_correlation_is_of_each_reference():
    tokens = reference(3)[:, 1:]
    tokens[1] *= 100
    found = m.correlation(tokens, C)
    assert found.amin(1).eq(0).all() and found.amax(1).eq(1).all()
    torch.testing.assert_close(found[:1], m.correlation(tokens[:1], C))


def test_equal_correlations_are_no_division_by_zero():
    """B21 of the released code: all-zero tokens gave NaN."""
    tokens = torch.zeros(1, 5, WIDTH)
    assert m.correlation(tokens, C).eq(1).all()
    edited = m.manipulate_local(tokens, E, None, C, 4.0)
    torch.testing.assert_close(edited[:, 1:], (4.0 * E).expand(1, 4, -1))


def test_everything_is_all_places_alike():
    tokens = reference()
    edited = m.manipulate_local(tokens, E, None, None, 4.0)
    torch.testing.assert_close(edited[:, 1:], tokens[:, 1:] + 4.0 * E)


def test_anchor_only_differs_by_what_the_paper_says():
    """DESIGN 8.4: without an anchor the paper goes the whole scale, the released code what is missing of it."""
    tokens = reference()
    paper, released = (m.manipulate_local(tokens, E, None, None, 6.0, variant=v)[:, 1:] @ E for v in m.VARIANTS)
    missing = (tokens[:, :1] @ E).expand_as(paper)
    torch.testing.assert_close(paper - released, missing, atol=1e-5, rtol=1e-5)


# -- progressive and in sequence ---------------------------------------------------------------------------------------

SWEEP = torch.linspace(0, 8, 17).tolist()


@pytest.mark.parametrize("variant", m.VARIANTS)
@pytest.mark.parametrize("enhance", [False, True])
@pytest.mark.parametrize("anchor", [None, A])
def test_global_sweep_is_monotone(anchor, enhance, variant):
    tokens = reference(4)
    steps = torch.stack([m.manipulate_global(tokens, E, anchor, s, enhance, variant) @ E for s in SWEEP])
    assert (steps.diff(dim=0) > 0).all()


@pytest.mark.parametrize("variant", m.VARIANTS)
@pytest.mark.parametrize("enhance", [False, True])
@pytest.mark.parametrize("anchor", [None, A])
def test_local_sweep_is_monotone(anchor, enhance, variant):
    """Places of the control prompt approach the target with every step, the others leave it, the rest stays."""
    tokens = reference(4, local=64)
    steps = torch.stack([m.manipulate_local(tokens, E, anchor, C, s, enhance, variant=variant) @ E for s in SWEEP])
    steps, band = steps[..., 1:].diff(dim=0), m.bands(m.correlation(tokens[:, 1:], C))[..., 0]
    assert (steps[:, band >= 3] > 0).all() and (steps[:, band == 0] < 0).all()
    assert (steps[:, band == 2] >= 0).all() and (steps[:, band == 1] <= 0).all()
    assert all((band == value).any() for value in (0, 2, 3, 4))


def test_order_of_two_global_edits():
    """Without enhance the later edit is met exactly and the earlier one drifts by its overlap with the later one."""
    tokens, other, overlap = reference(), unit(5), float(E @ unit(5))
    first = m.manipulate_global(m.manipulate_global(tokens, E, None, 6.0), other, None, 4.0)
    second = m.manipulate_global(m.manipulate_global(tokens, other, None, 4.0), E, None, 6.0)
    torch.testing.assert_close(first @ other, torch.full_like(first[..., 0], 4.0))
    torch.testing.assert_close(second @ E, torch.full_like(second[..., 0], 6.0))
    # a = 6 - v.e, b = 4 - v.o: first = v + a e + (b - a overlap) o, second = v + b o + (a - b overlap) e
    a, b = 6.0 - tokens @ E, 4.0 - tokens @ other
    difference = overlap * (b[..., None] * E - a[..., None] * other)
    torch.testing.assert_close(first - second, difference, atol=1e-5, rtol=1e-5)
    assert difference.abs().max() > 0.01


def test_edits_that_only_add_may_be_swapped():
    tokens, other = reference(), unit(5)
    one = m.manipulate_global(m.manipulate_global(tokens, E, A, 6.0), other, None, 4.0, enhance=True)
    two = m.manipulate_global(m.manipulate_global(tokens, other, None, 4.0, enhance=True), E, A, 6.0)
    torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-5)


def test_order_of_two_local_edits():
    """The distance of the second is not changed by the first, which leaves the class token; its places are."""
    tokens, other, place = reference(local=64), unit(5), unit(6)
    # The same place twice in a direction that correlates with it: the second edit looks at the moved tokens.
    one = m.manipulate_local(m.manipulate_local(tokens, C, None, place, 6.0), other, None, C, 4.0)
    two = m.manipulate_local(m.manipulate_local(tokens, other, None, C, 4.0), C, None, place, 6.0)
    assert (one - two).abs().max() > 0.1
    middle = m.manipulate_local(tokens, C, None, place, 6.0)
    expected = literal_local(middle, other, None, C, 4.0, False, T, 2.0, "paper")
    torch.testing.assert_close(one.double(), expected, atol=1e-4, rtol=1e-4)
    # Directions that leave each other's control prompt alone may be swapped.
    basis = torch.linalg.qr(torch.randn(WIDTH, 4, generator=torch.Generator().manual_seed(9))).Q.T
    e1, c1, e2, c2 = basis
    one = m.manipulate_local(m.manipulate_local(tokens, e1, None, c1, 6.0), e2, None, c2, 4.0)
    two = m.manipulate_local(m.manipulate_local(tokens, e2, None, c2, 4.0), e1, None, c1, 6.0)
    torch.testing.assert_close(one, two, atol=1e-3, rtol=1e-4)


def test_nothing_is_changed_in_place():
    tokens = reference()
    before = tokens.clone()
    m.manipulate_global(tokens, E, A, 5.0, True)
    m.manipulate_local(tokens, E, A, C, 5.0, True)
    assert torch.equal(tokens, before)
