"""Pictures of every format and odd size for the fuzz harness, drawn from a seed."""

from __future__ import annotations

import random
from pathlib import Path

from PIL import Image, ImageDraw

from tests.workflows.shipped import EXAMPLES, PREFIX

KINDS = (
    ("RGB", "png"), ("RGBA", "png"), ("L", "png"), ("1", "png"), ("P", "png"), ("I;16", "png"), ("LA", "png"),
    ("RGB", "jpg"), ("CMYK", "jpg"), ("RGB", "webp"), ("RGBA", "webp"), ("P", "gif"), ("RGB", "bmp"), ("RGB", "tiff"),
)  # fmt: skip
SIZES = ((64, 64), (96, 64), (63, 65), (1, 1), (1, 200), (300, 20), (128, 128))


def copy_examples(folder: Path, longest: int | None) -> None:
    """The pictures of the shipped workflows under the names they load; longest: side that none of them is above."""
    for file in sorted(EXAMPLES.glob("*.png")):
        with Image.open(file) as picture:
            if longest is not None:
                picture.thumbnail((longest, longest))
            picture.save(folder / f"{PREFIX}{file.name}")


def write(folder: Path, rng: random.Random) -> list[str]:
    """Write a picture of every kind, and files that are none; returns their names."""
    for number, (mode, suffix) in enumerate(KINDS):
        size = SIZES[number % len(SIZES)]
        picture = Image.new("RGB", size, "white")
        draw = ImageDraw.Draw(picture)
        for _ in range(6):
            corners = [rng.randrange(side + 1) for side in (*size, *size)]
            draw.line(corners, fill=tuple(rng.randrange(256) for _ in range(3)), width=rng.randrange(1, 4))
        converted = picture.convert("L").convert("I;16") if mode == "I;16" else picture.convert(mode)
        converted.save(folder / f"fuzz_{number:02}.{suffix}")
    (folder / "fuzz_empty.png").write_bytes(b"")
    (folder / "fuzz_half.png").write_bytes((folder / "fuzz_00.png").read_bytes()[:90])
    return sorted(path.name for path in folder.glob("fuzz_*"))
