"""Figure masks by the pictures' own lines: no weights, 0 and 255 only."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from trainer.__main__ import main
from trainer.commands.prepare import prepare
from trainer.prepare import methods


def figure(size: tuple[int, int]) -> tuple[Image.Image, np.ndarray]:
    """A head on shoulders before a plain background, with outlines, and where it is."""
    width, height = size
    picture, truth = Image.new("RGB", size, (200, 220, 240)), Image.new("L", size)
    head = (width * 0.33, height * 0.15, width * 0.67, height * 0.55)
    body = (width * 0.2, height * 0.5, width * 0.8, height * 1.5)
    for box, colour in ((body, (90, 60, 160)), (head, (250, 220, 200))):
        ImageDraw.Draw(picture).ellipse(box, fill=colour, outline=(20, 20, 20), width=max(2, width // 64))
        ImageDraw.Draw(truth).ellipse(box, fill=255)
    return picture, np.array(truth) > 127


@pytest.mark.parametrize("size", [(128, 128), (900, 1200)])
def test_the_figure_that_the_lines_enclose(tmp_path, size):
    picture, truth = figure(size)
    (tmp_path / "color").mkdir()
    picture.save(tmp_path / "color" / "a.png")
    report = prepare(tmp_path, mask=methods.mask_method("drawing"), progress=False)
    assert report.made == {"mask": 1}
    mask = np.array(Image.open(tmp_path / "mask" / "a.png"))
    assert mask.shape == truth.shape and set(np.unique(mask)) == {0, 255}
    assert ((mask > 127) & truth).sum() / ((mask > 127) | truth).sum() > 0.9
    assert prepare(tmp_path, mask=methods.mask_method("drawing"), progress=False).up_to_date == {"mask": 1}


def test_the_command_needs_no_weights_and_tells_a_picture_without_lines(tmp_path, capsys):
    (tmp_path / "color").mkdir()
    figure((96, 96))[0].save(tmp_path / "color" / "a.png")
    Image.new("RGB", (96, 96), "white").save(tmp_path / "color" / "b.png")
    assert main(["prepare", str(tmp_path), "--mask", "drawing", "--workers", "1"]) == 0
    told = capsys.readouterr().out
    assert "mask/: 1 made" in told and "b.png -> mask/: drawing failed" in told
