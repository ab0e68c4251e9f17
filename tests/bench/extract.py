"""Line extraction as the released application computes it, for comparison: the same network, its own way around it.

Written down from the facts of the released routes, with the libraries that they use: Pillow squashes the picture,
OpenCV blurs it, numpy and torch do the rest. Needs OpenCV: pip install opencv-python-headless
"""

from __future__ import annotations

import numpy
import torch
import torch.nn.functional as F

SIDE = 768  # pixels, of the square that the released XL application works on
FAINT = 0.1


def load_cv2():
    """OpenCV; RuntimeError with the next step where it is missing."""
    try:
        import cv2
    except ImportError as error:
        raise RuntimeError(
            "The benchmark `extract` compares with OpenCV, which is not installed: pip install opencv-python-headless"
        ) from error
    return cv2


def squashed(picture: numpy.ndarray, side: int) -> numpy.ndarray:
    """8-bit picture (H, W, 3) -> (side, side, 3), Pillow's bicubic."""
    from PIL import Image

    return numpy.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.BICUBIC))


def resized_back(sketch: torch.Tensor, picture: numpy.ndarray) -> torch.Tensor:
    """(1, 1, side, side) -> (1, 1, H, W), torch's bicubic with antialiasing."""
    return F.interpolate(sketch, picture.shape[:2], mode="bicubic", align_corners=False, antialias=True)


def sketchkeras(network, picture: numpy.ndarray, side: int = SIDE) -> torch.Tensor:
    """8-bit picture (H, W, 3) -> model sketch (1, 1, H, W): high-pass of each colour, network, strongest of them."""
    small = squashed(picture, side)
    blurred = load_cv2().GaussianBlur(small, (0, 0), 3)
    high = (small.astype(numpy.int64) - blurred.astype(numpy.int64)) / 127.5
    high = high / high.max()
    x = torch.from_numpy(high.transpose(2, 0, 1)[:, None]).float()
    strongest = network(x).amax(dim=0, keepdim=True)
    strongest[strongest < FAINT] = 0
    return resized_back((strongest - 0.5) * 2, picture)


def manga_line(network, picture: numpy.ndarray, side: int = SIDE) -> torch.Tensor:
    """8-bit picture (H, W, 3) -> model sketch (1, 1, H, W): red channel, network, clamped and negated."""
    x = torch.from_numpy(squashed(picture, side)[..., 0].astype(numpy.float32))[None, None]
    return resized_back(-(network(x) / 127.5 - 1).clamp(-1, 1), picture)


ROUTES = {"SketchKeras": sketchkeras, "MangaLine": manga_line}
