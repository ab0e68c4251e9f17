"""Load Frames: parts of a folder or of a video, each frame by its number."""

import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

GREYS = [10 * number for number in range(7)]  # a frame's number is its tone


@pytest.fixture
def shot(pack, tmp_path, monkeypatch) -> Path:
    """An input folder with a folder `cut` of seven drawings."""
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_input_directory", lambda: str(tmp_path / "input"))
    folder = tmp_path / "input" / "scene" / "cut"
    folder.mkdir(parents=True)
    for number, grey in enumerate(GREYS, 6):  # a6, a7 ... a12: by letters a10 would come first
        Image.new("L", (32, 24), grey).save(folder / f"a{number}.png")
    (folder / "notes.txt").write_text("no picture")
    return folder


def tones(frames: torch.Tensor) -> list[int]:
    """One byte of every frame, which is flat."""
    assert frames.dtype == torch.float32 and frames.shape[1:] == (24, 32, 3)
    return (frames.mean(dim=(1, 2, 3)) * 255).round().int().tolist()


def test_the_parts_of_a_folder_are_all_its_drawings_in_order(pack, shot):
    read = [pack.run("ColorizeLoadFrames", source="scene/cut", frames=3, part=part) for part in range(3)]
    assert [tone for frames, *_ in read for tone in tones(frames)] == GREYS
    assert [(fps, first) for _, fps, first, _ in read] == [(24, 0), (24, 3), (24, 6)]
    assert read[2][3] == "scene/cut: frames 6 to 6 of 7, counted from 0; part 2 of 3"
    with pytest.raises(ValueError, match="has 7 frames, and this part begins with frame 9.*Set part to 0"):
        pack.run("ColorizeLoadFrames", source="scene/cut", frames=3, part=3)
    assert tones(pack.run("ColorizeLoadFrames", source="scene/cut", frames=3, part=1, with_first=True)[0]) == [
        GREYS[0],
        *GREYS[3:6],
    ]


def test_the_parts_of_a_video_are_all_its_frames(pack, shot):
    av = pytest.importorskip("av")
    file = shot.parents[1] / "cut.mkv"
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264rgb", rate=Fraction(12), options={"crf": "0"})
        stream.width, stream.height, stream.pix_fmt = 32, 24, "rgb24"
        for grey in GREYS:
            frame = av.VideoFrame.from_ndarray(np.full((24, 32, 3), grey, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    read = [pack.run("ColorizeLoadFrames", source="cut.mkv", frames=3, part=part) for part in range(3)]
    assert [tone for frames, *_ in read for tone in tones(frames)] == GREYS and read[0][1] == 12
    with pytest.raises(ValueError, match="has 7 frames"):
        pack.run("ColorizeLoadFrames", source="cut.mkv", frames=3, part=3)
    file.write_bytes(b"no video")
    with pytest.raises(ValueError, match="cannot be read as a video"):
        pack.run("ColorizeLoadFrames", source="cut.mkv")


def test_transparent_drawings_lie_on_white_and_sizes_must_agree(pack, shot):
    Image.new("RGBA", (32, 24), (0, 0, 0, 0)).save(shot / "a7.png")
    assert tones(pack.run("ColorizeLoadFrames", source="scene/cut", frames=2)[0]) == [GREYS[0], 255]
    Image.new("L", (16, 24)).save(shot / "a8.png")
    with pytest.raises(ValueError, match="different sizes .16x24, 32x24."):
        pack.run("ColorizeLoadFrames", source="scene/cut")
    assert len(pack.run("ColorizeLoadFrames", source="scene/cut", frames=3, part=1)[0]) == 3


def test_the_list_has_folders_of_drawings_and_videos(pack, shot):
    (shot.parents[1] / "film.MP4").touch()
    (shot.parents[1] / "empty").mkdir()
    (shot.parents[1] / "sketch.png").touch()
    sources = pack.module("model_patches.inputs.shot_frames").sources
    assert sources(str(shot.parents[1])) == ["film.MP4", "scene/cut"] and sources(str(shot / "nowhere")) == []


@pytest.mark.parametrize("name", ["../outside", "/etc", "scene/../../outside", "."])
def test_nothing_outside_of_the_input_folder_is_read(pack, shot, name):
    (shot.parents[2] / "outside").mkdir()
    with pytest.raises(ValueError, match="not in ComfyUI's input folder"):
        pack.run("ColorizeLoadFrames", source=name)
    assert "not in ComfyUI's input folder" in pack.node("ColorizeLoadFrames").validate_inputs(source=name)


def test_a_changed_drawing_is_read_again(pack, shot):
    node = pack.node("ColorizeLoadFrames")
    before = node.fingerprint_inputs(source="scene/cut")
    assert node.fingerprint_inputs(source="scene/cut", part=1) == before
    os.utime(shot / "a9.png", ns=(1, 1))
    assert node.fingerprint_inputs(source="scene/cut") != before
    assert "no 'gone'" in node.validate_inputs(source="gone") and node.validate_inputs(source="scene/cut") is True
