"""The quality numbers: right on cases whose answer is known."""

import numpy as np
import torch

from trainer.evaluate import Result, edge_f1, interval, region_errors


def test_region_error_is_zero_for_the_truth_and_grows_with_the_colour():
    truth, regions = torch.zeros(1, 3, 32, 32), torch.zeros(1, 1, 32, 32, dtype=torch.uint8)
    regions[..., 16:] = 1
    nearly, wrong = truth.clone(), truth.clone()
    nearly[:, 0, :, 16:] += 0.1
    wrong[:, 0, :, 16:] += 0.8
    errors = [region_errors(picture, truth, regions, 3)[0] for picture in (truth, nearly, wrong)]
    assert errors[0][0] == errors[0][1] == errors[1][0] == 0
    assert 0 < errors[1][1] < errors[2][1]
    assert torch.isnan(errors[0][2])  # the region is not in the picture


def test_white_and_black_are_a_hundred_apart():
    regions = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    error = region_errors(torch.ones(1, 3, 8, 8), -torch.ones(1, 3, 8, 8), regions, 1)
    assert torch.allclose(error, torch.tensor([[100.0]]), atol=0.1)


def test_edge_f1_knows_right_missing_and_invented_edges():
    sketch = torch.ones(1, 1, 64, 64)
    sketch[..., 31:33] = -1
    right = sketch.expand(-1, 3, -1, -1)
    flat = torch.zeros(1, 3, 64, 64)
    invented = right.clone()
    invented[:, :, 8:10] = -1
    assert edge_f1(right, sketch) > 0.99
    assert edge_f1(flat, sketch) == 0
    assert 0.5 < edge_f1(invented, sketch) < 0.9


def test_interval_encloses_the_median():
    values = np.random.default_rng(0).normal(5, 1, (64, 3))
    values[::2, 1] = np.nan
    low, high = interval(values)
    assert low < np.nanmedian(values) < high
    assert high - low < 1


def test_summary_compares_the_same_pairs_with_and_without_reference():
    random = np.random.default_rng(1)
    blind = random.uniform(20, 40, (40, 2))
    result = Result(blind * 0.2, blind, np.full(40, 0.9), np.full(40, 0.9))
    summary = result.summary(("hair", "eyes"))
    assert np.isclose(summary["all_regions"]["ratio"], 0.2)
    assert np.allclose(summary["regions"]["eyes"]["ratio_95"], 0.2)
    assert summary["edge_f1_ratio"] == 1
