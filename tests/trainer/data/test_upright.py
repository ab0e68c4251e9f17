"""Pictures of turned cameras: EXIF says how they are held up, and everything that is read of them follows it."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from trainer.config import Data
from trainer.data import decode
from trainer.data.folder import FolderDataset
from trainer.data.sources import open_source
from trainer.prepare.measures import measure

SIDEWAYS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,  # the inverse of what a viewer does
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def scene(width: int = 96, height: int = 64) -> Image.Image:
    """Every corner has a colour of its own."""
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([255 * x // width, 255 * y // height, 0 * x + 40], -1).astype(np.uint8))


def exif(orientation: int) -> Image.Exif:
    found = Image.Exif()
    found[decode.ORIENTATION] = orientation
    return found


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ("jpg", "png", "webp"))
def test_a_turned_picture_is_read_upright(tmp_path, orientation, suffix):
    taken = scene() if orientation == 1 else scene().transpose(SIDEWAYS[orientation])
    file = tmp_path / f"photo.{suffix}"
    taken.save(file, exif=exif(orientation), **({"quality": 95} if suffix == "jpg" else {"lossless": True}))
    wanted = np.asarray(scene()).astype(int)
    with decode.open_picture(file) as image:
        assert decode.upright_size(image) == (96, 64)
    assert np.abs(np.asarray(decode.read_rgb(file)) - wanted).max() <= 12
    asked = []
    pixels = decode.read_resized(file, lambda size: asked.append(size) or (48, 32), decode.BILINEAR)
    assert asked == [(96, 64)]
    assert np.abs(pixels - np.asarray(scene().resize((48, 32), decode.BILINEAR)).astype(int)).max() <= 12
    for mode in ("L", "sketch"):
        assert decode.read_resized(file, lambda size: size, decode.BILINEAR, mode).shape[:2] == (64, 96)


def test_exif_that_cannot_be_read_says_nothing(tmp_path):
    scene().save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    scene().save(tmp_path / "b.jpg", exif=exif(9))
    for name in ("a.jpg", "b.jpg"):
        assert decode.read_rgb(tmp_path / name).size == (96, 64)


def test_sizes_buckets_keys_and_doctor_follow(tmp_path):
    """The same bytes but for EXIF are other pixels: other sizes, other canvases, another key in the cache."""
    for kind in ("color", "sketch", "reference"):
        (tmp_path / kind).mkdir()
        for number, orientation in enumerate((1, 6)):
            scene(192, 64).save(tmp_path / kind / f"{number}.jpg", exif=exif(orientation))
    data = FolderDataset(Data(folder=str(tmp_path), size=64, reference="folder", bucket_step=32, bucket_ratio=3.0))
    assert [item.size for item in data.items] == [(192, 64), (64, 192)]
    canvases = {int(row["index"]): tuple(row["color"].shape[-2:]) for row in (data[0], data[1])}
    assert canvases[0] == canvases[1][::-1] and canvases[0][0] < canvases[0][1]
    source = open_source(tmp_path)
    assert measure(source, "color", "1").size == (64, 192)
    keys = [data.reader.file("color", number).key((64, 64), mirrored=False) for number in (0, 1)]
    assert keys[0] != keys[1]
