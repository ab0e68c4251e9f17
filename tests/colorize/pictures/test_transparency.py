"""Transparency of a drawing, told from paint of MaskEditor."""

import pytest
import torch

from colorize.pictures.transparency import check_drawing, hidden_line_share


def drawing(size=256):
    """Comfy picture (1, H, W, 3): dark lines on white, a cross and a frame."""
    image = torch.ones(1, size, size, 3)
    for at in (size // 4, size // 2, 3 * size // 4):
        image[:, at : at + 3] = 0
        image[:, :, at : at + 3] = 0
    return image


def middle(size=256):
    mask = torch.zeros(1, size, size)
    mask[:, size // 8 : 7 * size // 8, size // 8 : 7 * size // 8] = 1
    return mask


def test_a_painted_figure_is_no_transparency():
    with pytest.raises(ValueError, match="would erase .*% of its lines.*figure_mask of Apply Reference"):
        check_drawing(drawing(), middle())
    with pytest.raises(ValueError, match="lines would erase"):
        check_drawing(1 - drawing(), middle(), name="lines")


def test_a_batch_is_checked_picture_by_picture():
    both = torch.cat([torch.ones(1, 256, 256, 3), drawing()])
    with pytest.raises(ValueError, match="looks painted"):
        check_drawing(both, middle())


@pytest.mark.parametrize("below", [0.0, 1.0])
def test_what_drawing_programs_write_is_transparency(below):
    """A line layer has one tone everywhere; a cut-out figure one tone outside."""
    ink = drawing()[..., 0] < 0.5
    layer = torch.full((1, 256, 256, 3), below)
    check_drawing(layer, 1 - ink.float(), polarity="transparent")
    figure = drawing()
    outside = 1 - middle()
    figure[outside.bool()] = below
    check_drawing(figure, outside)
    assert hidden_line_share(figure.movedim(-1, 1), outside) == 0


def test_a_corner_that_hides_little_passes():
    mask = torch.zeros(1, 256, 256)
    mask[:, :70, :70] = 1
    assert 0 < hidden_line_share(drawing().movedim(-1, 1), mask) < 0.1
    check_drawing(drawing(), mask)


def test_a_line_layer_without_its_transparency_is_explained():
    black = torch.zeros(1, 64, 64, 3)
    with pytest.raises(ValueError, match="black everywhere.*connect MASK of the same Load Image"):
        check_drawing(black, None)
    with pytest.raises(ValueError, match="black everywhere"):
        check_drawing(black, torch.zeros(1, 64, 64))
    check_drawing(black, None, polarity="light_on_dark")
    check_drawing(torch.ones(1, 64, 64, 3), None)
    check_drawing(torch.cat([black, drawing(64)]), None)  # an empty frame of a shot


def test_masks_of_another_size_are_left_to_others():
    check_drawing(drawing(), torch.ones(1, 64, 64))
