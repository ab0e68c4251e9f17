"""Panels of comic pages, and the figures in them."""

import numpy as np
import pytest
import torch

from colorize.pictures.drawn_figure import drawn_figures
from colorize.pictures.panels import Panel, find_panels

PAGE = (300, 240)
BELOW = (Panel(153, 290, 13, 112), Panel(153, 290, 128, 227))
GRID = (Panel(13, 137, 13, 227), *BELOW)
"""A wide panel over two, inside of frames of 3 pixels with gutters of 10; the page's margin is 10."""


def frames(panels=GRID, shape=PAGE, frame: int = 3) -> np.ndarray:
    """Ink of empty panels."""
    ink = np.zeros(shape, np.uint8)
    for top, bottom, left, right in panels:
        ink[max(0, top - frame) : bottom + frame, max(0, left - frame) : right + frame] = 255
        ink[top:bottom, left:right] = 0
    return ink


def figure(panel: Panel) -> tuple[np.ndarray, np.ndarray]:
    """(ink, inside) of a head and a body that leaves the panel at the bottom, of the panel's size."""
    height, width = panel.bottom - panel.top, panel.right - panel.left
    y, x = np.mgrid[:height, :width]
    side = min(height, width)
    head = (x - width / 2) ** 2 + (y - height + 0.72 * side) ** 2 < (0.2 * side) ** 2
    inside = head | ((abs(x - width / 2) < 0.3 * side) & (y > height - 0.54 * side))
    near = torch.nn.functional.max_pool2d(torch.from_numpy(inside)[None, None].float(), 5, 1, 2)[0, 0].numpy() > 0
    return np.where(near & ~inside, 255, 0).astype(np.uint8), inside


def drawn(panels=GRID) -> tuple[np.ndarray, np.ndarray]:
    """(ink, inside) of the page with a figure in every panel."""
    ink, inside = frames(panels), np.zeros(PAGE, bool)
    for panel in panels:
        lines, place = figure(panel)
        ink[panel.place] = np.maximum(ink[panel.place], lines)
        inside[panel.place] = place
    return ink, inside


def as_picture(ink: np.ndarray) -> torch.Tensor:
    return (1 - torch.from_numpy(ink).float() / 255)[None, ..., None].expand(-1, -1, -1, 3)


def agreement(found: torch.Tensor, inside: np.ndarray) -> float:
    """Intersection over union."""
    mask = found.numpy() > 0.5
    return float((mask & inside).sum() / (mask | inside).sum())


def test_frames_are_found_and_left_out():
    assert find_panels(frames()) == list(GRID)
    assert find_panels(drawn()[0]) == list(GRID)


def test_panels_may_leave_the_page():
    """The upper one on three sides, the lower ones at the bottom and outer sides, as in printed pages."""
    bleeding = [Panel(0, 140, 0, 240), Panel(156, 300, 0, 112), Panel(156, 300, 128, 240)]
    assert find_panels(frames(bleeding)) == bleeding


def test_what_crosses_a_gutter_does_not_join_its_panels():
    """A speech balloon over the horizontal gutter, white inside, and hair that bursts out of the frame."""
    ink = frames()
    y, x = np.mgrid[: PAGE[0], : PAGE[1]]
    distance = np.hypot((x - 60) / 30, (y - 145) / 18)
    ink[distance < 1] = 0
    ink[abs(distance - 1) < 0.06] = 255
    ink[130:150, 180:190] = 255
    assert find_panels(ink) == list(GRID)


def test_three_columns_of_different_rows():
    panels = [Panel(3, 297, 3, 70), Panel(3, 140, 83, 150), Panel(156, 297, 83, 150), Panel(3, 297, 163, 237)]
    assert find_panels(frames(panels)) == panels


@pytest.mark.parametrize(
    "panels",
    [
        (),
        (Panel(13, 287, 13, 227),),  # one frame around all of it
        (Panel(3, 120, 3, 237), Panel(180, 297, 3, 237)),  # a strip as wide as a sky
        (Panel(3, 280, 3, 237), Panel(286, 294, 3, 237)),  # a double line at the bottom
    ],
)
def test_drawings_that_are_no_pages_are_one_panel(panels):
    assert find_panels(frames(panels)) == [Panel(0, PAGE[0], 0, PAGE[1])]


def test_an_empty_strip_without_frames_is_no_gutter():
    """Two figures, one above the other."""
    ink = np.zeros(PAGE, np.uint8)
    for panel in (GRID[0], Panel(153, 290, 13, 227)):
        ink[panel.place] = figure(panel)[0]
    assert len(find_panels(ink)) == 1


def test_every_panel_has_its_figure():
    ink, inside = drawn()
    for picture in (as_picture(ink), 1 - as_picture(ink)):  # any polarity
        (mask,) = drawn_figures(picture)
        assert all(agreement(mask[panel.place], inside[panel.place]) > 0.9 for panel in GRID)
        assert agreement(mask, inside) > 0.9  # nothing on gutters and frames


def test_a_panel_without_lines_has_no_figure():
    ink, inside = drawn()
    ink[BELOW[1].place], inside[BELOW[1].place] = 0, False
    assert agreement(drawn_figures(as_picture(ink))[0], inside) > 0.9


def test_a_rough_mask_over_one_panel_leaves_the_others_empty():
    ink, inside = drawn()
    rough = torch.zeros(1, *PAGE)
    rough[0, BELOW[0].top + 20 : BELOW[0].bottom, BELOW[0].left + 15 : BELOW[0].right - 15] = 1
    (mask,) = drawn_figures(as_picture(ink), rough=rough)
    assert agreement(mask[BELOW[0].place], inside[BELOW[0].place]) > 0.9
    mask[BELOW[0].place] = 0
    assert not mask.any()
