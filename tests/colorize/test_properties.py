"""Whatever a person connects: any size, 1, 3 or 4 channels, any count, flat, broken or disagreeing pictures and masks.

Each property is a promise for all inputs: an answer of the right shape and range, or a ValueError that says what is
wrong. Hypothesis chooses the inputs, always the same ones; what it finds gets a test of its own beside the code.
"""

from __future__ import annotations

import math

import pytest
import torch

pytest.importorskip("hypothesis", reason="the property tests need hypothesis: pip install hypothesis")

from hypothesis import HealthCheck, example, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from colorize.pictures import (  # noqa: E402
    artist_lines,
    blur,
    figure_masks,  # noqa: E402
    images,
    isnet,
    mask_edits,
    masks,
)
from colorize.pictures.line_measures import measure_lines  # noqa: E402
from colorize.pictures.sides import agree_but_for_scale  # noqa: E402
from colorize.preflight import examine as preflight  # noqa: E402
from colorize.preflight import preview as preflight_preview
from colorize.reference import fitting, vision, wd_tagger  # noqa: E402
from colorize.sketch import extractors  # noqa: E402
from colorize.sketch.extractors import lineart, working, xdog  # noqa: E402
from tests import tiny_extractors  # noqa: E402

PIXELS = 40_000  # of one picture; a side may be 2048 all the same
LONGEST = 2048
SLACK = 1e-5


def promise(examples: int):
    """Settings of a property: the same examples on every machine, and no limit for a single one."""
    return settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
    )


# -- what may be connected ---------------------------------------------------------------------------------------------


@st.composite
def sizes(draw, pixels: int = PIXELS) -> tuple[int, int]:
    """(height, width): mostly small, sometimes a strip of any length up to 2048."""
    small = st.integers(1, 40)
    if draw(st.booleans()):
        return draw(small), draw(small)
    long = draw(st.integers(1, LONGEST))
    short = draw(st.integers(1, max(1, min(LONGEST, pixels // long))))
    return draw(st.permutations([long, short]).map(tuple))


CONTENTS = ("noise", "lines", "black", "white", "grey", "one pixel", "NaN", "some NaN", "infinite", "out of range")


def fill(shape: tuple[int, ...], content: str, seed: int = 0) -> torch.Tensor:
    """A tensor of this shape, in 0..1 where the content does not say otherwise."""
    noise = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    if content == "lines":
        return (noise > 0.1).float()
    if content == "one pixel":
        flat = torch.ones(shape)
        flat.view(-1)[seed % flat.numel()] = 0
        return flat
    if content == "some NaN":
        return torch.where(noise > 0.8, math.nan, noise)
    if content == "out of range":
        return noise * 5 - 2
    constants = {"black": 0.0, "white": 1.0, "grey": 0.3, "NaN": math.nan, "infinite": math.inf}
    return noise if content == "noise" else torch.full(shape, constants[content])


@st.composite
def pictures(draw, pixels: int = PIXELS, most: int = 3) -> torch.Tensor:
    """Comfy pictures (B, H, W, 1 | 3 | 4)."""
    height, width = draw(sizes(pixels))
    count = draw(st.integers(1, most if height * width < 2000 else 1))
    channels = draw(st.sampled_from((1, 3, 4)))
    return fill((count, height, width, channels), draw(st.sampled_from(CONTENTS)), draw(st.integers(0, 9)))


@st.composite
def mask_for(draw, image: torch.Tensor | None, broken: bool = True) -> torch.Tensor | None:
    """No mask, one of the picture's size and count, or one of any other."""
    if draw(st.integers(0, 3)) == 0:
        return None
    contents = [name for name in CONTENTS if broken or name in ("noise", "lines", "black", "white", "grey")]
    content = draw(st.sampled_from(contents))
    if image is not None and draw(st.booleans()):
        return fill(tuple(image.shape[:3]), content)
    return fill((draw(st.integers(1, 3)), *draw(sizes(2000))), content)


PAIRS = pictures().flatmap(lambda image: st.tuples(st.just(image), mask_for(image)))
CANVAS = st.integers(1, 5).map(lambda steps: 64 * steps)


def fits_together(image: torch.Tensor, mask: torch.Tensor | None) -> bool:
    """Whether a transparency mask may be connected to a picture: an all-zero one always, others at any scale of it
    (of one pixel nearly all are)."""
    if mask is None or not bool(mask.any()):
        return True
    return agree_but_for_scale(mask.shape[1:], image.shape[1:3]) and mask.shape[0] in (1, image.shape[0])


def within(values: torch.Tensor, low: float, high: float) -> bool:
    """Whether all values lie in the range, NaN excluded."""
    return bool(((values >= low - SLACK) & (values <= high + SLACK)).all())


# -- Prepare Sketch, Restore Size --------------------------------------------------------------------------------------


@promise(60)
@given(PAIRS, st.sampled_from(images.POLARITIES))
@example((torch.full((1, 1, 1, 1), 0.5), torch.tensor([[[0.5, 0.8]]])), "auto")  # one pixel is 1 x 2 at another scale
def test_sketches_of_anything(pair, polarity):
    image, mask = pair
    if not fits_together(image, mask):
        with pytest.raises(ValueError, match="Connect"):
            images.comfy_image_to_sketch(image, mask, polarity)
        return
    if polarity == "transparent" and images.rgb_and_alpha(image, mask)[1] is None:
        with pytest.raises(ValueError, match="no transparent pixels"):
            images.comfy_image_to_sketch(image, mask, polarity)
        return
    sketch = images.comfy_image_to_sketch(image, mask, polarity)
    assert sketch.shape == (image.shape[0], 3, *image.shape[1:3])
    assert within(sketch, -1, 1)
    lines = artist_lines.line_layer(image, mask, polarity)
    assert lines.shape == sketch.shape and within(lines, 0, 1)


@promise(40)
@given(pictures(), CANVAS, CANVAS, st.sampled_from(images.FITS), st.booleans())
def test_the_canvas_and_back(image, height, width, fit, clean):
    sketch = images.comfy_image_to_sketch(image)
    source = sketch.shape[-2:]
    if clean:
        sketch = lineart.standard(images.invert(images.reduced(sketch, 512))).expand(-1, 3, -1, -1)
    canvas, frame = images.place(sketch, height, width, fit, source=source)
    assert canvas.shape == (image.shape[0], 3, height, width) and torch.isfinite(canvas).all()
    assert within(images.line_contrast(canvas, 2.0), -1.7, 1.7)  # bicubic overshoots
    result = torch.rand(image.shape[0], 3, height // 2, width // 2)
    restored = images.restore(result, frame)
    assert restored.shape == (image.shape[0], 3, *source) and within(restored, 0, 1)
    assert within(artist_lines.overlay_lines(restored, artist_lines.line_layer(image)), 0, 1)


@pytest.mark.parametrize("size", [(1, LONGEST), (LONGEST, 1), (LONGEST, 300)])
def test_the_largest_sizes(size):
    """Larger than the properties above choose, for speed."""
    image = fill((1, *size, 3), "lines")
    sketch = images.comfy_image_to_sketch(image)
    canvas, frame = images.place(sketch, 128, 192)
    assert within(images.restore((canvas.clamp(-1, 1) + 1) / 2, frame), 0, 1)
    assert within(lineart.standard(images.comfy_image_to_model(image)), -1, 1)
    edits = mask_edits.MaskEdits(largest=1, fill_holes=1.0, grow=-2, feather=3)
    assert within(mask_edits.edit(image[..., 0], edits), 0, 1)


# -- drawings without networks -----------------------------------------------------------------------------------------


@promise(40)
@given(PAIRS, st.floats(0.5, 100), st.floats(0, 255), st.sampled_from((0, 16, 64)))
def test_standard_line_art(pair, sigma, threshold, side):
    image, mask = pair
    if not fits_together(image, mask):
        mask = None
    picture = images.comfy_image_to_model(image, mask)
    size = working.working_size(*picture.shape[-2:], side) if side else picture.shape[-2:]
    sketch = working.at_size(lambda small: lineart.standard(small, sigma, threshold), picture, size)
    assert sketch.shape == (image.shape[0], 1, *image.shape[1:3])
    assert within(sketch, -1, 1) if not side else torch.isfinite(sketch).all()
    for row, drawing in zip(picture, sketch):
        if row.amax() == row.amin():
            assert within(drawing, -1, -1)  # a flat picture has no lines


@promise(40)
@given(
    PAIRS,
    st.builds(
        xdog.XDoG,
        sigma=st.floats(0.1, 20),
        k=st.floats(1.05, 20),
        p=st.floats(0, 200),
        epsilon=st.floats(-1, 1),
        phi=st.floats(0.1, 1e9),
        variant=st.sampled_from(xdog.VARIANTS),
    ),
)
def test_xdog(pair, parameters):
    image, mask = pair
    picture = images.comfy_image_to_model(image, mask if fits_together(image, mask) else None)
    sketch = xdog.xdog(picture, parameters)
    assert sketch.shape == (image.shape[0], 1, *image.shape[1:3]) and within(sketch, -1, 1)


@promise(25)
@given(pictures(), st.floats(0.1, 100))
def test_blurs_keep_the_range(image, sigma):
    picture = images.comfy_image_to_model(image)
    assert within(blur.gaussian(picture, sigma), -1, 1)
    assert within(blur.gaussian_of_levels(blur.levels(picture), min(sigma, 20)), 0, 255)


@promise(16)
@given(
    pictures(pixels=4000, most=2), st.sampled_from(tiny_extractors.NAMES), st.sampled_from(xdog.VARIANTS),
    st.integers(1, 96),
)  # fmt: skip
def test_extraction_by_networks(image, name, variant, side):
    network = extractors.load_network(tiny_extractors.weights(name))
    with torch.no_grad():
        sketch = working.extract(network, images.comfy_image_to_model(image), side, variant)
    assert sketch.shape == (image.shape[0], 1, *image.shape[1:3]) and torch.isfinite(sketch).all()


# -- masks -------------------------------------------------------------------------------------------------------------


EDITS = st.builds(
    mask_edits.MaskEdits,
    threshold=st.floats(0, 1),
    edges=st.sampled_from(mask_edits.EDGES),
    largest=st.integers(0, 4),
    fill_holes=st.floats(0, 100),
    grow=st.integers(-3000, 3000),
    feather=st.integers(0, 400),
)


@promise(60)
@given(mask_for(None), EDITS)
def test_mask_edits(mask, edits):
    if mask is None or not torch.isfinite(mask).all():
        with pytest.raises(ValueError, match="expected masks|NaN or infinite"):
            figure_masks.check_mask(mask)
        return
    mask = figure_masks.check_mask(mask)
    edited = mask_edits.edit(mask, edits)
    assert edited.shape == mask.shape and within(edited, 0, 1)
    if edits.edges == "hard" and not edits.feather:
        assert set(edited.unique().tolist()) <= {0.0, 1.0}


@promise(30)
@given(
    pictures(pixels=20_000), mask_for(None, broken=False), st.floats(0, 1), CANVAS, CANVAS,
    st.sampled_from(images.FITS),
)  # fmt: skip
def test_masks_and_pictures_of_other_sizes(image, mask, threshold, height, width, fit):
    mask = figure_masks.check_mask(fill((1, 3, 5), "noise") if mask is None else mask)
    picture = images.comfy_image_to_model(image)
    if mask.shape[0] not in (1, image.shape[0]):
        with pytest.raises(ValueError, match="Connect one mask for all"):
            figure_masks.without_figure(picture, mask, threshold)
        return
    background = figure_masks.without_figure(picture, mask, threshold)
    assert background.shape == picture.shape and within(background, -1, 1)
    _, frame = images.place(picture, height, width, fit)
    placed = figure_masks.on_canvas(mask, frame)
    assert placed.shape == (mask.shape[0], height, width) and within(placed, 0, 1)
    assert masks.cut_and_resize(mask[:, None], height, width).shape == (mask.shape[0], 1, height, width)
    for variant in masks.VARIANTS:
        assert masks.grow_to_grid(mask[:, None], variant=variant).shape == mask[:, None].shape


def dark(square: torch.Tensor) -> torch.Tensor:
    """A stand-in for a segmentation network: what is dark is figure."""
    return (square.mean(dim=1, keepdim=True) < 0.5).float()


ROUTES = {
    "pictures": lambda picture, size: isnet.character_mask(dark, picture, size),
    "pictures (released)": lambda picture, size: masks.figure_mask(dark, picture, size),
    "drawings": lambda picture, size: masks.sketch_figure_mask(dark, picture, *picture.shape[-2:], size),
    "RMBG": lambda picture, size: isnet.salient_mask(dark, picture, size),
}


@promise(60)
@given(pictures(), st.sampled_from(sorted(ROUTES)), st.sampled_from((32, 64, 100)))
def test_ways_to_and_from_a_segmentation_network(image, route, size):
    picture = images.comfy_image_to_model(image)
    figure = ROUTES[route](picture, size)
    assert figure.shape == (image.shape[0], 1, *image.shape[1:3]) and within(figure, 0, 1)


# -- encoders ----------------------------------------------------------------------------------------------------------


@promise(50)
@given(pictures(), st.sampled_from(sorted(wd_tagger.PREPARATIONS)), st.sampled_from((1, 14, 64)))
def test_pictures_for_a_tagger(image, preparation, size):
    colours = images.on_white(*images.rgb_and_alpha(image))
    pixels = wd_tagger.prepare(colours, size, preparation)
    assert pixels.shape == (image.shape[0], 3, size, size)
    assert torch.isfinite(pixels).all() if preparation == "xl" else within(pixels, 0, 255)


@promise(40)
@given(pictures(), st.sampled_from(fitting.FIT_MODES), st.sampled_from((14, 64)))
def test_pictures_for_a_reference_encoder(image, fit, size):
    pixels = vision.preprocess(images.comfy_image_to_model(image), size, fit)
    assert pixels.shape == (image.shape[0], 3, size, size) and torch.isfinite(pixels).all()


# -- Preflight ---------------------------------------------------------------------------------------------------------


@promise(30)
@given(PAIRS)
def test_measures_are_shares(pair):
    image, mask = pair
    if not fits_together(image, mask):
        mask = None
    for lines in measure_lines(image, mask):
        shares = (lines.paper, lines.peak, lines.spread, lines.light, lines.coverage, lines.middle, lines.solid)
        assert all(-0.2 <= share <= 1.2 for share in shares)
        assert 0 <= lines.coloured <= 1 and 0 <= lines.width < math.inf


@promise(30)
@given(
    PAIRS, mask_for(None), PAIRS, mask_for(None), CANVAS, CANVAS,
    st.sampled_from(("vanilla", "masked vanilla", "bg2fig", "fig2fig")), st.floats(0, 1),
)  # fmt: skip
def test_preflight_never_fails(sketch, figure, reference, reference_figure, width, height, mode, threshold):
    inputs = preflight.Inputs(
        sketch=sketch[0], sketch_mask=sketch[1], figure_mask=figure,
        reference=reference[0], reference_mask=reference[1], reference_figure_mask=reference_figure,
        width=width, height=height, mode=mode, mask_threshold=threshold,
    )  # fmt: skip
    findings = preflight.examine(inputs)
    assert findings and all(finding.text for finding in findings)
    assert preflight.report(findings).startswith("Preflight: ")
    picture = preflight_preview.preview(inputs, findings)
    assert picture.shape[0] == 1 and picture.shape[-1] == 3 and within(picture, 0, 1)
