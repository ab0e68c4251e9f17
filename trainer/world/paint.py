"""Turns a drawing into pixels: an index image (material and tone), the colour picture, the region map, the sketch.

Everything is painted at a multiple of the final size and averaged down. The index image holds one byte per pixel,
material * TONES + tone; a table with one colour per (row, index) turns it into a picture, so that vertical colour
gradients (iris, hair tips, sky, soft shading) cost nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw

from .appearance import Appearance, mix
from .drawing import Drawing, Fill, Patch, Stroke
from .linestyle import LineStyle
from .materials import TONES, Material, Tone, region_table, tone_table

_PATCHES = {tone: (Tone.BASE,) for tone in Tone} | {
    Tone.SHADE: (Tone.BASE, Tone.LIGHT),
    Tone.BLUSH_DEEP: (Tone.BASE, Tone.BLUSH),
}
_REGIONS = region_table()


def supersampling(height: int, width: int) -> int:
    """How many times finer than the picture everything is painted."""
    return 3 if min(height, width) <= 320 else 2


def _box(points: np.ndarray, size: tuple[int, int], margin: float = 2.0) -> tuple[int, int, int, int] | None:
    low, high = points.min(0) - margin, points.max(0) + margin
    box = (max(0, int(low[0])), max(0, int(low[1])), min(size[0], int(high[0]) + 1), min(size[1], int(high[1]) + 1))
    return box if box[2] > box[0] and box[3] > box[1] else None


def _polygon(draw: ImageDraw.ImageDraw, points: np.ndarray, value: int) -> None:
    draw.polygon(points.ravel().tolist(), fill=value)


def _line(draw: ImageDraw.ImageDraw, points: np.ndarray, widths: np.ndarray, value: int) -> None:
    """Polyline with one width per segment, round where it is broad."""
    flat = points.ravel().tolist()
    levels = np.maximum(1, np.rint(widths)).astype(int).tolist()
    start, count = 0, len(levels)
    while start < count:
        end = start + 1
        while end < count and levels[end] == levels[start]:
            end += 1
        width = levels[start]
        draw.line(flat[2 * start : 2 * end + 2], fill=value, width=width, joint="curve" if width > 4 else None)
        start = end


def _stroke_widths(stroke: Stroke, base: float, taper: float, minimum: float) -> np.ndarray:
    count = len(stroke.points) - 1
    t = (np.arange(count) + 0.5) / count
    width = np.full(count, base * stroke.weight)
    if stroke.taper_start:
        width *= 1 - taper * np.clip(1 - t / stroke.taper_start, 0, 1)
    if stroke.taper_end:
        width *= 1 - taper * np.clip(1 - (1 - t) / stroke.taper_end, 0, 1)
    return np.maximum(width, minimum)


def paint_index(drawing: Drawing, appearance: Appearance | None) -> Image.Image:
    """The supersampled index image (mode L). Without an appearance nothing is lit: enough for the region map."""
    scale = supersampling(drawing.height, drawing.width)
    size = (drawing.width * scale, drawing.height * scale)
    index = Image.new("L", size, Material.BACKGROUND * TONES)
    draw = ImageDraw.Draw(index)
    base = drawing.line_width * scale
    for op in drawing.operations:
        points = op.points * scale
        if isinstance(op, Fill):
            _polygon(draw, points, op.material * TONES)
            if op.cel and appearance is not None and appearance.shading != "flat":
                _cel_edge(index, points, op, appearance, drawing.unit * scale)
        elif isinstance(op, Stroke):
            _line(draw, points, _stroke_widths(op, base, 0.75, 0.6), op.material * TONES + Tone.LINE)
        elif appearance is not None:
            if op.tone == Tone.SHADE and appearance.shading == "flat":
                continue
            box = _box(points, size)
            if box is None:
                continue
            mask = Image.new("L", (box[2] - box[0], box[3] - box[1]), 0)
            _polygon(ImageDraw.Draw(mask), points - box[:2], 255)
            changed = index.crop(box).point(tone_table(op.materials, op.tone, _PATCHES[op.tone]))
            index.paste(changed, box, mask)
    return index


def _cel_edge(index: Image.Image, points: np.ndarray, op: Fill, appearance: Appearance, unit: float) -> None:
    box = _box(points, index.size)
    if box is None:
        return
    local = points - box[:2]
    width = appearance.shade_width * op.cel * unit * (0.6 if appearance.shading == "soft" else 1.0)
    towards_light = np.array([appearance.light_x * width, -0.75 * width])
    mask = Image.new("L", (box[2] - box[0], box[3] - box[1]), 0)
    draw = ImageDraw.Draw(mask)
    _polygon(draw, local, 255)
    _polygon(draw, local + towards_light, 0)
    index.paste(op.material * TONES + Tone.SHADE, box, mask)


def material_colours(appearance: Appearance) -> dict[Material, tuple]:
    """Base colour of each material."""
    a, m = appearance, Material
    return {
        m.BACKGROUND: a.background,
        m.BACKGROUND_SECOND: a.background_second,
        m.BACKGROUND_THIRD: a.background_third,
        m.HAIR: a.hair,
        m.HAIR_BACK: mix(a.hair, a.shade(a.hair), 0.35),
        m.HAIR_STREAK: a.hair_streak,
        m.SKIN: a.skin,
        m.IRIS_A: a.eye_a,
        m.IRIS_B: a.eye_b,
        m.PUPIL_A: a.line(mix(a.eye_a, (0, 0, 0), 0.25)),
        m.PUPIL_B: a.line(mix(a.eye_b, (0, 0, 0), 0.25)),
        m.EYE_WHITE: (252, 250, 250),
        m.LASH: mix(a.line(a.brow), (24, 16, 26), 0.5),
        m.CATCH_LIGHT: (255, 255, 255),
        m.MOUTH: a.mouth,
        m.TEETH: (253, 250, 248),
        m.CLOTHES_MAIN: a.clothes_main,
        m.CLOTHES_SECOND: a.clothes_second,
        m.CLOTHES_TRIM: a.clothes_trim,
        m.ACCESSORY: a.accessory,
        m.ACCESSORY_SECOND: a.accessory_second,
        m.INNER_EAR: mix(mix(a.skin, a.hair, 0.3), (250, 170, 170), 0.3),
        m.CLOTHES_INSIDE: a.shade(a.clothes_main, 1.3),
    }


def _row_table(drawing: Drawing, appearance: Appearance) -> np.ndarray:
    """(height, 256) uint32: colour of each index value in each row, as RGBX bytes."""
    a, m = appearance, Material
    colours = np.zeros((256, 4), np.uint8)
    tones = {}
    for material, colour in material_colours(a).items():
        row = {tone: colour for tone in Tone}
        row[Tone.SHADE] = a.shade(colour)
        row[Tone.LIGHT] = a.light(colour)
        row[Tone.LINE] = a.line(colour)
        tones[material] = row
    skin = tones[m.SKIN]
    rosy = mix(mix(a.skin, (236, 96, 96), 0.5), a.skin, 0.35)
    skin[Tone.BLUSH] = mix(a.skin, rosy, a.blush * 0.5)
    skin[Tone.BLUSH_DEEP] = mix(a.skin, rosy, a.blush)
    skin[Tone.SHADE] = mix(skin[Tone.SHADE], a.warm_shade(a.skin), 0.75)
    skin[Tone.LINE] = mix(skin[Tone.LINE], (70, 30, 30), 0.25)
    tones[m.EYE_WHITE][Tone.SHADE] = (214, 210, 226)
    dark = material_colours(a)[m.LASH]
    for white in (m.EYE_WHITE, m.CATCH_LIGHT, m.LASH):
        tones[white][Tone.LINE] = dark
    for iris in (m.IRIS_A, m.IRIS_B):
        tones[iris][Tone.SHADE] = a.shade(tones[iris][Tone.BASE], 1.7)
        tones[iris][Tone.LINE] = mix(a.line(tones[iris][Tone.BASE]), dark, 0.4)
    for far in (m.BACKGROUND, m.BACKGROUND_SECOND, m.BACKGROUND_THIRD):
        tones[far][Tone.LINE] = a.shade(tones[far][Tone.BASE], 1.7)
    for material, row in tones.items():
        for tone, colour in row.items():
            colours[material * TONES + tone, :3] = colour
    table = np.repeat(colours[None], drawing.height, axis=0)
    for material, (first, last) in drawing.gradients.items():
        t = np.clip((np.arange(drawing.height) - first) / max(last - first, 1e-3), 0, 1)[:, None]
        if material in (m.HAIR, m.HAIR_BACK):
            if a.hair_tips == a.hair:
                continue
            target = (a.hair_tips, a.shade(a.hair_tips), a.light(a.hair_tips), a.line(a.hair_tips))
            t = t * t * (3 - 2 * t)
            _blend(table, material, t, target)
        elif material in (m.IRIS_A, m.IRIS_B):
            base = tones[material][Tone.BASE]
            _blend(table, material, 0.62 * np.clip(1 - 2.2 * t, 0, 1), (a.shade(base, 2.2),))
            _blend(table, material, 0.5 * np.clip(2.2 * t - 1.2, 0, 1), (a.light(base, 0.7),))
        elif material == m.BACKGROUND:
            _blend(table, material, t, (a.background_second,))
        elif a.shading == "soft":
            _blend(table, material, 0.7 * t, (tones[material][Tone.SHADE],))
    return table.view(np.uint32)[:, :, 0]


def _blend(table: np.ndarray, material: Material, amount: np.ndarray, targets: Iterable[ArrayLike]) -> None:
    for tone, colour in enumerate(targets):
        column = table[:, material * TONES + tone, :3].astype(np.float32)
        table[:, material * TONES + tone, :3] = np.rint(column + (np.asarray(colour, np.float32) - column) * amount)


def fine_colours(drawing: Drawing, index: Image.Image, appearance: Appearance) -> Image.Image:
    """The supersampled picture (mode RGBX, sRGB) of a supersampled index image."""
    table = _row_table(drawing, appearance)
    values = np.asarray(index).reshape(drawing.height, -1)
    places = values + (np.arange(drawing.height, dtype=np.int32) * 256)[:, None]
    pixels = table.reshape(-1).take(places)
    return Image.frombuffer("RGBX", index.size, pixels.tobytes(), "raw", "RGBX", 0, 1)


def averaged(drawing: Drawing, fine: Image.Image) -> np.ndarray:
    """(H, W, 3) uint8 of a supersampled picture (mode RGBX)."""
    return np.ascontiguousarray(np.asarray(fine.reduce(supersampling(drawing.height, drawing.width)))[:, :, :3])


def colour_picture(drawing: Drawing, index: Image.Image, appearance: Appearance) -> np.ndarray:
    """(H, W, 3) uint8 sRGB."""
    return averaged(drawing, fine_colours(drawing, index, appearance))


def sampled(drawing: Drawing, fine: Image.Image) -> np.ndarray:
    """(H, W) of a supersampled image of labels: the one in the middle of every pixel."""
    scale = supersampling(drawing.height, drawing.width)
    return np.ascontiguousarray(np.asarray(fine)[scale // 2 :: scale, scale // 2 :: scale])


def fine_regions(index: Image.Image) -> Image.Image:
    """Supersampled labels (mode L) of a supersampled index image; see REGION_NAMES."""
    return index.point(_REGIONS.tolist())


def region_map(drawing: Drawing, index: Image.Image) -> np.ndarray:
    """(H, W) uint8 labels; see REGION_NAMES. Independent of the appearance the index image was painted with."""
    return _REGIONS[sampled(drawing, index)]


def material_map(drawing: Drawing, index: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    """((H, W) uint8 Material of every pixel, that of its line where one lies; (H, W) bool lines)."""
    values = sampled(drawing, index)
    return values // TONES, values % TONES == Tone.LINE


def flat_picture(drawing: Drawing, index: Image.Image, appearance: Appearance) -> np.ndarray:
    """(H, W, 3) uint8 sRGB: what a painter's flats would be, without lines and shading.

    Every material has one colour, its base; where that is a gradient, the mean over the area it covers.
    """
    material, _ = material_map(drawing, index)
    table = _row_table(drawing, appearance)[:, ::TONES].copy().view(np.uint8).reshape(drawing.height, -1, 4)
    flat = np.zeros((*material.shape, 3), np.uint8)
    for number in np.unique(material):
        here = material == number
        rows = here.sum(axis=1)
        flat[here] = np.rint((table[:, number, :3] * rows[:, None]).sum(axis=0) / rows.sum())
    return flat


def fine_silhouette(drawing: Drawing) -> Image.Image:
    """Supersampled mask (mode L): 255 where the figure or one of its lines lies, else 0."""
    scale = supersampling(drawing.height, drawing.width)
    mask = Image.new("L", (drawing.width * scale, drawing.height * scale), 0)
    draw = ImageDraw.Draw(mask)
    for op in drawing.operations[drawing.figure_start :]:
        if isinstance(op, Fill):
            _polygon(draw, op.points * scale, 255)
        elif isinstance(op, Stroke):
            _line(draw, op.points * scale, _stroke_widths(op, drawing.line_width * scale, 0.75, 0.6), 255)
    return mask


def figure_mask(drawing: Drawing) -> np.ndarray:
    """(H, W) uint8, 255 where the figure or one of its lines lies, else 0; sampled like `region_map`."""
    return sampled(drawing, fine_silhouette(drawing))


def paint_sketch(drawing: Drawing, style: LineStyle) -> np.ndarray:
    """(H, W) uint8, dark lines on white."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([style.detail_seed, 0x5CE7])))
    scale = supersampling(drawing.height, drawing.width)
    paper = Image.new("L", (drawing.width * scale, drawing.height * scale), 255)
    draw = ImageDraw.Draw(paper)
    short = min(drawing.height, drawing.width) * scale
    base = drawing.line_width * scale * style.width
    reach = style.wobble * short
    for op in drawing.operations:
        if isinstance(op, Patch):
            continue
        points = op.points * scale
        if isinstance(op, Fill):
            _polygon(draw, points, 0 if op.ink and style.fill_black else 255)
            continue
        widths = _stroke_widths(op, base, min(1.0, 0.5 + style.taper * 0.5), 0.7)
        closed = bool((points[0] == points[-1]).all())
        for turn in range(style.passes):
            line, thickness = points, widths
            if reach:
                line = _wobble(line, reach * (1.0 + 0.8 * turn), short, rng, closed and turn == 0)
            if style.passes > 1:
                thickness = np.maximum(widths * 0.72, 0.7)
            if style.overshoot and not closed and len(line) > 3:
                line, thickness = _overshoot(line, thickness, style.overshoot * short * rng.random())
            if style.gaps and len(thickness) > 10 and rng.random() < style.gaps:
                start = int(rng.integers(2, len(thickness) - 4))
                stop = min(start + max(1, int(len(thickness) * rng.uniform(0.04, 0.1))), len(thickness) - 2)
                _line(draw, line[: start + 1], thickness[:start], 0)
                line, thickness = line[stop:], thickness[stop:]
            _line(draw, line, thickness, 0)
    sketch = np.asarray(paper.reduce(scale))
    if style.darkness == 1 and not style.grain and not style.smudge:
        return sketch
    ink = 1 - sketch.astype(np.float32) / 255
    ink *= style.darkness
    if style.grain:
        grain = _paper_grain(ink.shape, rng)
        ink *= np.clip(1 - style.grain * (0.35 + 0.75 * grain), 0, 1)
    if style.smudge:
        ink += style.smudge * 0.035 * _blotches(ink.shape, rng)
    return np.rint(255 * (1 - np.clip(ink, 0, 1))).astype(np.uint8)


def _wobble(points: np.ndarray, reach: float, short: float, rng: np.random.Generator, closed: bool) -> np.ndarray:
    """Smooth deviation along a line, in pixels."""
    length = float(np.hypot(*np.diff(points, axis=0).T).sum())
    knots = int(np.clip(length / (0.06 * short), 2, 24)) + 1
    offsets = rng.standard_normal((knots, 2)) * reach * min(1.0, 0.35 + length / (0.25 * short))
    if closed:
        offsets[-1] = offsets[0]
    t = np.linspace(0, knots - 1, len(points))
    low = np.minimum(t.astype(int), knots - 2)
    f = (t - low)[:, None]
    f = f * f * (3 - 2 * f)
    return points + offsets[low] * (1 - f) + offsets[low + 1] * f


def _overshoot(points: np.ndarray, widths: np.ndarray, reach: float) -> tuple[np.ndarray, np.ndarray]:
    direction = points[-1] - points[-3]
    norm = float(np.hypot(*direction))
    if norm < 1e-6:
        return points, widths
    return np.concatenate([points, points[-1:] + direction / norm * reach]), np.append(widths, widths[-1] * 0.6)


def _paper_grain(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    coarse = _blotches(shape, rng)
    return 0.55 * rng.random(shape, dtype=np.float32) + 0.6 * coarse


def _blotches(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Smooth noise, 0..1."""
    small = rng.integers(0, 256, (max(2, shape[0] // 12), max(2, shape[1] // 12)), dtype=np.uint8)
    grown = Image.fromarray(small).resize((shape[1], shape[0]), Image.Resampling.BILINEAR)
    return np.asarray(grown, dtype=np.float32) / 255
