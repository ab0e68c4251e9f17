"""Line drawings made of straight strokes, for tests of regions and flats."""

import numpy as np
import torch
from PIL import Image, ImageDraw


def drawing(shapes, size=(200, 240), width=3, scale=1) -> torch.Tensor:
    """Comfy picture (1, H, W, 3) of polylines in black on white."""
    image = Image.new("L", (size[1] * scale, size[0] * scale), 255)
    draw = ImageDraw.Draw(image)
    for points in shapes:
        draw.line([(x * scale, y * scale) for x, y in points], fill=0, width=width * scale)
    return comfy(image)


def comfy(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image.convert("RGB"))).float()[None] / 255


def box(left, top, right, bottom, gap=0):
    """A rectangle, open for `gap` pixels in the middle of its upper side."""
    middle = (left + right) / 2
    start, stop = (middle + gap / 2, top), (middle - gap / 2, top)
    return [start, (right, top), (right, bottom), (left, bottom), (left, top), stop]
