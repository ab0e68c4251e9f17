"""References for XL's tests."""

import pytest
import torch


@pytest.fixture
def figure_reference(xl_graph):
    """A reference with a background of its own."""
    mask = torch.zeros(1, 40, 30)
    mask[:, 10:30, 8:20] = 1
    return xl_graph.reference(figure_mask=mask)
