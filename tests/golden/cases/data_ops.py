"""Case `xl_data_ops`: masks, bleaching, the collate of buckets and the order of batches of the released XL trainer."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from ..ours import ours
from ..registry import case


@case("xl_data_ops")
def data_ops(golden, check):
    reference_masks(golden, check)
    bleaching(golden, check)
    for name in sorted({key.split(".")[1] for key in golden.inputs if key.startswith("collate.")}):
        collate(golden, check, name)
    order(golden, check)


def reference_masks(golden, check):
    masks, augment = ours("colorize.pictures.masks"), ours("trainer.data.augment.masks")
    mask = golden.inputs["mask"]
    for name in check.names("mask_expansion_*"):
        cell = tuple(int(side) for side in name.split("_")[2:])
        check(name, torch.maximum(masks.grow_to_grid(mask, cell, variant="released"), mask))
    check("mask_bbox", augment.box((mask * 255).to(torch.uint8)).float() / 255)
    for name in check.names("mask_maxpool*"):
        check(name, masks.dilate(mask, int(name.removeprefix("mask_maxpool"))))


def bleaching(golden, check):
    bleach = ours("trainer.losses.bleach")
    given = {key.removeprefix("bleach."): value for key, value in golden.inputs.items() if key.startswith("bleach.")}
    draws, white = given["draws.00_rand"], given["draws.01_rand"]
    # The file holds the draws but not the probability: the rows that the recorded run bleached tell it.
    changed = (golden.outputs["bleach.image"] != given["image"]).flatten(1).any(1)
    rate = float(draws[changed].max()) + 1e-6 if changed.any() else 0.0
    bleached, everything = draws < rate, torch.ones_like(changed)

    def split(mask, threshold):
        return given[mask] > given[threshold].view(-1, 1, 1, 1)

    figure = split("smask", "thresh_s")
    check("bleach.image", bleach.whiten_background(given["image"], figure, bleached, 1.0))
    check("bleach.control", bleach.whiten_background(given["control"], figure, everything, -1.0))
    reference = bleach.background_reference(given["reference"], split("rmask", "thresh_r"), bleached, white)
    check("bleach.reference_background", reference)


def collate(golden, check, name):
    """A batch of one orientation. The places of the cuts are the recorded ones: their draws are NumPy's global ones."""
    decode, buckets = ours("trainer.data.decode"), ours("trainer.data.buckets")
    dilate, widest = ours("colorize.pictures.masks").dilate, ours("trainer.data.augment.masks").DILATION
    settings, prefix = golden.config["args"]["collate"], f"collate.{name}"
    count = len(golden.outputs[f"{prefix}.image"])
    sizes = [tuple(golden.inputs[f"{prefix}.{row}.image"].shape[:2]) for row in range(count)]
    allowed = buckets.released_canvases(sizes, [tuple(size) for size in settings["crop_size"]])
    canvas = tuple(golden.outputs[f"{prefix}.image"].shape[-2:])
    if canvas not in allowed:
        raise ValueError(f"{name}: recorded canvas {canvas}, ours {allowed}")
    rows = {part: [] for part in ("image", "control", "smask", "reference", "rmask", "crop", "size")}
    for row, (height, width) in enumerate(sizes):
        pictures = {
            part: Image.fromarray(golden.inputs[f"{prefix}.{row}.{part}"].numpy())
            for part in ("image", "control", "smask", "reference", "rmask")
        }
        larger = decode.covering((width, height), canvas)
        fractions = golden.outputs[f"{prefix}.crop"][row].tolist()
        corner = round(fractions[1] * larger[0]), round(fractions[0] * larger[1])
        place = tuple(at / max(1, side - shown) for at, side, shown in zip(corner, larger, canvas[::-1]))
        for part in ("image", "control", "smask"):
            rows[part].append(_tensor(decode.cover(pictures[part], canvas, place, Image.Resampling.BICUBIC)))
        for part in ("reference", "rmask"):
            rows[part].append(_tensor(pictures[part].resize((settings["load_size"],) * 2, Image.Resampling.BICUBIC)))
        rows["crop"].append(torch.tensor(decode.shown_part(larger, canvas, corner)))
        rows["size"].append(torch.tensor([height, width, min(canvas)]))
    batch = {part: torch.stack(values).float() for part, values in rows.items()}
    batch["control"] = 255 - batch["control"]  # recorded as the network reads it
    batch["rmask"] = dilate(batch["rmask"], widest)
    for part, values in batch.items():
        check(f"{prefix}.{part}", values)
    scores = [ours("trainer.data.index").DEFAULT_SCORE] * count
    check(f"{prefix}.aesthetic_score", torch.tensor(scores))


def _tensor(image: Image.Image) -> torch.Tensor:
    values = torch.from_numpy(np.array(image))
    return values[None] if values.ndim == 2 else values.permute(2, 0, 1)


def order(golden, check):
    buckets, settings = ours("trainer.data.buckets"), golden.config["args"]["sampler"]
    width, height = golden.inputs["sampler.width_height"].T.numpy()
    for name in check.names("sampler.batches_epoch*"):
        epoch = int(name.removeprefix("sampler.batches_epoch"))
        seed = settings["seed"] + epoch
        batches = buckets.released_batches(width, height, settings["batch_size"], seed, settings["block_multiplier"])
        check(name, torch.from_numpy(batches))
