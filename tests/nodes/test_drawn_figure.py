"""Figure from Drawing in ComfyUI."""

import pytest
import torch

from tests import tiny


def test_mask_and_preview(pack):
    image = torch.ones(1, 96, 80, 3)
    for rows, columns in ((slice(20, 96), 20), (slice(20, 96), 60), (20, slice(20, 61))):
        image[:, rows, columns] = 0
    output = pack.node("ColorizeFigureFromDrawing").execute(image=image, grow=2)
    (mask,) = output.result
    assert mask.shape == (1, 96, 80) and mask[0, 60, 40] == 1 and mask[0, 60, 5] == 0
    assert output.ui.as_dict()["images"][0]["type"] == "temp"
    plain = pack.run("ColorizeFigureFromDrawing", image=image)[0]
    assert mask.sum() > plain.sum()
    unpainted = pack.run("ColorizeFigureFromDrawing", image=image, rough_mask=torch.zeros(1, 64, 64))[0]
    assert torch.equal(unpainted, plain)


def test_a_painted_mask_is_refused_as_transparency(pack):
    drawing = tiny.drawing(128, 128)
    painted = torch.ones(1, 128, 128)
    for node, inputs in (
        ("ColorizePrepareSketch", {"image": drawing, "width": 128, "height": 128, "mask": painted}),
        ("ColorizeFigureFromDrawing", {"image": drawing, "mask": painted}),
    ):
        with pytest.raises(ValueError, match="looks painted"):
            pack.run(node, **inputs)
