"""The quality numbers: right on cases whose answer is known."""

import numpy as np
import torch

from trainer.evaluate import Result, edge_f1, interval, region_errors, shown_regions, table


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
    result = Result(blind * 0.2, blind, np.full(40, 0.9), np.full(40, 0.9), np.zeros((40, 2), bool))
    summary = result.summary(("hair", "eyes"))
    assert np.isclose(summary["all_regions"]["ratio"], 0.2)
    assert np.allclose(summary["regions"]["eyes"]["ratio_95"], 0.2)
    assert summary["edge_f1_ratio"] == 1
    assert "shown_regions" not in summary  # no reference shows any of them


def test_summary_tells_shown_regions_figure_and_background_apart():
    """hair is shown in the even pairs only and right there; the background is always shown and always wrong."""
    blind = np.full((40, 2), 30.0)
    errors, shown = np.full((40, 2), 15.0), np.ones((40, 2), bool)
    shown[1::2, 1] = False
    errors[::2, 1], errors[1::2, 1] = 3.0, 30.0
    summary = Result(errors, blind, np.ones(40), np.ones(40), shown).summary(("background", "hair"))
    assert summary["shown_figure"]["error"] == 3 and summary["shown_background"]["error"] == 15
    assert summary["all_regions"]["error"] == 15 and summary["shown_regions"]["error"] == 15
    rows = table(summary).splitlines()
    assert [row[:18].strip() for row in rows[1:5]] == ["all", "shown by reference", "its figure", "its background"]
    assert rows[3].split()[2] == "3.00"


def test_a_region_is_shown_when_enough_of_it_is_there():
    names = ("background", "hair", "lines")
    labels = torch.zeros(2, 1, 64, 64, dtype=torch.uint8)
    labels[0, 0, 0, :4] = 1  # 64 pixels of 256 x 256 are 4 of 64 x 64
    labels[1, 0, 0, :3] = 1
    labels[:, 0, 8:] = 2
    assert shown_regions(labels, names).tolist() == [[True, True, False], [True, False, False]]
