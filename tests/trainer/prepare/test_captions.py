"""Tags beside pictures, from any editor."""

import logging

import pytest
from PIL import Image

from trainer.prepare.layout import open_set

WORDS = "café, blue hair"


@pytest.mark.parametrize("encoding", ("utf-8", "utf-8-sig", "utf-16", "utf-16-be", "cp1252"))
def test_tags_are_read_in_every_usual_encoding(tmp_path, encoding, caplog):
    (tmp_path / "color").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "color" / "a.png")
    content = WORDS.encode(encoding)
    (tmp_path / "color" / "a.txt").write_bytes(b"\xfe\xff" + content if encoding == "utf-16-be" else content)
    data = open_set(tmp_path)
    (picture,) = data.pictures("color")
    with caplog.at_level(logging.WARNING):
        assert data.caption(picture) == WORDS
    assert ("a.txt" in caplog.text) == (encoding == "cp1252")


def test_tags_that_cannot_be_read_are_named(tmp_path, caplog):
    (tmp_path / "color").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "color" / "a.png")
    (tmp_path / "color" / "a.txt").write_bytes(b"\xff\xfea")  # UTF-16, cut off
    data = open_set(tmp_path)
    (picture,) = data.pictures("color")
    with caplog.at_level(logging.WARNING):
        assert data.caption(picture) == ""
    assert "a.txt" in caplog.text
