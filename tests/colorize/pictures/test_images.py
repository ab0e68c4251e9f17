"""The conversion module: layouts, polarity, size, lines. Pure torch, no ComfyUI."""

import itertools
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from colorize.pictures import artist_lines, blur, images
from colorize.pictures.sides import agree_but_for_scale
from colorize.sketch.extractors import lineart

SKETCH_CASE = Path(__file__).resolve().parents[2] / "golden" / "data" / "sketch_preprocess.safetensors"


def paper(height=24, width=32, batch=1, tone=1.0, line=0.0):
    """Comfy picture with a horizontal and a vertical line."""
    image = torch.full((batch, height, width, 3), tone)
    image[:, height // 2] = line
    image[:, :, width // 3] = line
    return image


# -- pictures in -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_channels(channels):
    colours, alpha = images.rgb_and_alpha(torch.rand(2, 5, 7, channels))
    assert colours.shape == (2, 3, 5, 7)
    assert (alpha is not None) == (channels == 4)


def test_transparent_parts_become_white():
    image = torch.zeros(1, 4, 4, 4)
    image[..., 3] = 0.25
    assert torch.allclose(images.comfy_image_to_model(image), torch.full((1, 3, 4, 4), 0.5))
    mask = torch.full((1, 4, 4), 0.75)
    assert torch.allclose(images.comfy_image_to_model(image[..., :3], mask), torch.full((1, 3, 4, 4), 0.5))
    both = images.rgb_and_alpha(image, mask)[1]
    assert torch.allclose(both, torch.full((1, 1, 4, 4), 0.0625))


def test_load_images_empty_mask_is_no_mask():
    assert images.rgb_and_alpha(torch.rand(1, 200, 100, 3), torch.zeros(1, 64, 64))[1] is None
    assert images.rgb_and_alpha(torch.ones(1, 3, 3, 4))[1] is None


@pytest.mark.parametrize("size, scaled", [((512, 384), (256, 192)), ((101, 67), (50, 33)), ((33, 50), (67, 101))])
def test_a_mask_of_another_scale_is_brought_to_the_picture(size, scaled):
    """IMAGE went through a node that scales it, MASK did not, or the other way round."""
    mask = torch.zeros(1, *size)
    mask[:, : size[0] // 2] = 1
    alpha = images.rgb_and_alpha(torch.rand(1, *scaled, 3), mask)[1]
    assert alpha.shape == (1, 1, *scaled)
    half = scaled[0] // 2
    assert alpha[..., : half - 1, :].max() < 0.05 and alpha[..., half + 2 :, :].min() > 0.95


@pytest.mark.parametrize(
    "first, second, rounding, agree",
    [
        ((80, 336), (64, 256), 8, True),  # 256x64 at 1.3, rounded to cells of the latent
        ((64, 128), (64, 64), 8, False),
        ((512, 512), (256, 300), 1, False),
        ((512, 511), (256, 256), 1, True),
        ((7, 7), (7, 7), 0, True),
    ],
)
def test_sizes_that_agree_but_for_scale(first, second, rounding, agree):
    assert agree_but_for_scale(first, second, rounding) == agree == agree_but_for_scale(second, first, rounding)


def test_a_hires_result_with_rounded_sides_is_restored():
    frame = images.frame_for(64, 256, 64, 256, "pad")
    assert images.restore(torch.rand(1, 3, 80, 336), frame).shape == (1, 3, 64, 256)


def test_one_mask_for_a_batch():
    mask = torch.ones(1, 4, 4)
    assert images.rgb_and_alpha(torch.rand(3, 4, 4, 3), mask)[1].shape == (3, 1, 4, 4)


@pytest.mark.parametrize(
    ("image", "mask", "text"),
    [
        (torch.rand(4, 4, 3), None, r"shape \(4, 4, 3\); expected a picture batch.*Connect an IMAGE"),
        (torch.rand(1, 4, 4, 2), None, "1, 3 or 4 channels"),
        (torch.rand(0, 4, 4, 3), None, "is empty"),
        (torch.rand(1, 0, 4, 3), None, "is empty"),
        (None, None, "expected a picture batch"),
        (torch.rand(1, 4, 8, 3), torch.ones(1, 8, 4), "mask of image is 4x8 pixels, the picture 8x4"),
        (torch.rand(3, 4, 4, 3), torch.ones(2, 4, 4), "3 pictures but 2 masks"),
    ],
)
def test_bad_pictures(image, mask, text):
    with pytest.raises(ValueError, match=text):
        images.rgb_and_alpha(image, mask)


def test_there_and_back():
    image = torch.rand(2, 6, 5, 3)
    assert torch.allclose(images.model_image_to_comfy(images.comfy_image_to_model(image)), image, atol=1e-6)
    assert images.model_image_to_comfy(torch.full((1, 3, 2, 2), 9.0)).max() == 1


def test_not_a_number_becomes_black():
    assert images.comfy_image_to_model(torch.full((1, 2, 2, 3), torch.nan)).eq(-1).all()
    broken_opacity = torch.ones(1, 2, 2, 4)
    broken_opacity[..., 3] = torch.nan
    assert images.comfy_image_to_model(broken_opacity, torch.full((1, 2, 2), torch.nan)).eq(1).all()


# -- polarity ----------------------------------------------------------------------------------------------------------


def detect(image, mask=None):
    return images.detect_polarity(*images.rgb_and_alpha(image, mask))


def test_polarity_of_opaque_drawings():
    assert detect(paper()) == ["dark_on_light"]
    assert detect(paper(tone=0.65, line=0.3)) == ["dark_on_light"]
    assert detect(paper(tone=0.0, line=1.0)) == ["light_on_dark"]
    assert detect(torch.cat([paper(), 1 - paper()])) == ["dark_on_light", "light_on_dark"]
    assert detect(torch.ones(1, 8, 8, 3)) == ["dark_on_light"] and detect(torch.zeros(1, 8, 8, 3)) == ["light_on_dark"]


def test_polarity_of_dim_drawings():
    """What is the paper is measured against the drawing's own tones, not against mid grey."""
    assert detect(paper(tone=0.45, line=0.05)) == ["dark_on_light"]
    assert detect(paper(tone=0.55, line=0.95)) == ["light_on_dark"]


@pytest.mark.parametrize("amount", [0.01, 0.05])
def test_grain_of_an_empty_sheet_is_not_a_drawing(amount):
    grain = amount * torch.randn(1, 64, 64, 1, generator=torch.Generator().manual_seed(0))
    for tone, expected in ((0.8, "dark_on_light"), (0.98, "dark_on_light"), (0.2, "light_on_dark")):
        assert detect((tone + grain).clamp(0, 1)) == [expected]


def test_share_of_light_of_large_pictures():
    """More pixels than a float32 can count one by one."""
    assert images.light_share(torch.ones(1, 1, 4100, 4100)) == 1


def line_layer_png(ink):
    """RGBA as drawing programs write it: ink on nothing."""
    image = torch.zeros(1, 24, 32, 4)
    image[..., :3] = torch.tensor(ink)
    image[..., 3] = 1 - paper()[..., 0]
    return image


@pytest.mark.parametrize("ink", [(0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (0.9, 0.1, 0.1)])
def test_polarity_of_line_layers(ink):
    image = line_layer_png(ink)
    assert detect(image) == ["transparent"]
    assert detect(image[..., :3], 1 - image[..., 3]) == ["transparent"]
    sketch = images.comfy_image_to_sketch(image)
    assert torch.equal(sketch[:, 0] > 0, paper()[..., 0] < 0.5) and sketch.min() == -1 and sketch.max() == 1


def test_cut_out_figure_is_not_a_line_layer():
    """White figure with black lines, transparent around: its lines are the lines, not its outline."""
    image = torch.cat([paper(), torch.zeros(1, 24, 32, 1)], dim=-1)
    image[:, 6:18, 8:26, 3] = 1
    assert detect(image) == ["dark_on_light"]
    assert images.comfy_image_to_sketch(image)[0, 0, 0, 0] == -1


def test_fully_transparent_is_blank():
    assert images.comfy_image_to_sketch(torch.zeros(1, 4, 4, 4)).eq(-1).all()


@pytest.mark.parametrize("polarity", ["auto", "dark_on_light"])
def test_dark_on_light_becomes_white_on_black(polarity):
    sketch = images.comfy_image_to_sketch(paper(), polarity=polarity)
    assert torch.equal(sketch, 1 - 2 * paper().movedim(-1, 1))


def test_every_way_to_draw_it_gives_the_same_sketch():
    drawings = [paper(), 1 - paper(), line_layer_png((0.0, 0.0, 0.0)), paper()[..., :1]]
    first, *others = [images.comfy_image_to_sketch(drawing) for drawing in drawings]
    assert all(torch.equal(first, other) for other in others)


def test_forced_polarity_wins():
    assert torch.equal(images.comfy_image_to_sketch(paper(), polarity="light_on_dark"), 2 * paper().movedim(-1, 1) - 1)
    with pytest.raises(ValueError, match="no transparent pixels.*connect it to mask"):
        images.comfy_image_to_sketch(paper(), polarity="transparent")
    with pytest.raises(ValueError, match="'sideways' is unknown; choose one of auto"):
        images.comfy_image_to_sketch(paper(), polarity="sideways")


# -- line strength -----------------------------------------------------------------------------------------------------


def test_line_contrast():
    sketch = torch.tensor([-1.0, -0.5, 0.0, 1.0]).view(1, 1, 2, 2).expand(-1, 3, -1, -1)
    assert images.line_contrast(sketch, 1) is sketch
    assert images.line_contrast(sketch, 2)[0, 0].flatten().tolist() == [-1, 0, 1, 1]
    assert images.line_contrast(sketch, 0.5)[0, 0].flatten().tolist() == [-1, -0.75, -0.5, 0]


def test_even_paper_removes_shading():
    shade = torch.linspace(0.4, 1.0, 96).view(1, 1, 96, 1)
    drawing = (paper(64, 96) * shade).movedim(-1, 1) * 2 - 1
    sketch = lineart.standard(drawing)
    on_lines = paper(64, 96)[..., 0] < 0.5
    assert sketch[:, 0][on_lines].mean() > 0 and sketch[:, 0][~on_lines].mean() < -0.95
    assert lineart.standard(torch.ones(1, 3, 20, 20)).eq(-1).all()
    assert lineart.standard(torch.ones(1, 3, 1, 1)).eq(-1).all()


def test_blur_keeps_flat_pictures_and_mass():
    flat = torch.full((1, 3, 9, 70), 0.3)
    assert torch.allclose(blur.gaussian(flat, 6.0), flat, atol=1e-6)
    spot = torch.zeros(1, 1, 101, 101)
    spot[..., 50, 50] = 1
    blurred = blur.gaussian(spot, 6.0)
    assert blurred.sum().item() == pytest.approx(1, abs=1e-5)
    assert blurred[0, 0, 50, 50].item() == pytest.approx(1 / (2 * torch.pi * 36), rel=2e-3)


def test_blur_equals_kornia():
    """OpenCV's own numbers are in the golden case; kornia has the same kernel and edges."""
    filters = pytest.importorskip("kornia.filters")
    picture = torch.rand(1, 3, 40, 60) * 255
    for sigma, size in ((3.0, 25), (6.0, 49)):
        expected = filters.gaussian_blur2d(picture, (size, size), (sigma, sigma), border_type="reflect")
        assert (blur.gaussian(picture, sigma) - expected).abs().max() < 1e-3


def test_mirrored_edges():
    assert blur.mirrored(4, 5).tolist() == [1, 2, 3, 2, 1, 0, 1, 2, 3, 2, 1, 0, 1, 2]
    assert blur.mirrored(1, 2).tolist() == [0] * 5


def test_median_is_numpys():
    assert (
        lineart._median(torch.tensor([3.0, 1.0, 2.0])) == 2
        and lineart._median(torch.tensor([4.0, 1.0, 2.0, 3.0])) == 2.5
    )


@pytest.mark.parametrize("mode", ["none", "invert", "invert-webui"])
def test_released_preprocessing(mode):
    """The shipped golden case sketch_preprocess (tests/golden runs it for any folder)."""
    with safe_open(SKETCH_CASE, "pt") as file:
        picture = file.get_tensor("inputs.image_uint8_hwc").movedim(-1, 0)[None].float() / 255 * 2 - 1
        expected = file.get_tensor(f"outputs.sketch.{mode}")
        run = json.loads(file.metadata()["config"])["runs"][f"sketch.{mode}"]
    change = {"none": lambda x: x, "invert": images.invert, "invert-webui": lineart.standard}[mode]
    sketch, frame = images.place(change(picture), *run["target_hw"])
    assert (sketch - expected).abs().max() < 1e-5
    assert [frame.left, frame.top, frame.box_width, frame.box_height] == run["placed_at_left_top_width_height"]


# -- size --------------------------------------------------------------------------------------------------------------

SIZES = [(1, 1), (1, 300), (300, 1), (64, 64), (60, 44), (90, 70), (333, 97), (128, 256)]
CANVASES = [(64, 64), (64, 192), (192, 64), (256, 128)]


@pytest.mark.parametrize("fit", images.FITS)
def test_placing_any_size(fit):
    for (height, width), (canvas_height, canvas_width) in itertools.product(SIZES, CANVASES):
        sketch = torch.rand(2, 3, height, width) * 2 - 1
        placed, frame = images.place(sketch, canvas_height, canvas_width, fit)
        assert placed.shape == (2, 3, canvas_height, canvas_width)
        assert (frame.source_height, frame.source_width) == (height, width)
        if fit == "pad":
            assert frame.box_width <= canvas_width and frame.box_height <= canvas_height
            assert frame.box_width == canvas_width or frame.box_height == canvas_height
            outside = torch.ones(canvas_height, canvas_width, dtype=torch.bool)
            outside[frame.top : frame.top + frame.box_height, frame.left : frame.left + frame.box_width] = False
            assert placed[:, :, outside].eq(images.BLANK).all()
        if fit == "crop":
            assert frame.box_width >= canvas_width and frame.box_height >= canvas_height
            assert frame.left <= 0 and frame.top <= 0


@pytest.mark.parametrize("fit", images.FITS)
def test_restoring_any_size(fit):
    """What was drawn comes back at its place; the result may have been enlarged meanwhile."""
    for (height, width), (canvas_height, canvas_width), scale in itertools.product(SIZES, CANVASES, (1, 2)):
        _, frame = images.place(torch.zeros(1, 3, height, width), canvas_height, canvas_width, fit)
        back = images.restore(torch.rand(1, 3, canvas_height * scale, canvas_width * scale), frame)
        assert back.shape == (1, 3, height, width) and back.min() >= 0 and back.max() <= 1


@pytest.mark.parametrize("fit", ["pad", "stretch"])
def test_restore_is_the_inverse(fit):
    y, x = torch.meshgrid(torch.linspace(0, 1, 90), torch.linspace(0, 1, 70), indexing="ij")
    smooth = torch.stack([y, x, (y + x) / 2])[None]
    placed, frame = images.place(smooth, 256, 256, fit, blank=0.0)
    assert (images.restore(placed, frame) - smooth).abs().max() < 0.02


def test_crop_comes_back_at_its_place():
    y, x = torch.meshgrid(torch.linspace(0, 0.9, 90), torch.linspace(0, 0.9, 180), indexing="ij")
    smooth = torch.stack([y, x, (y + x) / 2])[None]
    placed, frame = images.place(smooth, 128, 128, "crop")
    back = images.restore(placed, frame)
    assert images.visible_part(frame) == (45, 0, 135, 90)
    assert (back[..., 45:135] - smooth[..., 45:135]).abs().max() < 0.02
    assert back[..., :45].eq(1).all() and back[..., 135:].eq(1).all()


@pytest.mark.parametrize("fit", images.FITS)
def test_reduced_copy_of_a_large_drawing(fit):
    """Placing a smaller copy gives the frame of the original and nearly the same picture."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, 900), torch.linspace(-1, 1, 1500), indexing="ij")
    drawing = torch.stack([y, x, (x * 9).sin()])[None]
    small = images.reduced(drawing, 500)
    assert small.shape[-2:] == (300, 500) and images.reduced(small, 500) is small
    expected, frame = images.place(drawing, 128, 192, fit)
    placed, again = images.place(small, 128, 192, fit, source=(900, 1500))
    assert again == frame and (placed - expected).abs().max() < 0.05


def test_same_size_is_untouched():
    sketch = torch.rand(1, 3, 64, 128) * 2 - 1
    placed, frame = images.place(sketch, 64, 128)
    assert torch.equal(placed, sketch) and frame.left == frame.top == 0


def test_wrong_frame_and_sizes():
    frame = images.frame_for(100, 50, 128, 64, "pad")
    with pytest.raises(ValueError, match="picture is 128x128, the frame was made for 64x128.*Prepare Sketch"):
        images.restore(torch.rand(1, 3, 128, 128), frame)
    with pytest.raises(ValueError, match="'zoom' is unknown; choose one of pad, crop, stretch"):
        images.frame_for(10, 10, 64, 64, "zoom")
    with pytest.raises(ValueError, match="at least 1 pixel"):
        images.frame_for(0, 10, 64, 64, "pad")


def test_frame_is_immutable():
    with pytest.raises(AttributeError):
        images.frame_for(10, 10, 64, 64, "pad").left = 3


def test_eight_thousand_pixels():
    """Longer than wide by far, so that the test needs little memory: sizes are what matters."""
    image = paper(8192, 40)
    placed, frame = images.place(images.comfy_image_to_sketch(image), 512, 512)
    assert (frame.box_height, frame.box_width) == (512, 2) and placed.shape == (1, 3, 512, 512)
    assert images.restore(torch.rand(1, 3, 512, 512), frame).shape == (1, 3, 8192, 40)
    assert images.place(images.comfy_image_to_sketch(image), 64, 512, "crop")[0].shape == (1, 3, 64, 512)


# -- the artist's lines ------------------------------------------------------------------------------------------------


def test_overlay_darkens_lines_only():
    result = torch.full((2, 3, 24, 32), 0.8)
    lines = artist_lines.line_layer(paper())
    on_lines = paper()[0, ..., 0] < 0.5
    out = artist_lines.overlay_lines(result, lines)
    assert out[:, :, on_lines].eq(0).all() and torch.allclose(out[:, :, ~on_lines], torch.tensor(0.8))
    assert torch.equal(artist_lines.overlay_lines(result, lines, 0.0), result)
    assert torch.allclose(artist_lines.overlay_lines(result, lines, 0.5)[:, :, on_lines], torch.tensor(0.4))


def test_line_layer_of_every_polarity():
    expected = artist_lines.line_layer(paper())
    for drawing in (1 - paper(), line_layer_png((0.0, 0.0, 0.0)), line_layer_png((1.0, 1.0, 1.0))):
        assert torch.allclose(artist_lines.line_layer(drawing), expected, atol=1e-6)


def test_coloured_lines_keep_their_colour_and_grey_paper_does_not_dim():
    red = artist_lines.line_layer(line_layer_png((0.9, 0.1, 0.1)))
    assert red[0, :, 12, 0].tolist() == pytest.approx([0.9, 0.1, 0.1], abs=1e-3)
    grey = artist_lines.line_layer(paper(tone=0.8, line=0.2))
    assert grey[0, :, 0, 0].tolist() == [1, 1, 1] and grey[0, 0, 12, 0].item() == pytest.approx(0.25)


def test_forced_transparent_without_transparency_lays_nothing():
    assert artist_lines.line_layer(paper(), polarity="transparent").eq(1).all()


def test_line_drawings_are_taken_in_turn():
    """As RepeatLatentBatch orders the pictures: ABAB."""
    lines = torch.stack([torch.zeros(3, 2, 2), torch.ones(3, 2, 2)])
    shown = artist_lines.overlay_lines(torch.full((4, 3, 2, 2), 0.5), lines)
    assert shown.flatten(1).amax(1).tolist() == [0.0, 0.5, 0.0, 0.5]


def test_lines_that_do_not_fit():
    with pytest.raises(ValueError, match="lines are 8x8 pixels, the picture 4x4.*Prepare Sketch"):
        artist_lines.overlay_lines(torch.rand(1, 3, 4, 4), torch.rand(1, 3, 8, 8))
    with pytest.raises(ValueError, match="2 line drawings for 3 pictures"):
        artist_lines.overlay_lines(torch.rand(3, 3, 4, 4), torch.rand(2, 3, 4, 4))
