"""A folder of drawings in a key's colours, through files."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from colorize.pictures.regions import find_regions
from colorize.shots import folder
from colorize.shots.folder import FolderShot, Progress, Written, main
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
    keys = [{"frame": 1, "file": rows[1]["picture"]}]
    return {"keys": keys, "frames": rows, "work": str(tmp_path / "work"), "sheet": str(tmp_path / "sheet.png")}


def carry(job) -> list[Written]:
    return [event for event in FolderShot(job).work() if isinstance(event, Written)]


def colour(job, number, x, y) -> tuple[int, ...]:
    return tuple(np.asarray(Image.open(job["frames"][number]["target"]))[y, x])


def test_all_frames_get_the_key_s_colours_under_their_own_lines(job):
    events = list(FolderShot(job).work())
    assert [event for event in events if isinstance(event, Written)] == [Written(n, [], 0.0) for n in range(3)]
    steps = [event for event in events if isinstance(event, Progress)]
    assert [one.done for one in steps] == list(range(1, 9)) and {one.of for one in steps} == {8}
    assert Image.open(job["sheet"]).size[0] >= 240
    for number, step in enumerate((0, 6, 12)):
        made = np.asarray(Image.open(job["frames"][number]["target"]))
        assert tuple(made[95, 75 + step]) == COAT and tuple(made[10, 10]) == SKY
        assert made[95, 40 + step].max() < 80  # the line


def test_the_command_tells_frame_by_frame(job, tmp_path):
    (tmp_path / "job.json").write_text(json.dumps(job))
    main(str(tmp_path / "job.json"), str(tmp_path / "told"))
    told = [json.loads(line) for line in (tmp_path / "told").read_text().splitlines()]
    frames = [one for one in told if "frame" in one]
    assert [one["frame"] for one in frames] == [0, 1, 2] and all(one["unsure"] == [] for one in frames)
    assert told[-1] == {"done": 8, "of": 8}


def test_transparent_drawings_keep_their_lines(job):
    sketch = Image.open(job["frames"][0]["sketch"]).convert("L")
    clear = Image.new("RGBA", sketch.size, (0, 0, 0, 0))
    clear.putalpha(sketch.point(lambda value: 255 - value))
    clear.save(job["frames"][0]["sketch"])
    carry(job)
    made = np.asarray(Image.open(job["frames"][0]["target"]))
    assert tuple(made[95, 75]) == COAT and made[95, 40].max() < 80


def test_a_drawing_photographed_sideways_stands_upright(job):
    """As Load Image turns it: the model's picture is upright already."""
    file = job["frames"][0]["sketch"]
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise
    Image.open(file).transpose(Image.Transpose.ROTATE_90).save(file, exif=exif)
    carry(job)
    made = np.asarray(Image.open(job["frames"][0]["target"]))
    assert tuple(made[95, 75]) == COAT and made[95, 40].max() < 80


def test_frames_of_two_sizes_are_told(job):
    small = Image.open(job["frames"][2]["sketch"]).resize((120, 100))
    small.save(job["frames"][2]["sketch"])
    with pytest.raises(ValueError, match="one size"):
        carry(job)


def dots(file, places) -> dict:
    """A hint for the last frame: green at some places."""
    picture = np.zeros((200, 240, 4), np.uint8)
    for x, y in places:
        picture[y - 3 : y + 3, x - 3 : x + 3] = (0, 255, 0, 255)
    Image.fromarray(picture).save(file)
    return {"frame": 2, "file": str(file)}


def test_a_correction_of_one_frame_is_carried_to_the_others(job, tmp_path):
    job["hints"] = [dots(tmp_path / "dots.png", [(87, 95)])]
    carry(job)
    assert colour(job, 2, 87, 95) == colour(job, 0, 75, 95) == (0, 255, 0)
    assert colour(job, 1, 81, 95) == COAT and colour(job, 2, 10, 10) == SKY
    for bands in ("RGB", "RGBA"):  # the second time with a layer of opacity that is full everywhere
        Image.open(tmp_path / "dots.png").convert("RGB").convert(bands).save(tmp_path / "dots.png")
        with pytest.raises(ValueError, match="opaque everywhere"):
            carry(job)


def test_a_second_key_brings_colours_of_its_own(job, tmp_path):
    picture = np.asarray(Image.open(job["frames"][2]["picture"])).copy()
    picture[50:141, 52:123] = (20, 200, 90)
    Image.fromarray(picture).save(tmp_path / "second.png")
    job["keys"].append({"frame": 2, "file": str(tmp_path / "second.png")})
    carry(job)
    assert colour(job, 2, 87, 95) == (20, 200, 90) and colour(job, 1, 81, 95) == COAT and colour(job, 1, 5, 5) == SKY


@pytest.mark.parametrize("stop", (1, 4, 8))
def test_a_stopped_job_goes_on_where_it_was(job, stop, monkeypatch):
    """Stopped anywhere: what was found out is not found out again, what was written stays, and all is as without."""
    carry(job)
    whole = [Image.open(row["target"]).tobytes() for row in job["frames"]]
    for row in job["frames"]:
        Path(row["target"]).unlink()
    job["work"] += "2"
    events = FolderShot(job).work()
    for _ in range(stop):
        next(events)
    events.close()
    there = {
        row["target"]: Path(row["target"]).stat().st_mtime_ns for row in job["frames"] if Path(row["target"]).exists()
    }
    known, asked = set(Path(job["work"]).iterdir()), []
    monkeypatch.setattr(folder, "find_regions", lambda drawing: asked.append(1) or find_regions(drawing))
    carry(job)
    assert len(asked) == 3 - sum(file.name.startswith("regions") for file in known)
    assert [Image.open(row["target"]).tobytes() for row in job["frames"]] == whole
    assert all(Path(file).stat().st_mtime_ns == time for file, time in there.items())


def test_layered_documents_are_written_beside(job, tmp_path):
    for number, row in enumerate(job["frames"]):
        row["layers"] = str(tmp_path / f"layers{number}.ora")
    carry(job)
    with zipfile.ZipFile(tmp_path / "layers2.ora") as document:
        assert {"stack.xml", "mergedimage.png"} <= set(document.namelist())
