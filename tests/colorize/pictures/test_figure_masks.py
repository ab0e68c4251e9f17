"""Masks of any size and kind, brought to pictures and canvases."""

import logging

import pytest
import torch

from colorize.pictures import figure_masks, images


def half(height=8, width=8, batch=1):
    """The upper half is figure."""
    mask = torch.zeros(batch, height, width)
    mask[:, : height // 2] = 1
    return mask


# -- as people connect them --------------------------------------------------------------------------------------------


def test_every_layout_becomes_one():
    expected = half()
    for mask in (expected, expected[0], expected[None], expected.bool(), expected.to(torch.uint8), expected.half()):
        checked = figure_masks.check_mask(mask)
        assert checked.dtype == torch.float32 and torch.equal(checked, expected)
    assert figure_masks.check_mask(torch.tensor([[[-3.0, 0.5, 7.0]]])).tolist() == [[[0, 0.5, 1]]]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_is_counted(value):
    mask = half()
    mask[0, 0, :3] = value
    with pytest.raises(ValueError, match="figure_mask has 3 of 64 values that are NaN or infinite.*draw it again"):
        figure_masks.check_mask(mask, "figure_mask")


@pytest.mark.parametrize("mask", [torch.rand(3), torch.rand(1, 8, 8, 3), None, "mask"])
def test_what_is_no_mask(mask):
    with pytest.raises(ValueError, match=r"mask has the shape .*Connect a MASK output"):
        figure_masks.check_mask(mask)


def test_empty_tensor():
    with pytest.raises(ValueError, match=r"mask is empty \(shape \(0, 8, 8\)\)"):
        figure_masks.check_mask(torch.rand(0, 8, 8))


# -- references --------------------------------------------------------------------------------------------------------


def test_figure_becomes_white_from_the_threshold_on():
    """Released rule: background is kept where mask < threshold."""
    picture = torch.rand(1, 3, 1, 4) - 0.5
    mask = torch.tensor([[[0.0, 0.49, 0.5, 1.0]]])
    out = figure_masks.without_figure(picture, mask, 0.5)
    assert torch.equal(out[..., :2], picture[..., :2]) and out[..., 2:].eq(1).all()


@pytest.mark.parametrize("size", [(4, 4), (16, 16), (64, 64), (1000, 1000)])
def test_mask_of_another_size_is_stretched(size):
    picture = torch.zeros(1, 3, 16, 16)
    out = figure_masks.without_figure(picture, half(*size), 0.5)
    assert out[:, :, :8].eq(1).all() and out[:, :, 8:].eq(0).all()


def test_one_mask_for_all_or_one_each():
    pictures = torch.zeros(2, 3, 8, 8)
    both = torch.cat([half(), 1 - half()])
    shared, own = (figure_masks.without_figure(pictures, mask, 0.5) for mask in (half(), both))
    assert torch.equal(shared[0], shared[1]) and torch.equal(own[0], shared[0]) and torch.equal(own[1], 1 - own[0])
    for count, some in ((3, pictures), (2, pictures[:1])):
        with pytest.raises(ValueError, match=f"{count} figure masks for {len(some)} references"):
            figure_masks.without_figure(some, half(batch=count), 0.5)


def test_nothing_left_and_nothing_marked_are_said(caplog):
    picture = torch.zeros(1, 3, 8, 8)
    with caplog.at_level(logging.WARNING):
        assert figure_masks.without_figure(picture, torch.ones(1, 8, 8), 0.5).eq(1).all()
    assert "covers a whole reference" in caplog.text and "Invert Mask" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        # What Load Image gives for a picture without transparency, whatever its proportions.
        assert torch.equal(
            figure_masks.without_figure(picture[:, :, :3], torch.zeros(1, 64, 64), 0.5), picture[:, :, :3]
        )
    assert "marks nothing" in caplog.text and "proportions" not in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        figure_masks.without_figure(picture, half(), 0.5)
    assert not caplog.text


def test_one_pixel_and_eight_thousand():
    assert figure_masks.without_figure(torch.zeros(1, 3, 1, 1), half(200, 100), 0.5).shape == (1, 3, 1, 1)
    assert figure_masks.without_figure(torch.zeros(1, 3, 8192, 4), half(1, 1), 0.5).shape == (1, 3, 8192, 4)


# -- drawings ----------------------------------------------------------------------------------------------------------


def test_without_a_frame_nothing_moves():
    mask = half(5, 9)
    assert figure_masks.on_canvas(mask, None) is mask


@pytest.mark.parametrize("fit", images.FITS)
@pytest.mark.parametrize("size", [(90, 40), (40, 90), (64, 64)])
def test_mask_goes_where_the_drawing_goes(fit, size):
    drawing = torch.zeros(1, *size)
    drawing[:, size[0] // 4 : size[0] // 2, size[1] // 3 :] = 1
    placed, frame = images.place(drawing[:, None], 64, 128, fit, blank=0.0)
    mask = figure_masks.on_canvas(drawing, frame)
    assert torch.equal(mask, placed[:, 0].clamp(0, 1))
    smaller = figure_masks.on_canvas(drawing[:, ::2, ::2], frame)  # a mask of half the drawing's size
    assert smaller.shape == mask.shape and (smaller - mask).abs().mean() < 0.06
    if fit == "pad":
        assert mask[:, :, : frame.left].eq(0).all() and mask[:, :, frame.left + frame.box_width :].eq(0).all()


def test_other_proportions_are_said(caplog):
    frame = images.frame_for(90, 40, 64, 128, "pad")
    with caplog.at_level(logging.WARNING):
        assert figure_masks.on_canvas(torch.zeros(2, 64, 64), frame).eq(0).all()
        figure_masks.on_canvas(half(180, 80), frame)
    assert not caplog.text
    with caplog.at_level(logging.WARNING):
        figure_masks.on_canvas(half(64, 128), frame, "figure_mask")
    assert "figure_mask is 128x64, its picture 40x90: the proportions differ" in caplog.text
