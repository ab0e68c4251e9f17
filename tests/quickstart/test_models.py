"""Model files from their headers, and the size that follows from model and drawing."""

import io

import pytest

from colorize.sampler_settings import PAPER, SMALL, SamplerSettings
from quickstart_lib import job, models, sizes
from quickstart_lib.errors import QuickstartError
from quickstart_lib.terminal import Status
from tests.quickstart.conftest import ENCODER_TENSORS, V1_TENSORS


def widened(width: int) -> dict:
    """The checkpoint's tensors at another width of the U-Net."""
    changed = ("model.diffusion_model.input_blocks.0.0.weight", "control_encoder.zero_layer.0.weight")
    return {name: [width, *shape[1:]] if name in changed else shape for name, shape in V1_TENSORS.items()}


def test_bundled_files_fit_each_other(root):
    found = models.checkpoint(root / "models/checkpoints/colorize_small.safetensors")
    assert (found.title, found.side) == ("ColorizeDiffusion v1.5", 256)
    models.check_encoder(root / "models/clip_vision/colorize_small_vision.safetensors", found)


def test_size_and_sampler_follow_the_family(tmp_path, write_header):
    small = models.checkpoint(write_header(tmp_path / "a.safetensors", V1_TENSORS))
    assert (small.side, small.sampler) == (256, models.sampler_options(SMALL))
    official = models.checkpoint(write_header(tmp_path / "b.safetensors", widened(320)))
    assert (official.side, official.sampler) == (512, models.sampler_options(PAPER))
    (tmp_path / "b.ckpt").write_bytes(b"")  # nobody reads it before it is loaded
    assert models.checkpoint(tmp_path / "b.ckpt").sampler == models.sampler_options(PAPER)
    own = SamplerSettings("uni_pc", "beta", 6, 2.5)
    file = write_header(tmp_path / "d.safetensors", V1_TENSORS, own.header())
    assert models.checkpoint(file).sampler == models.sampler_options(own)
    assert set(models.sampler_options(own)) < set(job.BINDINGS)
    stated = write_header(tmp_path / "c.safetensors", V1_TENSORS, {"modelspec.resolution": "384x384"})
    assert models.checkpoint(stated).side == 384


def test_a_cut_off_file_is_told_with_both_sizes(tmp_path, write_header):
    file = write_header(tmp_path / "a.safetensors", V1_TENSORS, size=4_000_000)
    file.write_bytes(file.read_bytes()[:2_000_000])
    with pytest.raises(QuickstartError, match="cut off: 2 of 4 MB.*Download it again"):
        models.checkpoint(file)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "no safetensors file"),
        (b"<!DOCTYPE html><html>", "but a web page"),
        (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
        (b"\x05\0\0\0\0\0\0\0[1,2]", "no safetensors file"),
    ],
)
def test_other_files_under_that_name(tmp_path, content, text):
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(QuickstartError, match=text):
        models.checkpoint(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("tensors", "text"),
    [
        ({"lora_unet_x": [1]}, "looks like a LoRA"),
        (
            {"denoise_fn.encoder_block.0.conv1.2.weight": [1], "denoise_fn.bottom_block.1.attention.1.weight": [1]},
            "Anime",
        ),
        (ENCODER_TENSORS, "is not a known|vision encoder"),
    ],
)
def test_a_wrong_kind_of_checkpoint_is_named(tmp_path, write_header, tensors, text):
    with pytest.raises(QuickstartError, match=f"--checkpoint: .*{text}"):
        models.checkpoint(write_header(tmp_path / "a.safetensors", tensors))


def test_xl_is_sent_to_its_template(tmp_path, write_header, monkeypatch):
    class Found:
        name, title = "xl", "ColorizeDiffusion XL"

    monkeypatch.setattr(models.families(), "detect", lambda *_: Found)
    with pytest.raises(QuickstartError, match="template xl in ComfyUI"):
        models.checkpoint(write_header(tmp_path / "a.safetensors", V1_TENSORS))


def test_an_encoder_of_another_width_is_told(tmp_path, write_header):
    wanted = models.checkpoint(write_header(tmp_path / "c.safetensors", V1_TENSORS))
    models.check_encoder(write_header(tmp_path / "e.safetensors", ENCODER_TENSORS), wanted)
    other = {"vision_model.embeddings.patch_embedding.weight": [1, 3, 2, 2], "visual_projection.weight": [1024, 1280]}
    with pytest.raises(QuickstartError, match="width 1024; .* reads 128"):
        models.check_encoder(write_header(tmp_path / "f.safetensors", other), wanted)
    with pytest.raises(QuickstartError, match="no vision encoder"):
        models.check_encoder(write_header(tmp_path / "g.safetensors", {"x": [1]}), wanted)


@pytest.mark.parametrize(
    ("drawing", "side", "width", "height", "expected"),
    [
        ((768, 768), 256, None, None, (256, 256)),
        (None, 512, None, None, (512, 512)),
        ((1600, 900), 512, None, None, (704, 384)),
        ((900, 1600), 256, None, None, (192, 320)),
        ((1600, 800), 256, 512, None, (512, 256)),  # one side gives the other by the drawing
        ((1600, 800), 256, None, 512, (1024, 512)),
        ((1600, 800), 256, 128, 128, (128, 128)),
        ((100000, 10), 256, None, None, (512, 128)),
    ],
)
def test_the_working_size_follows_the_drawing(drawing, side, width, height, expected):
    assert sizes.working_size(drawing, side, width, height) == expected


def test_absurd_sizes_are_told_and_impossible_ones_refused(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sizes, "memory", lambda: 64 * 10**9)
    sizes.check(512, 512, 256, 10**7, 20, Status(stream))
    assert stream.getvalue() == ""
    sizes.check(4096, 4096, 256, 10**7, 20, Status(stream))
    assert "256 times as long as at 256 x 256" in stream.getvalue() and "21.1 GB of memory" in stream.getvalue()
    assert "on two CPU cores 7 hours or more" in stream.getvalue()
    monkeypatch.setattr(sizes, "memory", lambda: 16 * 10**9)
    with pytest.raises(QuickstartError, match="21.1 GB.*has 16.0 GB.*--size 256"):
        sizes.check(4096, 4096, 256, 10**7, 20, Status(stream))


def test_durations_grow_faster_than_the_picture():
    assert [sizes.duration(side, side, 20) for side in (256, 1024, 2048)] == ["1 minutes", "2 minutes", "30 minutes"]
    assert sizes.duration(4096, 4096, 1) == "22 minutes" and sizes.duration(8192, 8192, 20) == "117 hours"


def test_this_computer_has_memory():
    assert sizes.memory() is None or sizes.memory() > 10**8
