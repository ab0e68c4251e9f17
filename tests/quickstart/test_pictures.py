"""Pictures looked at before any work: sizes as shown, cut-off files, what is no picture. Pillow makes the files."""

import io

import pytest

from quickstart_lib import pictures
from quickstart_lib.errors import QuickstartError

Image = pytest.importorskip("PIL.Image")


def made(kind: str, size=(60, 40), mode="RGB", **options) -> bytes:
    """A picture file of this kind with some detail in it."""
    picture = Image.effect_noise(size, 60).convert(mode)
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("PNG", {"mode": "RGBA"}),
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("JPEG", {"mode": "CMYK"}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
        ("WEBP", {"mode": "RGBA", "exif": Image.Exif().tobytes()}),
        ("GIF", {}),
        ("BMP", {}),
    ],
)
def test_the_size_is_read_and_a_cut_off_file_is_refused(kind, options):
    mode = options.pop("mode", "RGB")
    data = made(kind, mode=mode, **options)
    assert pictures.size_of(data) == (60, 40)
    for share in (0.3, 0.6, 0.95):
        with pytest.raises(pictures.Broken, match="cut off"):
            pictures.size_of(data[: int(len(data) * share)])


def test_a_jpeg_with_something_behind_its_end_is_whole():
    assert pictures.size_of(made("JPEG") + b"\0" * 5000) == (60, 40)


@pytest.mark.parametrize(("orientation", "size"), [(1, (60, 40)), (3, (60, 40)), (6, (40, 60)), (8, (40, 60))])
def test_the_size_is_the_one_that_is_shown(orientation, size):
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert pictures.size_of(made("JPEG", exif=exif)) == size


def test_other_kinds_that_comfyui_reads_are_let_through():
    assert pictures.size_of(made("TIFF")) is None


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "is empty"),
        (b"\0\0\0\x18ftypheic\0\0", "HEIC.*Save it as JPEG or PNG"),
        (b"\0\0\0\x18ftypmif1\0\0", "HEIC"),
        (b"<svg width='3'>", "SVG.*Export it as PNG"),
        (b"\n<?xml version='1.0'?><svg>", "SVG"),
        (b"<!DOCTYPE html>", "web page"),
        (b"%PDF-1.7", "PDF"),
        (b"CSFCHUNK", "CLIP STUDIO.*paint program"),
        (b"PK\x03\x04", "Krita"),
        (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
        (b"this is no picture", "is no picture. Give a PNG, JPEG"),
        (b"\x89PNG\r\n\x1a\n\0", "cut off"),
    ],
)
def test_what_is_no_picture_is_named(tmp_path, data, text):
    (tmp_path / "p.png").write_bytes(data)
    with pytest.raises(QuickstartError, match=f"(?s)^--sketch is .*p.png, but this file .*{text}"):
        pictures.examine("--sketch", tmp_path / "p.png")


def test_more_pixels_than_the_reader_takes(tmp_path):
    data = bytearray(made("PNG"))
    data[16:24] = (100000).to_bytes(4, "big") * 2
    (tmp_path / "p.png").write_bytes(data)
    with pytest.raises(QuickstartError, match="100000 x 100000 pixels. Give one with at most 178 million"):
        pictures.examine("--sketch", tmp_path / "p.png")
