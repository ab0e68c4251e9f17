"""The model's own lines go, what is wider stays."""

import pytest
import torch

from colorize.pictures import images
from colorize.pictures.line_removal import on_result, without_model_lines


def scene(scale=1):
    """(result with a soft dark line and a wide dark bar, the same without the line, line layer, frame)."""
    frame = images.frame_for(128, 128, 64, 64, "pad")
    colours = torch.full((1, 3, 64, 64), 0.8)
    colours[..., 40:] = 0.3  # dark hair begins here
    result = colours.clone()
    result[..., 19:22] = torch.tensor([0.5, 0.2, 0.5])  # the line, three pixels wide
    lines = torch.ones(1, 3, 128, 128)
    lines[..., 39:42] = 0
    lines[..., 80:83] = 0  # the outline of the hair
    up = lambda x: x.repeat_interleave(scale, 2).repeat_interleave(scale, 3)  # noqa: E731
    return up(result), up(colours), lines, frame


@pytest.mark.parametrize("scale", [1, 2])
def test_the_soft_line_goes_and_the_dark_area_stays(scale):
    result, colours, lines, frame = scene(scale)
    freed = without_model_lines(result, lines, frame)
    assert torch.allclose(freed, colours, atol=1e-6)
    half = without_model_lines(result, lines, frame, 0.5)
    assert torch.allclose(half, (result + colours) / 2, atol=1e-6)
    assert torch.equal(without_model_lines(result, lines, frame, 0.0), result)


def test_nothing_happens_away_from_the_artists_lines():
    result, _, _, frame = scene()
    assert torch.equal(without_model_lines(result, torch.ones(1, 3, 128, 128), frame), result)


@pytest.mark.parametrize("fit", images.FITS)
def test_ink_lands_where_the_drawing_lies(fit):
    """In every fit a mark of the drawing is where `images.place` puts it."""
    ink = torch.zeros(1, 1, 90, 150)
    ink[..., 40:50, 70:80] = 1
    frame = images.frame_for(90, 150, 64, 64, fit)
    placed, _ = images.place(ink, 64, 64, fit, blank=0.0)
    found = on_result(ink, frame, 64, 64)
    assert found.shape == (1, 1, 64, 64)
    assert (found[placed > 0.6] == 1).all() and found.sum() < 2.5 * (placed > 0.6).sum()
