"""Which part of a reference is read: margins of one colour, and what counts as one."""

import pytest
import torch

from colorize.reference.fitting import fitted, shown_part, trimmed


def figure(height: int, width: int, box: tuple[int, int, int, int], paper: float = 1.0) -> torch.Tensor:
    """A coloured pattern in the box (top, bottom, left, right) on paper, (3, H, W) in -1..1."""
    top, bottom, left, right = box
    picture = torch.full((3, height, width), paper)
    picture[:, top:bottom, left:right] = torch.rand(3, bottom - top, right - left) * 0.5 - 0.8
    return picture


@pytest.mark.parametrize("paper", [1.0, 0.3])
def test_the_square_around_the_figure(paper):
    """Of 100 x 40 pixels: 106 a side (3 % around), the figure in its middle."""
    picture = figure(300, 400, (100, 200, 150, 190), paper)
    assert shown_part(picture) == (100, 200, 150, 190)
    part = trimmed(picture)
    assert part.shape == (3, 106, 106)
    assert torch.equal(part, picture[:, 97:203, 117:223])


def test_a_square_beyond_the_picture_gets_the_paper_s_colour():
    picture = figure(300, 80, (0, 300, 30, 50), 0.4)
    part = trimmed(picture)
    assert part.shape == (3, 318, 318) and torch.equal(part[:, 9:309, 119:199], picture)
    assert part[:, :9].eq(0.4).all() and part[:, :, :119].eq(0.4).all()


def test_noise_and_dust_are_margin_and_pictures_without_margin_stay():
    picture = figure(500, 500, (200, 300, 200, 300))
    noisy = (picture + 0.02 * torch.randn(picture.shape)).clamp(-1, 1)
    noisy[:, 40, 60] = -1.0
    assert shown_part(noisy) == (200, 300, 200, 300)
    painted = torch.rand(3, 90, 120) * 2 - 1
    assert shown_part(painted) is None and trimmed(painted) is painted
    framed = figure(100, 100, (20, 100, 0, 60))  # 35 % of the edge is not paper
    assert shown_part(framed) is None
    bust = figure(100, 100, (20, 100, 20, 80))  # 15 %
    assert shown_part(bust) == (20, 100, 20, 80)
    for empty in (torch.ones(3, 50, 50), torch.full((3, 50, 50), torch.nan)):
        assert trimmed(empty) is empty


def test_batches_come_in_one_size_and_other_fits_are_as_before():
    small, large = figure(300, 300, (100, 150, 100, 150)), figure(300, 300, (50, 250, 50, 250))
    parts = fitted(torch.stack([small, large]), "trim")
    assert parts.shape == (2, 3, 212, 212) and torch.equal(parts[1], trimmed(large))
    assert (parts[0, :, 10:-10, 10:-10] < 0.5).float().mean() > 0.95  # the small one fills its square, too
    tall = torch.rand(1, 3, 60, 40)
    assert fitted(tall, "stretch") is tall and fitted(tall, "crop").shape == (1, 3, 40, 40)
    assert fitted(tall, "pad").shape == (1, 3, 60, 60) and fitted(tall, "pad")[..., 0].eq(1).all()
    with pytest.raises(ValueError, match="'none' is unknown"):
        fitted(tall, "none")
