"""Pictures between ComfyUI, the artist's file and the networks. Every change of layout or polarity happens
here (of the artist's lines, as a layer: artist_lines.py), every change of range through ranges.py.

ComfyUI:  IMAGE (B, H, W, C) in 0..1, C = 1, 3 or 4; MASK (B, H, W) in 0..1, in Load Image 1 = transparent.
Networks: (B, 3, H, W) in -1..1. A sketch has white lines (+1) on black (-1), blank = -1 everywhere (v1, v1.5, v2, XL).

Pure torch. `invert` and `place` reproduce the released preprocessing (golden case sketch_preprocess).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .ranges import model_to_unit, unit_to_model
from .sides import agree_but_for_scale, sides_of

POLARITIES = ("auto", "dark_on_light", "light_on_dark", "transparent")
FITS = ("pad", "crop", "stretch")
PIXELS_PER_LATENT = 8  # of every VAE the families use, along each side
BLANK = -1.0  # an empty place of a sketch, as the networks see it

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
RARE = 1e-3  # share of the pixels that may be dust
FEW = 0.25  # share of the pixels that lines cover at most; grain lies evenly on both sides of the paper's tone


# -- ComfyUI pictures in -----------------------------------------------------------------------------------------------


def check_image(image: torch.Tensor, name: str = "image") -> None:
    """Raise ValueError unless this is a ComfyUI picture batch (B, H, W, 1 | 3 | 4) with at least one pixel."""
    shape = tuple(getattr(image, "shape", ()))
    if len(shape) != 4 or shape[-1] not in (1, 3, 4):
        raise ValueError(
            f"{name} has the shape {shape}; expected a picture batch (count, height, width, 1, 3 or 4 channels). "
            "Connect an IMAGE output, for example of Load Image."
        )
    if 0 in shape:
        raise ValueError(f"{name} is empty (shape {shape}). Connect a picture of at least one pixel.")


def rgb_and_alpha(
    image: torch.Tensor, mask: torch.Tensor | None = None, name: str = "image"
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Comfy picture -> colours (B, 3, H, W) and opacity (B, 1, H, W), both 0..1 float32; None when all is opaque.

    The opacity comes from a fourth channel or from `mask` (B, H, W) as Load Image gives it, 1 = transparent. Load Image
    gives an all-zero mask of another size for pictures without transparency; that counts as no mask.
    """
    check_image(image, name)
    picture = image.movedim(-1, 1).float()
    alpha = picture[:, 3:4].nan_to_num(1.0).clamp(0, 1) if picture.shape[1] == 4 else None
    grey = picture.shape[1] == 1
    colours = (picture[:, :1] if grey else picture[:, :3]).nan_to_num(0.0).clamp(0, 1)
    colours = colours.expand(-1, 3, -1, -1) if grey else colours  # one channel, seen three times
    if mask is not None and bool(mask.any()):
        transparent = mask.float().nan_to_num(0.0).reshape(-1, 1, *mask.shape[-2:])
        size = sides_of(picture)
        if not agree_but_for_scale(sides_of(transparent), size):
            raise ValueError(
                f"The mask of {name} is {mask.shape[-1]}x{mask.shape[-2]} pixels, the picture "
                f"{picture.shape[3]}x{picture.shape[2]}. "
                "Connect IMAGE and MASK of the same Load Image node."
            )
        if sides_of(transparent) != size:  # one of the two went through a node that scales
            transparent = F.interpolate(transparent, size, mode="bilinear", antialias=True)
        if transparent.shape[0] not in (1, picture.shape[0]):
            raise ValueError(
                f"{name} has {picture.shape[0]} pictures but {transparent.shape[0]} masks. Connect one mask, or one "
                "per picture."
            )
        opacity = (1 - transparent.clamp(0, 1)).expand(picture.shape[0], -1, -1, -1)
        alpha = opacity if alpha is None else alpha * opacity
    if alpha is not None and bool((alpha >= 1).all()):
        alpha = None
    return colours, alpha


def on_white(colours: torch.Tensor, alpha: torch.Tensor | None) -> torch.Tensor:
    """Lay colours (B, 3, H, W) with opacity (B, 1, H, W) on white paper; 0..1."""
    return colours if alpha is None else colours * alpha + (1 - alpha)


def comfy_image_to_model(image: torch.Tensor, mask: torch.Tensor | None = None, name: str = "image") -> torch.Tensor:
    """Comfy picture, RGBA on white -> (B, 3, H, W) in -1..1."""
    return unit_to_model(on_white(*rgb_and_alpha(image, mask, name)))


def model_image_to_comfy(picture: torch.Tensor) -> torch.Tensor:
    """(B, 3, H, W) in -1..1 -> comfy picture (B, H, W, 3) clamped to 0..1."""
    return model_to_unit(picture.float()).clamp(0, 1).movedim(1, -1)


def luminance(colours: torch.Tensor) -> torch.Tensor:
    """(B, 3, H, W) -> (B, 1, H, W)."""
    if colours.stride(1) == 0:  # a grey picture, whose channels are one: the weights add up to 1
        return colours[:, :1]
    return (colours * torch.tensor(LUMA, device=colours.device, dtype=colours.dtype).view(1, 3, 1, 1)).sum(
        1, keepdim=True
    )


# -- polarity ----------------------------------------------------------------------------------------------------------


def detect_polarity(colours: torch.Tensor, alpha: torch.Tensor | None = None) -> list[str]:
    """Polarity of each picture: "dark_on_light", "light_on_dark" or "transparent" (the opacity is the drawing).

    A picture with transparency is a line layer when what is opaque covers less than half of it and has one tone;
    otherwise it is laid on white. Then the more common of its two halves, light and dark, is the paper (`light_share`).
    """
    found = []
    for index in range(colours.shape[0]):
        opacity = None if alpha is None else alpha[index : index + 1]
        picture = colours[index : index + 1]
        if opacity is not None and _is_line_layer(luminance(picture), opacity):
            found.append("transparent")
        else:
            light = light_share(luminance(on_white(picture, opacity)))
            found.append("dark_on_light" if light >= 0.5 else "light_on_dark")
    return found


def light_share(tone: torch.Tensor) -> float:
    """Share of light pixels of a grey picture in 0..1: lighter than the middle between its darkest and lightest tones.

    A thousandth of the pixels at either end does not count as a tone. Where that middle parts the pixels about evenly,
    as it does in the grain of an empty sheet, and in a flat picture, light is lighter than mid grey.
    """
    levels = (tone.clamp(0, 1) * 255).round().to(torch.uint8).flatten()
    up_to = torch.bincount(levels, minlength=256).cumsum(0).cpu() / len(levels)
    dark, light = (int((up_to <= share).sum()) for share in (RARE, 1 - RARE))
    share = 1 - up_to[(dark + light) // 2].item()
    even = FEW < share < 1 - FEW
    return 1 - up_to[127].item() if even or dark == light else share


def _is_line_layer(tone: torch.Tensor, opacity: torch.Tensor) -> bool:
    covered = opacity.mean()
    if covered >= 0.5:
        return False
    if covered == 0:
        return True
    mean = (tone * opacity).mean() / covered
    spread = (((tone - mean) ** 2 * opacity).mean() / covered).sqrt()
    return bool(spread < 0.2)


def comfy_image_to_sketch(
    image: torch.Tensor, mask: torch.Tensor | None = None, polarity: str = "auto"
) -> torch.Tensor:
    """Comfy picture of a drawing, any polarity -> model sketch (B, 3, H, W), white lines +1 on black -1."""
    colours, alpha = rgb_and_alpha(image, mask, "sketch")
    if polarity not in POLARITIES:
        raise ValueError(f"Polarity {polarity!r} is unknown; choose one of {', '.join(POLARITIES)}.")
    if polarity == "transparent" and alpha is None:
        raise ValueError(
            "The polarity is set to transparent, but the sketch has no transparent pixels. Load Image keeps "
            "transparency in its MASK output: connect it to mask, or set the polarity to auto."
        )
    kinds = detect_polarity(colours, alpha) if polarity == "auto" else [polarity] * colours.shape[0]
    return model_sketches(colours, alpha, kinds)


def model_sketches(colours: torch.Tensor, alpha: torch.Tensor | None, kinds: Sequence[str]) -> torch.Tensor:
    """Colours (B, 3, H, W) and opacity (B, 1, H, W) of drawings of these polarities -> model sketch (B, 3, H, W)."""
    rows = []
    for index, kind in enumerate(kinds):
        opacity = None if alpha is None else alpha[index : index + 1]
        if kind == "transparent" and opacity is not None:
            rows.append(unit_to_model(opacity.expand(-1, 3, -1, -1)))
        else:
            rows.append(_opaque_sketch(colours[index : index + 1], opacity, kind))
    return torch.cat(rows)


def _opaque_sketch(colours: torch.Tensor, alpha: torch.Tensor | None, kind: str) -> torch.Tensor:
    """Colours on paper of their own polarity -> model sketch."""
    if kind == "dark_on_light":
        return invert(unit_to_model(on_white(colours, alpha)))
    return unit_to_model(colours if alpha is None else colours * alpha)


def invert(picture: torch.Tensor) -> torch.Tensor:
    """Swap lines and paper, range -1..1."""
    return -picture


# -- line strength -----------------------------------------------------------------------------------------------------


def line_contrast(sketch: torch.Tensor, amount: float) -> torch.Tensor:
    """Multiply the strength of the lines of a model sketch by `amount`; blank stays blank, full stays full."""
    return sketch if amount == 1 else ((sketch + 1) * amount - 1).clamp(-1, 1)


# -- size --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Frame:
    """Where a drawing lies on the canvas that was sampled, to bring the result back. All in pixels."""

    source_width: int
    source_height: int
    width: int
    """of the canvas"""
    height: int
    fit: str
    left: int
    """of the drawing on the canvas; negative when its sides were cropped off"""
    top: int
    box_width: int
    """of the whole drawing at canvas scale"""
    box_height: int


def frame_for(source_height: int, source_width: int, height: int, width: int, fit: str) -> Frame:
    """Place a drawing on a canvas: "pad" shows all of it, "crop" fills the canvas, "stretch" ignores its proportions.

    Sizes and offsets are rounded down, as in the released code; a side never gets smaller than one pixel.
    """
    if fit not in FITS:
        raise ValueError(f"Fit {fit!r} is unknown; choose one of {', '.join(FITS)}.")
    if min(source_height, source_width, height, width) < 1:
        raise ValueError(f"Sizes must be at least 1 pixel, not {source_width}x{source_height} on {width}x{height}.")
    box_width, box_height = width, height
    if fit != "stretch":
        narrower = width * source_height < height * source_width  # the canvas, compared with the drawing
        if narrower == (fit == "pad"):
            box_height = max(1, source_height * width // source_width)
        else:
            box_width = max(1, source_width * height // source_height)
    return Frame(
        source_width=source_width,
        source_height=source_height,
        width=width,
        height=height,
        fit=fit,
        left=(width - box_width) // 2,
        top=(height - box_height) // 2,
        box_width=box_width,
        box_height=box_height,
    )


def resize(picture: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Bicubic with antialiasing; values may overshoot the range a little, as the released networks see them."""
    if picture.shape[-2:] == (height, width):
        return picture
    return F.interpolate(picture, (height, width), mode="bicubic", align_corners=False, antialias=True)


def reduced(picture: torch.Tensor, longest: int) -> torch.Tensor:
    """The picture (B, C, H, W) with its longer side at most `longest` pixels."""
    height, width = picture.shape[-2:]
    if max(height, width) <= longest:
        return picture
    scale = longest / max(height, width)
    return resize(picture, max(1, round(height * scale)), max(1, round(width * scale)))


def place(
    sketch: torch.Tensor,
    height: int,
    width: int,
    fit: str = "pad",
    blank: float = BLANK,
    source: tuple[int, int] | None = None,
) -> tuple[torch.Tensor, Frame]:
    """Model sketch of any size -> canvas (B, C, height, width) with the sketch on it, and its frame.

    source: (height, width) of the drawing in the artist's file, when `sketch` is a reduced copy of it.
    """
    source_height, source_width = source or sides_of(sketch)
    frame = frame_for(source_height, source_width, height, width, fit)
    if fit == "crop":  # cut before resizing: a very long strip would become far too large
        return resize(_cut_for_crop(sketch, frame), height, width), frame
    resized = resize(sketch, frame.box_height, frame.box_width)
    if resized.shape[-2:] == (height, width):
        return resized, frame
    canvas = sketch.new_full((*sketch.shape[:2], height, width), blank)
    canvas[:, :, frame.top : frame.top + frame.box_height, frame.left : frame.left + frame.box_width] = resized
    return canvas, frame


def _cut_for_crop(sketch: torch.Tensor, frame: Frame) -> torch.Tensor:
    height, width = sketch.shape[-2:]
    down, across = height / frame.source_height, width / frame.source_width
    x0, y0, x1, y1 = visible_part(frame)
    left, top = min(width - 1, round(x0 * across)), min(height - 1, round(y0 * down))
    return sketch[:, :, top : max(top + 1, round(y1 * down)), left : max(left + 1, round(x1 * across))]


def visible_part(frame: Frame) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of the part of the source that the canvas shows, in source pixels."""
    if frame.fit != "crop":
        return 0, 0, frame.source_width, frame.source_height
    sides = []
    for size, canvas, box, offset in (
        (frame.source_width, frame.width, frame.box_width, frame.left),
        (frame.source_height, frame.height, frame.box_height, frame.top),
    ):
        scale = size / box
        first = min(size - 1, max(0, round(-offset * scale)))
        length = max(1, min(size - first, round(canvas * scale)))
        sides.append((first, first + length))
    (x0, x1), (y0, y1) = sides
    return x0, y0, x1, y1


def restore(picture: torch.Tensor, frame: Frame) -> torch.Tensor:
    """Result (B, C, h, w) in 0..1 -> (B, C, source_height, source_width): padding off, back to the drawing's size.

    The result may be a multiple of the canvas (after an upscaler or a hires pass), with the same proportions but for
    the 8 pixels to which a latent rounds. What a crop cut off is white.
    """
    height, width = picture.shape[-2:]
    across, down = width / frame.width, height / frame.height
    sizes = (height, width), (frame.height, frame.width)
    if not (math.isclose(across, down, rel_tol=0.02) or agree_but_for_scale(*sizes, PIXELS_PER_LATENT)):
        raise ValueError(
            f"The picture is {width}x{height}, the frame was made for {frame.width}x{frame.height}: the proportions "
            "differ. Connect the frame of the Prepare Sketch node whose LATENT was sampled."
        )
    if frame.fit == "crop":
        x0, y0, x1, y1 = visible_part(frame)
        canvas = picture.new_ones(*picture.shape[:2], frame.source_height, frame.source_width)
        canvas[:, :, y0:y1, x0:x1] = resize(picture, y1 - y0, x1 - x0).clamp(0, 1)
        return canvas
    left, top = round(frame.left * across), round(frame.top * down)
    right = min(width, max(left + 1, round((frame.left + frame.box_width) * across)))
    bottom = min(height, max(top + 1, round((frame.top + frame.box_height) * down)))
    return resize(picture[:, :, top:bottom, left:right], frame.source_height, frame.source_width).clamp(0, 1)
