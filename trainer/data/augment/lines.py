"""Sketches as people draw them: faint, grainy, broken, searched for, with coloured trace marks.

Extracted lines are clean and even; drawn ones are not. Every function takes a uint8 sketch (1, H, W), black lines on
white, and gives one of the same form, but for `trace_marks`, which gives three channels. Widths are in pixels at a side
of 512 and grow with the picture. No source: the ranges are what scanned pencil drawings look like.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw

from colorize.pictures.sides import sides_of

FAINT = (0.25, 0.8)
"""Share of the ink that is left, over the picture."""
FAINT_SPOTS = 0.6
"""Share of that ink that is left where the hand was lightest."""
GRAIN = (0.3, 0.9)
"""Share of the ink that is missing in the valleys of the paper."""
GAPS_PER_SIDE = (4, 40)
"""Number of gaps at a side of 512; it grows with the side, as the length of lines does."""
GAP = (1.5, 5.0)
"""Radius of a gap."""
SHIFT = (1.0, 4.0)
"""How far a second stroke lies from the first at most."""
SECOND = (0.3, 0.9)
"""Ink of the second stroke, of the first one's."""
MARKS = (2, 10)
"""Number of trace marks."""
MARK_LENGTH = (0.04, 0.25)
"""Length of a trace mark, of the picture's shorter side."""
MARK_WIDTH = (0.8, 2.2)
MARK_COLORS = ((230, 60, 60), (70, 110, 230), (60, 170, 90), (120, 190, 235), (240, 150, 60))
"""The pencils of animators: red, blue and green edges of shadow and light, light blue and orange construction lines."""


def _scale(sketch: torch.Tensor) -> float:
    return min(sketch.shape[-2:]) / 512


def _ink(sketch: torch.Tensor) -> torch.Tensor:
    return 255 - sketch.float()


def _drawn(ink: torch.Tensor) -> torch.Tensor:
    return (255 - ink).round().clamp(0, 255).to(torch.uint8)


def _field(random: np.random.Generator, cells: int, size: tuple[int, int], channels: int = 1) -> torch.Tensor:
    """A smooth random field (1, channels, H, W) in 0..1 with `cells` hills per side."""
    coarse = torch.from_numpy(random.random((1, channels, cells, cells), dtype=np.float32))
    return F.interpolate(coarse, size=tuple(size), mode="bilinear", align_corners=True)


def _ink_points(sketch: torch.Tensor, random: np.random.Generator, count: int) -> np.ndarray:
    """Places (count, 2) as x, y on the lines; none when there are no lines."""
    places = np.flatnonzero(sketch[0].numpy() < 128)
    if not len(places):
        return np.zeros((0, 2))
    return np.stack(np.divmod(random.choice(places, count), sketch.shape[-1])[::-1], axis=1)


def faint(sketch: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
    """Lines drawn with a light and uneven hand."""
    strength = random.uniform(*FAINT)
    field = FAINT_SPOTS + (1 - FAINT_SPOTS) * _field(random, 5, sides_of(sketch))[0]
    return _drawn(_ink(sketch) * strength * field)


def grain(sketch: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
    """Pencil on rough paper: ink is missing in the paper's valleys, and edges are soft."""
    depth = random.uniform(*GRAIN)
    height, width = sketch.shape[-2:]
    tooth = torch.from_numpy(random.random((1, height, width), dtype=np.float32))
    tooth = F.avg_pool2d(tooth[None], 3, stride=1, padding=1, count_include_pad=False)[0]
    valleys = ((tooth - 0.5) * 4 + 0.5).clamp(0, 1)  # the mean of nine has a third of the spread
    soft = F.avg_pool2d(_ink(sketch)[None], 3, stride=1, padding=1, count_include_pad=False)[0]
    return _drawn(torch.maximum(soft, _ink(sketch) * 0.7) * (1 - depth * valleys))


def gaps(sketch: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
    """Lines that do not close: short pieces are missing."""
    scale = _scale(sketch)
    count = max(1, round(random.integers(*GAPS_PER_SIDE) * scale))
    canvas = Image.fromarray(sketch[0].numpy().copy())
    brush = ImageDraw.Draw(canvas)
    for x, y in _ink_points(sketch, random, count):
        radius = random.uniform(*GAP) * scale
        brush.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    return torch.from_numpy(np.array(canvas))[None]


def double_strokes(sketch: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
    """Lines that were searched for: a second, lighter stroke runs beside the first, now nearer, now farther."""
    height, width = sketch.shape[-2:]
    reach = random.uniform(*SHIFT) * _scale(sketch)
    moves = (_field(random, 6, (height, width), channels=2) * 2 - 1) * reach
    rows, columns = torch.meshgrid(torch.arange(height).float(), torch.arange(width).float(), indexing="ij")
    x = (columns + moves[0, 0]) * 2 / max(1, width - 1) - 1
    y = (rows + moves[0, 1]) * 2 / max(1, height - 1) - 1
    second = F.grid_sample(_ink(sketch)[None], torch.stack([x, y], -1)[None], align_corners=True)[0]
    return _drawn(torch.maximum(_ink(sketch), second * random.uniform(*SECOND)))


def trace_marks(sketch: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
    """(3, H, W): coloured pencil curves that begin on lines and cross the fields between them, as those that animators
    draw around shadows and light. The lines stay on top."""
    height, width = sketch.shape[-2:]
    layer = Image.new("RGB", (width, height), "white")
    brush, short = ImageDraw.Draw(layer), min(height, width)
    turns = np.linspace(0, 1, 24)[:, None]
    for start in _ink_points(sketch, random, int(random.integers(*MARKS))):
        angles = random.uniform(0, 2 * np.pi) + random.uniform(-1, 1, 2)
        length = random.uniform(*MARK_LENGTH) * short
        steps = np.stack([np.cos(angles), np.sin(angles)], 1) * length
        middle, end = start + steps[0] / 2, start + steps[1]
        curve = (1 - turns) ** 2 * start + 2 * turns * (1 - turns) * middle + turns**2 * end
        color = MARK_COLORS[random.integers(len(MARK_COLORS))]
        width_drawn = max(1, round(random.uniform(*MARK_WIDTH) * _scale(sketch)))
        brush.line([tuple(place) for place in curve], fill=color, width=width_drawn)
    return torch.minimum(torch.from_numpy(np.array(layer)).permute(2, 0, 1), sketch)


STYLES = {"double": double_strokes, "gaps": gaps, "faint": faint, "grain": grain, "trace": trace_marks}
"""In the order in which they are applied: strokes before the pencil, the coloured marks last."""


def restyle(sketch: torch.Tensor, random: np.random.Generator, rates: dict[str, float]) -> torch.Tensor:
    """A sketch (1, H, W) with each of STYLES applied with its probability; (3, H, W) when trace marks are possible."""
    for name, style in STYLES.items():
        if (rate := rates.get(name, 0.0)) and random.random() < rate:
            sketch = style(sketch, random)
    return sketch.expand(3, -1, -1).contiguous() if rates.get("trace") and len(sketch) == 1 else sketch
