"""A folder of drawings in a key's colours, through files."""

import json

import numpy as np
import pytest
from PIL import Image

from colorize.shots.folder import carry_folder, main
from tests.drawings import box, drawing

COAT, SKY = (180, 40, 60), (200, 220, 250)


@pytest.fixture
def job(tmp_path):
    """Three drawings of a box on its way, the model's pictures, which wander, and a key of the middle one."""
    rows = []
    for number, step in enumerate((0, 6, 12)):
        lines = (drawing([box(40 + step, 50, 110 + step, 140)])[0].numpy() * 255).astype(np.uint8)
        row = {kind: str(tmp_path / f"{kind}{number}.png") for kind in ("sketch", "picture", "target")}
        Image.fromarray(lines).save(row["sketch"])
        picture = np.full(lines.shape, SKY, np.uint8)
        picture[50:141, 40 + step : 111 + step] = np.array(COAT) - 20 * (number != 1)
        Image.fromarray(picture).save(row["picture"])
        rows.append(row)
    return {"key": rows[1]["picture"], "key_frame": 1, "frames": rows}


def test_all_frames_get_the_key_s_colours_under_their_own_lines(job):
    order = [(frame, unsure) for frame, unsure in carry_folder(job["key"], job["key_frame"], job["frames"])]
    assert order == [(1, []), (2, []), (0, [])]
    for number, step in enumerate((0, 6, 12)):
        made = np.asarray(Image.open(job["frames"][number]["target"]))
        assert tuple(made[95, 75 + step]) == COAT and tuple(made[10, 10]) == SKY
        assert made[95, 40 + step].max() < 80  # the line


def test_the_command_tells_frame_by_frame(job, tmp_path):
    (tmp_path / "job.json").write_text(json.dumps(job))
    main(str(tmp_path / "job.json"), str(tmp_path / "told"))
    told = [json.loads(line) for line in (tmp_path / "told").read_text().splitlines()]
    assert [one["frame"] for one in told] == [1, 2, 0] and all(one["unsure"] == [] for one in told)


def test_transparent_drawings_keep_their_lines(job):
    sketch = Image.open(job["frames"][0]["sketch"]).convert("L")
    clear = Image.new("RGBA", sketch.size, (0, 0, 0, 0))
    clear.putalpha(sketch.point(lambda value: 255 - value))
    clear.save(job["frames"][0]["sketch"])
    list(carry_folder(job["key"], job["key_frame"], job["frames"]))
    made = np.asarray(Image.open(job["frames"][0]["target"]))
    assert tuple(made[95, 75]) == COAT and made[95, 40].max() < 80


def test_a_drawing_photographed_sideways_stands_upright(job):
    """As Load Image turns it: the model's picture is upright already."""
    file = job["frames"][0]["sketch"]
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise
    Image.open(file).transpose(Image.Transpose.ROTATE_90).save(file, exif=exif)
    list(carry_folder(job["key"], job["key_frame"], job["frames"]))
    made = np.asarray(Image.open(job["frames"][0]["target"]))
    assert tuple(made[95, 75]) == COAT and made[95, 40].max() < 80


def test_frames_of_two_sizes_are_told(job):
    small = Image.open(job["frames"][2]["sketch"]).resize((120, 100))
    small.save(job["frames"][2]["sketch"])
    with pytest.raises(ValueError, match="one size"):
        list(carry_folder(job["key"], job["key_frame"], job["frames"]))
