"""`demo-faces`: procedural faces, whose splits share none, in a folder that is continued."""

from __future__ import annotations

import numpy as np
import pytest

from trainer.commands import demo_faces
from trainer.config import ConfigError


def test_faces_fill_the_picture_and_splits_differ():
    one, other, heldout = demo_faces.face(3), demo_faces.face(4), demo_faces.face(3, "heldout")
    assert one.shape == (64, 64, 3) and one.dtype == np.uint8
    assert (
        np.array_equal(one, demo_faces.face(3)) and not np.array_equal(one, other) and not np.array_equal(one, heldout)
    )
    assert 0.27 <= demo_faces.face_layout(8).head_unit <= 0.33
    reference = demo_faces.face(3, reference=True)
    assert not np.array_equal(reference, one)


def test_a_set_of_faces_is_written_continued_and_guarded(tmp_path):
    folder = demo_faces.write_faces(tmp_path / "faces", 2, 32, "heldout", references=True, progress=False)
    assert sorted(p.name for p in folder.rglob("*.png")) == ["00001.png", "00001.png", "00002.png", "00002.png"]
    before = (folder / "color" / "00001.png").stat().st_mtime_ns
    demo_faces.write_faces(folder, 3, 32, "heldout", progress=False)
    assert (folder / "color" / "00003.png").is_file()
    assert (folder / "color" / "00001.png").stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match="other settings"):
        demo_faces.write_faces(folder, 3, 64, "heldout", progress=False)
    with pytest.raises(ConfigError, match="32 to 1024"):
        demo_faces.write_faces(tmp_path / "tiny", 1, 16)
    with pytest.raises(ConfigError, match="choose 1 or more"):
        demo_faces.write_faces(tmp_path / "none", 0)
