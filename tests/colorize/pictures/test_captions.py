"""Words under pictures."""

import pytest
import torch

from colorize.pictures.captions import NARROWEST, captioned


def test_the_picture_stays_and_words_stand_below():
    pictures = torch.rand(2, 40, 400, 3)
    sheets = captioned(pictures, ["one line", "leakage " * 40])
    assert sheets.shape[0] == 2 and sheets.shape[2] == 400 and torch.equal(sheets[:, :40], pictures)
    ink = (sheets[:, 40:] > 0.5).any(-1).sum((1, 2))
    assert 0 < ink[0] < ink[1]  # the longer text is wrapped, not cut
    assert not (sheets[1, 40:, -4:] > 0.5).any()


def test_narrow_pictures_get_room_for_words():
    sheets = captioned(torch.rand(1, 30, 64, 3), ["a text"])
    assert sheets.shape[2] == NARROWEST
    with pytest.raises(ValueError, match="2 texts for 1 pictures"):
        captioned(torch.rand(1, 30, 64, 3), ["a", "b"])
