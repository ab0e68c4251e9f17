"""Words under pictures: for what a node shows on itself, where the frontend draws pictures only."""

from __future__ import annotations

import textwrap

import torch

LINE = 18  # pixels, height of a line of text
LETTER = 7.2  # pixels, about the width of a letter
GROUND, INK = (24, 24, 24), (230, 230, 230)
EDGE = 8  # pixels beside the words
NARROWEST = 320  # pixels


def captioned(pictures: torch.Tensor, texts: list[str]) -> torch.Tensor:
    """Pictures (B, H, W, 3) in 0..1 and a text for each -> (B, H + h, W', 3) with the texts below, wrapped.

    W' is W, or NARROWEST where that is more. Raises ValueError for another number of texts.
    """
    from PIL import Image, ImageDraw, ImageFont

    if len(texts) != len(pictures):
        raise ValueError(f"There are {len(texts)} texts for {len(pictures)} pictures; give one for each.")
    try:
        font = ImageFont.load_default(size=13)
    except TypeError:  # before Pillow 10.1
        font = ImageFont.load_default()
    width = max(pictures.shape[2], NARROWEST)
    letters = int((width - 2 * EDGE) / LETTER)
    wrapped = [[line for part in text.splitlines() for line in textwrap.wrap(part, letters)] for text in texts]
    height = LINE * max(len(lines) for lines in wrapped) + 2 * EDGE
    sheets = []
    for picture, lines in zip(pictures, wrapped):
        strip = Image.new("RGB", (width, height), GROUND)
        draw = ImageDraw.Draw(strip)
        for row, line in enumerate(lines):
            draw.text((EDGE, EDGE + row * LINE), line, fill=INK, font=font)
        words = torch.frombuffer(bytearray(strip.tobytes()), dtype=torch.uint8).reshape(height, width, 3).float() / 255
        above = torch.full((picture.shape[0], width, 3), GROUND[0] / 255)
        left = (width - picture.shape[1]) // 2
        above[:, left : left + picture.shape[1]] = picture.float().cpu()
        sheets.append(torch.cat([above, words]))
    return torch.stack(sheets)
