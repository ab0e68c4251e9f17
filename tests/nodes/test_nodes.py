"""The nodes as a graph calls them: defaults, outputs, messages."""

from types import SimpleNamespace

import pytest
import torch

from tests import tiny


@pytest.fixture
def prepare(pack):
    def run(image, **kwargs):
        return pack.run("ColorizePrepareSketch", image=image, **({"width": 128, "height": 128} | kwargs))

    return run


def test_prepare_sketch_outputs(prepare):
    sketch, latent, frame = prepare(tiny.drawing(90, 70, batch=2))
    assert sketch.shape == (2, 128, 128, 3) and sketch.min() >= 0 and sketch.max() <= 1
    assert latent["samples"].shape == (2, 4, 16, 16) and not latent["samples"].any()
    assert (frame.source_width, frame.source_height, frame.box_height) == (70, 90, 128)
    assert sketch.mean() < 0.5  # white lines on black


@pytest.mark.parametrize("fit", ["pad", "crop", "stretch"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_prepare_sketch_takes_every_picture(prepare, fit, channels):
    for size in ((1, 1), (1, 200), (77, 33)):
        image = torch.rand(1, *size, channels)
        assert prepare(image, fit=fit)[0].shape == (1, 128, 128, 3)


@pytest.mark.parametrize(("width", "height"), [(100, 128), (128, 65)])
def test_prepare_sketch_size(prepare, width, height):
    with pytest.raises(ValueError, match=rf"divisible by 64, not {width}x{height}. The nearest is 128x(128|64)"):
        prepare(tiny.drawing(), width=width, height=height)


def test_the_canvas_follows_the_drawing(prepare, pack):
    """In API prompts only when asked for, so that those of before stay; latent, frame and mask placement go along."""
    wide = tiny.drawing(90, 160)
    assert prepare(wide, width=256, height=256)[0].shape == (1, 256, 256, 3)
    sketch, latent, frame = prepare(wide, width=256, height=256, size="follow the drawing")
    assert sketch.shape == (1, 192, 320, 3) and latent["samples"].shape == (1, 4, 24, 40)
    assert (frame.width, frame.height) == (320, 192) and frame.box_width * frame.box_height > 0.9 * 320 * 192
    picture = pack.run("ColorizeRestoreSize", image=sketch, frame=frame)[0]
    assert picture.shape == wide.shape


def test_preflight_takes_the_frame_and_a_second_pass(pack, prepare):
    tall = tiny.drawing(600, 150)
    frame = prepare(tall, width=256, height=256, size="follow the drawing")[2]
    square, followed = (
        pack.run("ColorizePreflight", sketch=tall, width=256, height=256, **more)[0] for more in ({}, {"frame": frame})
    )
    assert 'Set size of Prepare Sketch to "follow the drawing": 128x512' in square and "blank margin" not in followed


def test_preflight_reads_the_tiles_of_a_model(pack):
    """As Tiled Diffusion leaves them in the options of its MODEL; another wrapper is none."""
    tile = pack.module("nodes.preflight")._tile_size
    wrapper = SimpleNamespace(width=512, height=384)
    options = {"tiled_diffusion": True, "model_function_wrapper": wrapper}
    assert tile(SimpleNamespace(model_options=options)) == (512, 384)
    assert tile(SimpleNamespace(model_options={"model_function_wrapper": wrapper})) is None
    assert tile(SimpleNamespace(model_options={"tiled_diffusion": True})) is None and tile(None) is None


def test_prepare_sketch_options(prepare):
    faint = tiny.drawing() * 0.3 + 0.7
    plain, strong = prepare(faint)[0], prepare(faint, line_contrast=3.0)[0]
    assert strong.max() > 2.5 * plain.max()
    shade = torch.linspace(0.55, 1, 128).view(1, -1, 1, 1)
    lines = torch.ones(1, 128, 128, 3)
    lines[:, :, 60:63] = 0
    clean = prepare(lines * shade, clean_paper=True)[0]
    assert clean[:, :, :40].max() < 0.02 and clean[:, :, 61].mean() > 0.3
    # An all-black line layer on nothing, and its MASK.
    mask = 1 - (1 - tiny.drawing()[..., 0])
    assert torch.equal(prepare(torch.zeros(1, 128, 128, 3), mask=mask)[0], prepare(tiny.drawing())[0])


def test_clean_paper_of_a_large_scan(prepare):
    lines = torch.ones(1, 3000, 600, 3)
    lines[:, :, 290:310] = 0.2
    sketch, _, frame = prepare(lines, clean_paper=True)
    assert (frame.source_width, frame.source_height) == (600, 3000)
    assert sketch.amax() > 0.1 and sketch[:, :, :40].max() < 0.02


def test_dark_drawing_forced(prepare):
    mostly_black = torch.zeros(1, 128, 128, 3)
    mostly_black[:, :20] = 1
    assert prepare(mostly_black)[0][:, :20].min() > 0.9
    assert prepare(mostly_black, polarity="dark_on_light")[0][:, :20].max() < 0.1


def test_restore_size(pack, prepare):
    image = tiny.drawing(90, 70)
    _, _, frame = prepare(image)
    result = torch.rand(1, 128, 128, 3)
    plain, colours, empty = pack.run("ColorizeRestoreSize", image=result, frame=frame)
    assert torch.equal(plain, colours) and empty.shape == (1, 90, 70, 4) and not empty[..., 3].any()
    lined, colours, layer = pack.run("ColorizeRestoreSize", image=result, frame=frame, lines=image)
    assert colours.shape == plain.shape and layer.shape == (1, 90, 70, 4)
    multiplied = colours * (1 - layer[..., 3:] * (1 - layer[..., :3]))
    assert torch.allclose(multiplied, lined, atol=1 / 255)
    none = pack.run("ColorizeRestoreSize", image=result, frame=frame, lines=image, line_opacity=0.0)[0]
    assert plain.shape == lined.shape == (1, 90, 70, 3)
    assert lined[image < 0.5].eq(0).all() and torch.equal(lined[image > 0.5], colours[image > 0.5])
    assert torch.equal(none, plain)
    enlarged = pack.run("ColorizeRestoreSize", image=torch.rand(3, 256, 256, 4), frame=frame, lines=image)[0]
    assert enlarged.shape == (3, 90, 70, 3)
    layer = torch.zeros(1, 90, 70, 3)
    masked = pack.run("ColorizeRestoreSize", image=result, frame=frame, lines=layer, lines_mask=image[..., 0])[0]
    assert torch.allclose(masked, lined, atol=1e-6)


def test_restore_size_messages(pack, prepare):
    _, _, frame = prepare(tiny.drawing(90, 70))
    result = torch.rand(1, 128, 128, 3)
    with pytest.raises(ValueError, match="lines are 64x64 pixels, the picture 70x90"):
        pack.run("ColorizeRestoreSize", image=result, frame=frame, lines=tiny.drawing(64, 64))
    with pytest.raises(ValueError, match="picture is 128x64, the frame was made for 128x128"):
        pack.run("ColorizeRestoreSize", image=torch.rand(1, 64, 128, 3), frame=frame)
    with pytest.raises(ValueError, match="lines has the shape"):
        pack.run("ColorizeRestoreSize", image=result, frame=frame, lines=torch.rand(90, 70, 3))


def test_bad_pictures_are_named(pack, prepare):
    with pytest.raises(ValueError, match="sketch has the shape"):
        prepare(torch.rand(4, 4, 3))
    with pytest.raises(ValueError, match="reference is empty"):
        pack.run("ColorizeEncodeReference", encoder=object(), image=torch.rand(0, 4, 4, 3))


def test_missing_files_are_named(pack):
    for node, name in (("ColorizeLoadCheckpoint", "ckpt_name"), ("ColorizeLoadReferenceEncoder", "encoder_name")):
        with pytest.raises(FileNotFoundError, match="nothing.safetensors"):
            pack.run(node, **{name: "nothing.safetensors"})
        with pytest.raises(Exception, match="outside|passwd"):
            pack.run(node, **{name: "../../../../../../../../etc/passwd"})
