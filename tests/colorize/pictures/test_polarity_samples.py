"""The polarity of real drawings and of what happens to drawings on their way: inverted, transparent, grey, compressed.

The pictures lie in `shared/samples` beside the checkout or in $SAMPLES_DIR; without them the tests are skipped.
"""

import io
import os
from pathlib import Path

import pytest
import torch

from colorize.pictures import images
from colorize.sketch.extractors import lineart, xdog

LINES = {  # drawing -> whether its lines are dark
    "linedistiller_frame_lines.png": True,
    "sketchkeras_test1_lines.jpg": True,
    "manganinja_hz_lineart.png": False,
}
COLOURS = (
    "cobra_girl_input.jpg",
    "cobra_man_input.jpg",
    "cobra_page0_input.jpg",
    "hokusai_wave.jpg",
    "linedistiller_frame_color.jpg",
    "manganinja_hz1_target.png",
    "sketchkeras_test1_color.jpg",
)
EXTRACTORS = {"standard": lineart.standard, "xdog": xdog.xdog}


def sample(name: str):
    """A sample as a Pillow picture; skips where the samples are not."""
    from PIL import Image

    beside = Path(__file__).resolve().parents[4] / "shared" / "samples"
    file = Path(os.environ.get("SAMPLES_DIR", beside)) / name
    if not file.is_file():
        pytest.skip(f"the sample {name} is not here; set SAMPLES_DIR to the folder of the samples")
    with Image.open(file) as picture:
        return picture.convert("RGB" if name in COLOURS else "L")


def tones(picture) -> torch.Tensor:
    """Pillow picture -> (H, W) or (H, W, 3) in 0..1."""
    import numpy

    return torch.from_numpy(numpy.array(picture)).float() / 255


def picture_of(tone: torch.Tensor):
    from PIL import Image

    return Image.fromarray((tone * 255).round().byte().numpy())


def grey(tone: torch.Tensor, paper: float, line: float) -> torch.Tensor:
    """Ink 0..1 -> comfy picture (1, H, W, 3) with these tones."""
    return (paper + (line - paper) * tone)[None, ..., None].expand(-1, -1, -1, 3)


def layer(ink: torch.Tensor, colour: tuple[float, float, float]) -> torch.Tensor:
    """Ink 0..1 -> comfy picture (1, H, W, 4): the colour everywhere, opaque where the ink is."""
    return torch.cat([torch.tensor(colour).expand(*ink.shape, 3), ink[..., None]], dim=-1)[None]


def resized(ink: torch.Tensor, scale: float) -> torch.Tensor:
    from PIL import Image

    height, width = ink.shape
    return tones(picture_of(ink).resize((round(width * scale), round(height * scale)), Image.Resampling.BICUBIC))


def compressed(ink: torch.Tensor, quality: int) -> torch.Tensor:
    from PIL import Image

    with io.BytesIO() as file:
        picture_of(1 - ink).save(file, "JPEG", quality=quality)
        return 1 - tones(Image.open(file))


def grainy(image: torch.Tensor, amount: float) -> torch.Tensor:
    return (image + amount * torch.randn(image.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)


def scanned(ink: torch.Tensor) -> torch.Tensor:
    """Uneven light: the paper falls from 0.95 to 0.6 towards a corner."""
    height, width = ink.shape
    fall = torch.linspace(0, 0.35, height)[:, None] * torch.linspace(0, 1, width)
    return ((0.95 - fall) * (1 - 0.9 * ink))[None, ..., None].expand(-1, -1, -1, 3)


VARIANTS = {
    "black on white": lambda ink: (grey(ink, 1, 0), "dark_on_light"),
    "white on black": lambda ink: (grey(ink, 0, 1), "light_on_dark"),
    "one channel": lambda ink: (grey(ink, 1, 0)[..., :1], "dark_on_light"),
    "one channel, inverted": lambda ink: (grey(ink, 0, 1)[..., :1], "light_on_dark"),
    "pencil": lambda ink: (grey(ink, 1, 0.6), "dark_on_light"),
    "grey paper": lambda ink: (grey(ink, 0.7, 0.2), "dark_on_light"),
    "grey paper darker than mid grey": lambda ink: (grey(ink, 0.45, 0.05), "dark_on_light"),
    "grey board, light lines": lambda ink: (grey(ink, 0.2, 0.8), "light_on_dark"),
    "grey board lighter than mid grey": lambda ink: (grey(ink, 0.55, 0.95), "light_on_dark"),
    "grainy": lambda ink: (grainy(grey(ink, 0.9, 0.1), 0.05), "dark_on_light"),
    "grainy, inverted": lambda ink: (grainy(grey(ink, 0.1, 0.9), 0.05), "light_on_dark"),
    "scanned": lambda ink: (scanned(ink), "dark_on_light"),
    "scanned, inverted": lambda ink: (1 - scanned(ink), "light_on_dark"),
    "black line layer": lambda ink: (layer(ink, (0, 0, 0)), "transparent"),
    "white line layer": lambda ink: (layer(ink, (1, 1, 1)), "transparent"),
    "red line layer": lambda ink: (layer(ink, (0.9, 0.1, 0.1)), "transparent"),
    "opaque RGBA": lambda ink: (torch.cat([grey(ink, 1, 0), torch.ones(1, *ink.shape, 1)], dim=-1), "dark_on_light"),
}
SIZES = {
    "as it is": lambda ink: ink,
    "a quarter": lambda ink: resized(ink, 0.25),
    "twice": lambda ink: resized(ink, 2),
    "JPEG 25": lambda ink: compressed(ink, 25),
}


def wrong(ink: torch.Tensor) -> list[str]:
    """All variants of a drawing (ink 0..1) that are read wrongly."""
    found = []
    for size, change in SIZES.items():
        changed = change(ink)
        for name, make in VARIANTS.items():
            image, expected = make(changed)
            answer = images.detect_polarity(*images.rgb_and_alpha(image))
            if answer != [expected]:
                found.append(f"{name}, {size}: {answer}")
    return found


@pytest.mark.parametrize("name", LINES)
def test_drawings(name):
    tone = tones(sample(name))
    (answer,) = images.detect_polarity(*images.rgb_and_alpha(tone[None, ..., None]))
    assert answer == ("dark_on_light" if LINES[name] else "light_on_dark")
    assert wrong(1 - tone if LINES[name] else tone) == []


@pytest.mark.parametrize("name", COLOURS)
@pytest.mark.parametrize("method", EXTRACTORS)
def test_extracted_drawings(name, method):
    picture = tones(sample(name)).movedim(-1, 0)[None] * 2 - 1
    assert wrong((EXTRACTORS[method](picture)[0, 0] + 1) / 2) == []


def test_enough_variants():
    assert len(LINES) * len(SIZES) * len(VARIANTS) >= 60
