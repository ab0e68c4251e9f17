"""A user's story: photos of drawings on a phone become a training set, a run, and a file that the nodes load."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from colorize import families
from trainer.__main__ import main
from trainer.models import checkpoint

SIDEWAYS = 6  # EXIF's orientation of a phone held upright


def photo(path: Path, number: int) -> None:
    """A drawn head of a character before a plain wall, as a phone keeps it: lying on its side, marked so."""
    image = Image.new("RGB", (96, 128), (210, 225, 240))
    draw, hair = ImageDraw.Draw(image), (200, 60 + 10 * number, 40)
    draw.ellipse((16, 60, 80, 200), fill=(60, 80, 160), outline=(0, 0, 0), width=3)
    draw.ellipse((24, 16, 72, 76), fill=hair, outline=(0, 0, 0), width=3)
    draw.ellipse((32, 34, 64, 74), fill=(250, 220, 200), outline=(0, 0, 0), width=2)
    exif = Image.Exif()
    exif[0x0112] = SIDEWAYS
    image.transpose(Image.Transpose.ROTATE_90).save(path, quality=95, exif=exif)


@pytest.fixture
def phone(tmp_path) -> Path:
    """Photos, one of them linked, one in a kind that is not read, and tags from an old editor."""
    folder = tmp_path / "phone"
    (folder / "DCIM").mkdir(parents=True)
    for number in range(3):
        photo(folder / "DCIM" / f"anna_{number}.jpg", number)
    photo(tmp_path / "elsewhere.jpg", 3)
    (folder / "DCIM" / "anna_3.jpg").symlink_to(Path("..", "..", "elsewhere.jpg"))
    (folder / "DCIM" / "IMG_4.HEIC").write_bytes(b"a photo")
    (folder / "DCIM" / "anna_0.txt").write_bytes("1girl, rot".encode("utf-16"))
    return folder


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_from_a_phone_to_a_file_of_the_nodes(phone, values, frozen, v1_file, write_toml, tmp_path, capsys):
    root, workers = tmp_path / "set", ["--workers", "1"]
    assert main(["prepare", str(phone), "--output", str(root), "--mask", "drawing", *workers]) == 0
    told = capsys.readouterr().out
    assert "4 pictures in color/" in told and "IMG_4.HEIC: pictures of this kind are not read" in told
    index = json.loads((root / "data_index" / "index.json").read_text(encoding="utf-8"))
    assert index["DCIM/anna_0.jpg"] == {"width": 96, "height": 128, "exist_sketch": True, "tags": "1girl, rot"}
    mask = np.array(Image.open(root / "mask" / "DCIM" / "anna_0.png")) > 127
    assert mask.shape == (128, 96) and mask[100, 48] and mask[45, 48] and not mask[:10].any()  # upright, feet down

    values["run"] |= {"stage": "v1_5", "steps": 2, "output": str(tmp_path / "runs" / "anna")}
    values["model"] = {"encoder": frozen["encoder"], "init": v1_file, "recovery_layers": 2}
    values["data"] = {"folder": str(root), "size": 64, "reference": "group", "cache": True}
    values["loss"] = {"background_bleach": 0.1}
    config = write_toml(values)
    assert main(["train", "--config", config, "--dry-run"]) == 0
    assert "1 groups, the largest of 4 pictures" in capsys.readouterr().out
    assert main(["train", "--config", config]) == 0
    run, file = tmp_path / "runs" / "anna", tmp_path / "anna.safetensors"
    assert main(["show", str(run)]) == 0 and (run / "show.html").is_file()
    assert main(["convert", str(run), "--output", str(file)]) == 0
    tensors, metadata = checkpoint.read_tensors(file)
    assert families.detect(tensors, metadata).name == "v1.5" and str(tmp_path) not in json.dumps(metadata)
