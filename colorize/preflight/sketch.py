"""Findings on the drawings and on the size they are sampled at."""

from __future__ import annotations

from ..pictures.canvas import STEP, following, nearest_side
from ..pictures.line_measures import FLAT, Lines, measure_lines
from .finding import (
    COLOURED,
    FAINT,
    GREY_PAPER,
    MARGINS,
    SCREENED,
    SECOND_PASS,
    SHADES,
    SOLID,
    THICK,
    THIN,
    TRAINED_SIDE,
    UNSURE,
    Finding,
    Inputs,
    broken_values,
)

POLARITY_WORDS = {
    "dark_on_light": "dark lines on light paper",
    "light_on_dark": "light lines on dark paper",
    "transparent": "a transparent line layer",
}


def sketch_findings(inputs: Inputs) -> list[Finding]:
    """Findings on the drawings and on the size they are sampled at."""
    found = _size_findings(inputs)
    if inputs.sketch is None:
        return found
    try:
        measured = measure_lines(inputs.sketch, inputs.sketch_mask)
    except ValueError as error:
        return [*found, Finding("problem", "sketch", str(error))]
    found += broken_values(inputs.sketch, "sketch", "The sketch")
    height, width = inputs.sketch.shape[1:3]
    scale = _scale_to_canvas(height, width, inputs)
    for number, lines in enumerate(measured, start=1):
        name = "The sketch" if len(measured) == 1 else f"Sketch {number}"
        found += _drawing_findings(name, lines, scale, inputs.sketch_mask is not None)
    if scale is not None:
        found += _placement_findings(height, width, scale, inputs)
    return found


def _drawing_findings(name: str, lines: Lines, scale: float | None, has_mask: bool) -> list[Finding]:
    if lines.spread < FLAT:
        connected = "" if has_mask else " Without MASK a transparent drawing looks like this."
        return [
            Finding(
                "problem",
                "sketch",
                f"{name} is one flat tone: there are no lines.{connected}",
                "Look at the file. For transparent PNGs connect the MASK output of Load Image to Prepare Sketch too.",
            )
        ]
    found = [
        Finding("fine", "sketch", f"{name} is read as {POLARITY_WORDS[lines.polarity]}."),
        *_tone_findings(name, lines),
        *_line_findings(name, lines),
    ]
    if scale is not None and lines.width > 0:
        found += _width_findings(name, lines.width, scale)
    return found


def _tone_findings(name: str, lines: Lines) -> list[Finding]:
    """Whether paper and lines can be told apart, and whether this is line art at all."""
    found = []
    if lines.polarity != "transparent" and abs(lines.light - 0.5) < UNSURE:
        found.append(
            Finding(
                "warning",
                "sketch",
                f"{name} is {lines.light:.0%} light: paper and lines cannot be told apart safely.",
                "Choose polarity by hand in Prepare Sketch and look at its sketch output.",
            )
        )
    if lines.coloured > COLOURED:
        found.append(
            Finding(
                "warning",
                "sketch",
                f"{name} is coloured ({lines.coloured:.0%} of it): this looks like a picture, not a line drawing.",
                "Put Extract Sketch before Prepare Sketch, or check that sketch and reference are not swapped.",
            )
        )
    elif lines.middle > SHADES:
        found.append(
            Finding(
                "warning",
                "sketch",
                f"{name} has grey shades in {lines.middle:.0%} of it; the models know lines only.",
                "Put Extract Sketch before Prepare Sketch; for photographed paper switch clean_paper on instead.",
            )
        )
    elif lines.paper > GREY_PAPER:
        found.append(
            Finding(
                "warning",
                "sketch",
                f"The paper of {name.lower()} is {lines.paper:.0%} dark instead of blank.",
                "Switch clean_paper on in Prepare Sketch.",
            )
        )
    return found


def _line_findings(name: str, lines: Lines) -> list[Finding]:
    """How strong the lines are, and whether there are black areas."""
    found = []
    if lines.peak < FAINT:
        found.append(
            Finding(
                "warning",
                "sketch",
                f"The darkest lines of {name.lower()} have {lines.peak:.0%} of full strength.",
                f"Set line_contrast of Prepare Sketch to about {min(4.0, 1 / max(lines.peak, 0.25)):.1f}.",
            )
        )
    if lines.screened > SCREENED:
        found.append(
            Finding(
                "warning",
                "sketch",
                f"{lines.screened:.0%} of {name.lower()} is hatching or screentone: the models know lines only, and "
                "colour it in stripes and spots.",
                "Take the drawing before its tones, or hide their layer; else clean them off in a paint program.",
            )
        )
    if lines.solid > SOLID:
        found.append(
            Finding(
                "note",
                "sketch",
                f"{lines.solid:.0%} of {name.lower()} is solid black, which the model reads as line everywhere.",
                "Leave such areas white when the reference is to colour them.",
            )
        )
    return found


def _width_findings(name: str, width: float, scale: float) -> list[Finding]:
    sampled = width * scale
    text = f"The lines of {name.lower()} are about {width:.1f} pixels wide, {sampled:.1f} at the sampled size."
    if sampled < THIN:
        contrast = min(4.0, 1 / max(sampled, 0.25))
        fix = f"Sample larger, or set line_contrast of Prepare Sketch to about {contrast:.1f}: thin lines fade."
        return [Finding("warning", "sketch", text, fix)]
    if sampled > THICK:
        return [
            Finding(
                "warning", "sketch", text, "Sample smaller, or thin the lines: the models were trained on a few pixels."
            )
        ]
    return [Finding("fine", "sketch", text)]


def _scale_to_canvas(height: int, width: int, inputs: Inputs) -> float | None:
    """Pixels of the sampled picture per pixel of the drawing, with fit pad; None for an impossible size."""
    if min(inputs.width, inputs.height, width, height) < 1:
        return None
    return min(inputs.width / width, inputs.height / height)


def _placement_findings(height: int, width: int, scale: float, inputs: Inputs) -> list[Finding]:
    found = []
    margin = 1 - min(1.0, scale * scale * width * height / (inputs.width * inputs.height))
    if margin > MARGINS:
        better = "x".join(str(side) for side in following(height, width, inputs.width * inputs.height))
        found.append(
            Finding(
                "note",
                "sketch",
                f"A drawing of {width}x{height} fills {1 - margin:.0%} of {inputs.width}x{inputs.height}; the rest is "
                "blank margin.",
                f'Set size of Prepare Sketch to "follow the drawing": {better}, its proportions.',
            )
        )
    if scale > 2:
        found.append(
            Finding(
                "note",
                "sketch",
                f"The drawing has only {width}x{height} pixels and is enlarged {scale:.1f} times.",
                "Use a larger scan, or enlarge it with an upscale model first.",
            )
        )
    return found


def _size_findings(inputs: Inputs) -> list[Finding]:
    if inputs.sketch is None and inputs.colorizer is None:
        return []
    if inputs.width % STEP or inputs.height % STEP:
        nearest = "x".join(str(nearest_side(side)) for side in (inputs.width, inputs.height))
        text = f"The size {inputs.width}x{inputs.height} is not divisible by {STEP}."
        return [Finding("problem", "sketch", text, f"Use {nearest}.")]
    if inputs.colorizer is None:
        return []
    family = inputs.colorizer.family
    best, largest = TRAINED_SIDE["small" if family.is_small else "xl" if family.is_xl else "official"]
    passes = [(_against_trained, (inputs.width, inputs.height))]
    if inputs.second_pass is not None:
        passes.append((_second_pass_findings, inputs.second_pass))
    tiles: list[Finding] = []
    if inputs.tile is not None:  # of the last pass, the large one
        whole = passes[-1][1]
        tile = min(whole[0], inputs.tile[0]), min(whole[1], inputs.tile[1])
        if tile != whole:  # which is then not sampled at once
            passes.pop()
            tiles = _tile_findings(tile, whole, best, largest)
    return [finding for judge, size in passes for finding in judge(size, best, largest)] + tiles


def _against_trained(size: tuple[int, int], best: int, largest: int) -> list[Finding]:
    """The first pass, which places figures and colours."""
    area, words = size[0] * size[1], f"{size[0]}x{size[1]}"
    if area > largest**2 * 1.1:
        fix = f"Sample at about {best}x{best} and enlarge the result, or sample its latent again at the large size."
        text = f"{words} is far above the size of this model ({best}, at most {largest}): figures and colours repeat."
        return [Finding("warning", "sketch", text, fix)]
    if area < best**2 * 0.4:
        text = f"{words} is far below the size this model was trained at ({best}x{best})."
        return [Finding("warning", "sketch", text, f"Sample at about {best}x{best}.")]
    return []


def _tile_findings(tile: tuple[int, int], whole: tuple[int, int], best: int, largest: int) -> list[Finding]:
    """A picture that is sampled in tiles: the tile is what the model sees at once, and all that it knows of."""
    words = f"tiles of {tile[0]}x{tile[1]}"
    if tile[0] * tile[1] > largest**2 * 1.1:
        text = (
            f"The model is sampled in {words}, above its own size ({best}, at most {largest}): figures and colours "
            "repeat in every tile."
        )
        return [Finding("warning", "sketch", text, f"Set the tiles' width and height to about {best}.")]
    text = f"The model is sampled in {words} of {whole[0]}x{whole[1]}: each knows its own part of the drawing only."
    fix = f"If colours change from tile to tile, sample at about {best}x{best} first, then its result at this size."
    return [Finding("note", "sketch", text, fix)]


def _second_pass_findings(size: tuple[int, int], best: int, largest: int) -> list[Finding]:
    """A second pass, or one tile of it: it may be larger, because the colours are placed already."""
    if size[0] * size[1] <= (SECOND_PASS * largest) ** 2:
        return []
    text = (
        f"The second pass samples {size[0]}x{size[1]} at once, far above what this model knows ({best}, at most "
        f"{largest}): textures repeat, and memory grows with it."
    )
    fix = f"Lower denoise to 0.4 or less, or sample in tiles of about {largest}x{largest} and enlarge by a model."
    return [Finding("warning", "sketch", text, fix)]
