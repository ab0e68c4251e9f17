"""`evaluate --pairs`: the pairs of a protocol as pictures, for methods that run elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from PIL import Image
from tqdm import tqdm

from .protocols import PICTURES, Protocol
from .runs import Measurement, pairs_of, row


def write_pairs(protocol: Protocol, settings: Measurement, folder: Path) -> Path:
    """FOLDER/PROTOCOL/sketch/NAME.png (black on white), reference/ and color/ (the truth), squares of the same size.

    pairs.json names the picture whose colours each reference shows. Returns that folder; FolderMaker reads what
    another method made of it, under the same names.
    """
    dataset, size = pairs_of(protocol, settings, PICTURES)
    root, shown = folder / protocol.name, {}
    for position in tqdm(range(settings.count), unit="pair", desc=protocol.name):
        sample = row(dataset, position, settings.count, protocol)
        name = dataset.items.names[int(sample["index"])]
        for part in PICTURES:
            file = root / part / f"{name}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            _image(torch.as_tensor(sample[part])).save(file)
        other = dataset[(position + 1) % settings.count]["index"] if protocol.strangers else sample["reference_index"]
        shown[name] = dataset.items.names[int(other)]
    facts = {"protocol": protocol.name, "size": size, "seed": settings.seed, "bend": protocol.bend, "references": shown}
    (root / "pairs.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
    return root


def _image(values: torch.Tensor) -> Image.Image:
    """uint8 (C, H, W) as a picture."""
    pixels = values.permute(1, 2, 0).numpy()
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
