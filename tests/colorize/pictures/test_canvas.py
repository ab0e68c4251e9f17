"""The rule that gives a drawing its canvas."""

import math

import pytest

from colorize.pictures.canvas import FLATTEST, STEP, following
from quickstart_lib import sizes

DRAWINGS = [(768, 768), (1024, 576), (456, 700), (900, 1600), (672, 960), (100, 3000), (5, 4)]


@pytest.mark.parametrize("drawing", DRAWINGS)
@pytest.mark.parametrize("side", [256, 512, 1024])
def test_proportions_and_area(drawing, side):
    width, height = following(drawing[1], drawing[0], side * side)
    assert width % STEP == height % STEP == 0
    wanted = min(max(drawing[0] / drawing[1], 1 / FLATTEST), FLATTEST)
    rounding = 1 + STEP / 2 / min(width, height)
    assert max(width / height / wanted, wanted * height / width) <= rounding**2
    assert math.sqrt(width * height) == pytest.approx(side, rel=STEP / 2 / min(width, height))


@pytest.mark.parametrize("drawing", DRAWINGS)
@pytest.mark.parametrize("side", [256, 512, 1024])
def test_quickstart_has_the_same_rule(drawing, side):
    """It may import nothing of the pack, so it has a copy."""
    assert sizes.working_size(drawing, side, None, None) == following(drawing[1], drawing[0], side * side)
