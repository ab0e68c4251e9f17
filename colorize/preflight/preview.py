"""The picture of Preflight: what the model sees and the reference, with figure masks, over their findings."""

from __future__ import annotations

import textwrap

import torch
import torch.nn.functional as F

from ..pictures import images, masks
from ..pictures.figure_masks import check_mask
from ..pictures.line_measures import MEASURED_SIDE
from ..pictures.ranges import model_to_unit
from ..pictures.sides import sides_of
from .finding import Finding, Inputs

PANEL = 448  # pixels, side of a picture in the preview
LINE = 18  # pixels, height of a line of text
LETTERS = 62  # of a line of text
COLOURS = {"problem": (200, 40, 40), "warning": (200, 130, 0), "note": (60, 110, 190), "fine": (50, 140, 70)}
TINT = (1.0, 0.45, 0.1)  # of figure masks
MARGIN_TONE = 0.35  # of the canvas around a drawing


def preview(inputs: Inputs, findings: list[Finding]) -> torch.Tensor:
    """(1, H, W, 3) in 0..1: the drawing as the model sees it and the reference, with tinted masks, over their findings.

    Numbers are those of the report. A part that is missing or broken has an empty panel.
    """
    from PIL import Image, ImageDraw, ImageFont

    try:
        font = ImageFont.load_default(size=13)
    except TypeError:  # before Pillow 10.1
        font = ImageFont.load_default()
    numbered = list(enumerate(findings, start=1))
    columns = (
        ("sketch, as the model sees it", _sketch_panel(inputs), ("sketch", "model")),
        ("reference", _reference_panel(inputs), ("reference", "masks")),
    )
    blocks = []
    for title, picture, subjects in columns:
        lines = [(title.upper(), (230, 230, 230))]
        for number, finding in numbered:
            if finding.subject in subjects:
                wrapped = textwrap.wrap(f"{number}. {finding.text}", LETTERS, subsequent_indent="    ")
                lines += [(line, COLOURS[finding.level]) for line in wrapped]
        blocks.append((picture, lines))
    height = PANEL + LINE * (max(len(lines) for _, lines in blocks) + 1)
    sheet = Image.new("RGB", (2 * PANEL, height), (24, 24, 24))
    draw = ImageDraw.Draw(sheet)
    for column, (picture, lines) in enumerate(blocks):
        left = column * PANEL
        if picture is not None:
            pixels = (picture.movedim(0, -1).clamp(0, 1) * 255).round().to(torch.uint8).contiguous()
            drawn = Image.frombytes("RGB", (pixels.shape[1], pixels.shape[0]), pixels.numpy().tobytes())
            sheet.paste(drawn, (left + (PANEL - drawn.width) // 2, (PANEL - drawn.height) // 2))
        for row, (line, colour) in enumerate(lines):
            draw.text((left + 8, PANEL + 6 + row * LINE), line, fill=_lighter(colour), font=font)
    values = torch.frombuffer(bytearray(sheet.tobytes()), dtype=torch.uint8)
    return values.reshape(1, sheet.height, sheet.width, 3).float() / 255


def _lighter(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    red, green, blue = (min(255, part + 55) for part in colour)
    return red, green, blue


def _sketch_panel(inputs: Inputs) -> torch.Tensor | None:
    """The canvas of the first drawing (3, h, w): white lines on black, margins grey, the figure tinted."""
    if inputs.sketch is None:
        return None
    try:
        alpha = inputs.sketch_mask if inputs.sketch_mask is None else inputs.sketch_mask[:1]
        sketch = images.comfy_image_to_sketch(inputs.sketch[:1], alpha)
        source = sides_of(sketch)
        height, width = _panel_size(max(1, inputs.height), max(1, inputs.width))
        canvas, frame = images.place(images.reduced(sketch, MEASURED_SIDE), height, width, "pad", source=source)
    except ValueError:
        return None
    picture = model_to_unit(canvas[0].clamp(-1, 1))
    inside = torch.zeros(height, width)
    inside[frame.top : frame.top + frame.box_height, frame.left : frame.left + frame.box_width] = 1
    picture = picture * inside + MARGIN_TONE * (1 - inside)
    figure = _figure(inputs.figure_mask, inputs.mask_threshold, frame.box_height, frame.box_width)
    if figure is not None:
        whole = torch.zeros(height, width)
        whole[frame.top : frame.top + frame.box_height, frame.left : frame.left + frame.box_width] = figure
        picture = _tinted(picture, whole)
    return picture


def _reference_panel(inputs: Inputs) -> torch.Tensor | None:
    """The first reference (3, h, w) on white, its figure tinted."""
    if inputs.reference is None:
        return None
    try:
        alpha = inputs.reference_mask if inputs.reference_mask is None else inputs.reference_mask[:1]
        picture = images.on_white(*images.rgb_and_alpha(inputs.reference[:1], alpha, "reference"))
    except ValueError:
        return None
    height, width = _panel_size(*picture.shape[-2:])
    picture = images.resize(picture, height, width)[0]
    figure = _figure(inputs.reference_figure_mask, inputs.reference_mask_threshold, height, width)
    return picture if figure is None else _tinted(picture, figure)


def _panel_size(height: int, width: int) -> tuple[int, int]:
    scale = PANEL / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def _figure(mask: torch.Tensor | None, threshold: float, height: int, width: int) -> torch.Tensor | None:
    if mask is None:
        return None
    try:
        mask = check_mask(mask)[:1, None]
    except ValueError:
        return None
    return masks.binary(F.interpolate(mask, (height, width), mode="nearest"), threshold)[0, 0]


def _tinted(picture: torch.Tensor, figure: torch.Tensor) -> torch.Tensor:
    tint = picture.new_tensor(TINT).view(3, 1, 1)
    return torch.where(figure > 0, 0.65 * picture + 0.35 * tint, picture)
