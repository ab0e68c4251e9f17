"""Batches of several shapes and restyled sketches go through a stage as they come out of the data set."""

import torch
from PIL import Image

from trainer import config
from trainer.draws import Draws
from trainer.run.datasets import build_dataset
from trainer.stages.table import build_stage


def test_a_stage_trains_on_buckets_and_coloured_sketches(values, tmp_path):
    for kind in ("color", "sketch"):
        (tmp_path / "data" / kind).mkdir(parents=True)
        for number in range(4):
            picture = Image.new("RGB" if kind == "color" else "L", (200, 110) if number % 2 else (110, 200), 90)
            picture.save(tmp_path / "data" / kind / f"{number}.png")
    values["data"] |= {"folder": str(tmp_path / "data"), "size": 192, "reference": "self", "bucket_step": 64}
    values["augment"] = {"flip": 0.5, "sketch_trace": 1.0, "sketch_double": 0.5}
    settings = config.build(values)
    dataset, stage = build_dataset(settings), build_stage(settings, torch.device("cpu"))
    shapes = set()
    for first in (0, 2):
        batch = torch.utils.data.default_collate([dataset[first], dataset[first + 1]])
        assert batch["sketch"].shape[1] == 3
        shapes.add(tuple(batch["color"].shape[-2:]))
        terms = stage(batch, Draws.plain(0))
        assert all(torch.isfinite(term) for term in terms.values())
    assert shapes == {(128, 256), (256, 128)}
