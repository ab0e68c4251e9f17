"""The real benchmark: pairs with a known answer that no model of this project is trained on.

    real        the character of renpy-thequestion, in two outfits with four faces: painted with soft shades
    real_flat   the same pictures, every part in one colour
    adventurer, micah   characters of DiceBear with held-out seeds, exact truth (see scenes.py)
For the painted pictures, the reference is another face of the same outfit, bent by a thin plate spline; the sketch is
extracted (XDoG). Regions are the clusters of the picture's colours.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from trainer.art import painted, scenes
from trainer.art.avatars import MARKS, REGIONS, ROLES, draw
from trainer.art.palettes import draw_palette
from trainer.art.writing import extracted, save_parts
from trainer.data import deform
from trainer.data.decode import open_picture

SETS = ("real", "real_flat", "adventurer", "micah")
SIDE = 256
BENT = 0.5  # strength by which references are bent
XDOG_SIGMA = 0.5
AVATARS = 24  # pairs of each style
CUTS = {"whole": 1.0, "bust": 0.42}
"""Share of the figure's height that is seen, from its head on."""
IMAGES = "renpy-thequestion/usr/share/games/renpy/the_question/game/images"
OUTFITS = {"blue": "sylvie blue *.png", "green": "sylvie green *.png"}
CLUSTERS_SEED = 0
GROUNDS = ("bg meadow.jpg", "bg uni.jpg")
NEEDS = ("@dicebear/core", "@dicebear/adventurer", "@dicebear/micah", "renpy-thequestion")
"""Packages it is made of."""
VERSION = 1
"""Goes up when the same packages make other pairs: numbers of different versions are not comparable."""


def write_benchmark(folder: Path, packages: Path) -> None:
    """Write every set of SETS into a folder of its own: color, sketch, reference, regions, mask, reference_mask."""
    for number, (soft, flat) in enumerate(_painted_pairs(packages)):
        save_parts(folder / "real", f"{number:03d}", soft)
        save_parts(folder / "real_flat", f"{number:03d}", flat)
    for style in ("adventurer", "micah"):
        for number, parts in enumerate(_avatar_pairs(packages, style)):
            save_parts(folder / style, f"{number:03d}", parts)


def _painted_pairs(packages: Path) -> Iterator[tuple[scenes.Parts, scenes.Parts]]:
    """(soft, flat) parts of every outfit, face and cut, on white and on a painted ground in turn."""
    images = packages / IMAGES
    grounds = [np.asarray(open_picture(images / name).convert("RGB")) for name in GROUNDS]
    number = 0
    for outfit, pattern in OUTFITS.items():
        character = painted.read_character(outfit, sorted(images.glob(pattern)), CLUSTERS_SEED)
        for k, figure in enumerate(character.figures):
            other = character.figures[(k + 1) % len(character.figures)]
            for share in CUTS.values():
                random = np.random.default_rng((VERSION, number))
                ground = None if number % 4 < 3 else grounds[number // 4 % len(grounds)]
                yield _painted_pair(figure, other, character.clusters, share, ground, random)
                number += 1


def _painted_pair(
    figure: np.ndarray,
    other: np.ndarray,
    clusters: np.ndarray,
    share: float,
    ground: np.ndarray | None,
    random: np.random.Generator,
) -> tuple[scenes.Parts, scenes.Parts]:
    size = (SIDE, SIDE)
    behind = np.full((*size, 3), 255.0) if ground is None else painted.cut(ground, size, random)
    layers = [painted.placed(part, size, share, random) for part in (figure, other)]
    alphas = [layer[..., 3:] / 255 for layer in layers]
    soft: scenes.Parts = {}
    flat: scenes.Parts = {}
    for parts, convert in ((soft, lambda values: values), (flat, lambda values: painted.flattened(values, clusters))):
        shown = [convert(layer[..., :3]) * a + behind * (1 - a) for layer, a in zip(layers, alphas, strict=True)]
        color, reference = (np.round(np.clip(picture, 0, 255)).astype(np.uint8) for picture in shown)
        parts |= {"color": color, "reference": reference}
    grid = deform.sampling_grid(deform.draw_moves(random, BENT), SIDE, SIDE)
    regions = np.where(alphas[0][..., 0] > 0.5, 1 + painted.nearest(layers[0][..., :3], clusters), 0).astype(np.uint8)
    sketch = extracted(soft["color"], "xdog", sigma=XDOG_SIGMA)
    for parts in (soft, flat):
        bent = deform.bend(torch.from_numpy(parts["reference"]).permute(2, 0, 1), grid, 255)
        parts["reference"] = bent.permute(1, 2, 0).numpy()
        parts |= {"regions": regions, "sketch": sketch}
    return soft, flat


def _avatar_pairs(packages: Path, style: str) -> Iterator[scenes.Parts]:
    """Parts of AVATARS pairs of a style: plain colours on white, another character of the style as reference."""
    count = scenes.CANDIDATES
    wanted = [(style, f"heldout-{n}-{k}") for n in range(AVATARS) for k in range(1 + count)]
    drawn = draw(packages, wanted)
    for number in range(AVATARS):
        target, *others = drawn[number * (1 + count) : (number + 1) * (1 + count)]
        palette = draw_palette(np.random.default_rng((VERSION, number, 77)), plain=True)
        pictures = []
        for avatar in (target, scenes.matching(target, others)):
            layer = avatar.render({MARKS[role]: palette.colors[role] for role in ROLES}, SIDE).astype(float)
            alpha = layer[..., 3:] / 255
            pictures.append(np.round(layer[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8))
        yield {
            "color": pictures[0],
            "reference": pictures[1],
            "sketch": target.sketch(SIDE),
            "regions": target.regions(SIDE),
        }


REGION_COUNT = max(1 + painted.CLUSTERS, len(REGIONS))
"""Labels of any set."""
