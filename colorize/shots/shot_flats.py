"""Flats of a shot: a coloured key's colours where a piece is surely one of its things, the model's where not.

All frames share one palette: the key's colours, those that are given beside it and those of hints. So what is matched
has the same colour in all frames to the bit, and what is not has one of the shot's colours.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from ..pictures.flat_batch import FlatBatch
from ..pictures.flatten import ONE_COLOUR, Flats, check_proportions, flatten
from ..pictures.hints import SAME, Hints, fixed_entries
from ..pictures.palette import MOST_ENTRIES, Entry, Palette, colour_name
from ..pictures.region_colours import samples
from ..pictures.region_labelling import choose, costs
from ..pictures.regions import RegionMap
from .carrying import SURE, carried, check_key_frame
from .contact_sheet import ContactSheet
from .matching import Matches, match
from .review import Unsure, flicker_map, unsure_regions
from .shapes import Shapes, shapes_of
from .strangers import Strangers

FLAT = 0.5  # share of a piece's open paper that has one colour to the bit where a key is painted flat
CLEAR_INK = 20  # 0..255; paper below
DOUBT = 0.1  # share of what a key says of an unsure piece that is taken for nothing


@dataclass(frozen=True, eq=False)
class ShotFlats:
    """The flats of a shot and what to look at."""

    batch: FlatBatch
    unsure: tuple[Unsure, ...]
    masks: np.ndarray
    """(frames, H, W) float32, 1 where the colour was not carried"""
    flicker: np.ndarray
    """(frames, H, W) float32: how far, up to 1, a surely matched piece's colour is from the frame before"""
    sheet: np.ndarray
    """(h, w, 3) uint8, see `ContactSheet`"""


def key_flats(regions: RegionMap, picture: np.ndarray, more: Palette | None = None) -> Flats:
    """The colours of a key (h, w, 3) sRGB 0..1 over its drawing's regions; more: further colours of the shot.

    Where a key is painted flat, its colours are taken to the bit; a soft one is flattened in its own colours.
    """
    check_proportions(regions, picture)
    soft = flatten(regions, picture)
    exact = _painted(regions, picture)
    colours = soft.palette.srgb[soft.entry]
    painted = np.where((exact >= 0)[:, None], np.stack([exact >> 16 & 255, exact >> 8 & 255, exact & 255], 1), colours)
    if len(np.unique(painted, axis=0)) <= MOST_ENTRIES:
        colours = painted
    unique, entry = np.unique(colours, axis=0, return_inverse=True)
    shares = np.bincount(entry.ravel(), regions.areas) / max(regions.areas.sum(), 1)
    order = np.argsort(-shares, kind="stable")
    rows = [_entry(unique[number], float(shares[number])) for number in order]
    place = np.argsort(order)
    known = {row.colour for row in rows}
    extra = [row for row in more.entries if row.colour not in known] if more else []
    return Flats(regions, Palette(tuple([*rows, *extra][:MOST_ENTRIES])), place[entry.ravel()].astype(np.int32))


def _painted(regions: RegionMap, picture: np.ndarray) -> np.ndarray:
    """(n,) int: red, green, blue in one number of pieces that are painted flat, -1 of others."""
    found = np.full(len(regions.region_of), -1)
    if picture.shape[:2] != regions.pieces.shape:
        return found
    open_paper = regions.ink < CLEAR_INK
    levels = np.rint(picture[open_paper] * 255).astype(np.int64)
    code = levels[:, 0] << 16 | levels[:, 1] << 8 | levels[:, 2]
    piece = regions.pieces[open_paper].astype(np.int64)
    pairs, sizes = np.unique(piece << 24 | code, return_counts=True)
    total = np.bincount(piece, minlength=len(found))
    order = np.argsort(sizes, kind="stable")
    owner, share = pairs[order] >> 24, sizes[order] / total[pairs[order] >> 24]
    found[owner[share >= FLAT]] = (pairs[order] & 0xFFFFFF)[share >= FLAT]  # the commonest comes last
    return found


def _entry(colour: np.ndarray, share: float) -> Entry:
    code = "#{:02x}{:02x}{:02x}".format(*colour.tolist())
    return Entry(colour_name(code), code, round(share, 4))


def joined(palette: Palette, flats: Flats) -> tuple[Palette, np.ndarray]:
    """(a shot's palette with the colours of a further key, (n,) that key's entries in it).

    Colours that cannot be told apart become one, and so do the nearest where the palette is full.
    """
    number: dict[int, int] = {}
    for one in np.unique(flats.entry).tolist():
        row = flats.palette.entries[one]
        apart = np.sqrt(((palette.oklab - flats.palette.oklab[one]) ** 2).sum(axis=1))
        if apart.min() > SAME and len(palette.entries) < MOST_ENTRIES:
            number[one], palette = len(palette.entries), Palette((*palette.entries, row))
        else:
            number[one] = int(apart.argmin())
    return palette, np.array([number[one] for one in flats.entry.tolist()], np.int32)


def settled(regions: RegionMap, picture: np.ndarray, palette: Palette, belief: np.ndarray) -> tuple[Flats, np.ndarray]:
    """(flats of one frame, (n,) bool pieces whose colour was carried) from a belief (n, k) over the palette.

    picture: the model's result (h, w, 3) sRGB 0..1, which decides what belief leaves open; what is rather believed than
    something else counts there, too.
    """
    check_proportions(regions, picture)
    sure = belief.max(axis=1) >= SURE
    fixed = np.where(sure, belief.argmax(axis=1), -1).astype(np.int32)
    found = samples(regions, picture)
    table = costs(found, palette.oklab, palette.shares)
    count = len(palette.entries)
    open_ = np.maximum(1 - belief.sum(axis=1, keepdims=True), 0)
    likely = (1 - DOUBT) * (belief + open_ / count) + DOUBT / count
    seen = np.sqrt(np.bincount(found.piece, found.weight, found.count) + 1)  # as `costs` weighs a piece
    return Flats(regions, palette, choose(table - np.log(likely) * seen[:, None], regions, fixed)), sure


def shot_flats(
    batch: FlatBatch,
    key: np.ndarray,
    key_frame: int = 0,
    key_regions: RegionMap | None = None,
    more: Palette | None = None,
    hints: Mapping[int, Hints] | None = None,
    on_frame: Callable[[], None] = lambda: None,
) -> ShotFlats:
    """Carry the colours of a key (h, w, 3) sRGB 0..1 through the frames of a batch.

    key_frame: the frame that the key colours; with key_regions, those of a drawing that is not among the frames, the
    frame before which it stands. hints: corrections by the frames they were painted on; they are certain there, and
    carried over the shot from there. The batch's own hints, which are for pictures by themselves, are not used.
    on_frame is called at every step of a walk. Raises ValueError.
    """
    frames = [flats.regions for flats in batch.flats]
    check_key_frame(key_frame, len(frames))
    painted = key_flats(key_regions or frames[key_frame], key, more)
    palette, keys = painted.palette, {key_frame: painted.entry}
    walk = [*frames[:key_frame], key_regions, *frames[key_frame:]] if key_regions else frames
    moved = [n + (key_regions is not None and n >= key_frame) for n in range(len(frames))]
    corrected = []
    for number, given in (hints or {}).items():
        if not 0 <= number < len(frames):
            raise ValueError(f"The hints are for frame {number}; the shot has frames 0 to {len(frames) - 1}.")
        if given.colours.any():
            palette, fixed = fixed_entries(given, frames[number], palette, ONE_COLOUR)
            if fixed is not None:
                keys[moved[number]] = with_hints(keys.get(moved[number]), fixed)
                corrected.append(moved[number])
    shapes = [shapes_of(one) for one in walk]
    matched = functools.cache(match)  # walks from several keys, and the flicker map, ask for the same neighbours
    beliefs = carried(shapes, keys, len(palette.entries), tuple(corrected), on_frame, matched)
    return _reviewed(batch, [shapes[n] for n in moved], [beliefs[n] for n in moved], palette, matched)


def with_hints(painted: np.ndarray | None, fixed: np.ndarray) -> np.ndarray:
    """(n,) a key's entries with those (n,) that hints decide, -1 = not."""
    return fixed if painted is None else np.where(fixed >= 0, fixed, painted)


def _reviewed(
    batch: FlatBatch,
    shapes: list[Shapes],
    beliefs: list[np.ndarray],
    palette: Palette,
    matched: Callable[[Shapes, Shapes], Matches],
) -> ShotFlats:
    """Settle every frame, give strangers one colour in all of them, and gather what to look at."""
    strangers, first = Strangers(len(palette.entries), matched), []
    for old, picture, belief, frame in zip(batch.flats, batch.pictures, beliefs, shapes, strict=True):
        flats, sure = settled(old.regions, picture, palette, belief)
        things = strangers.next(frame, belief, old.regions.region_of)
        strangers.vote(things, flats.entry, old.regions.areas)
        first.append((flats, sure, things))
    made: list[Flats] = []
    unsure: list[Unsure] = []
    masks, flicker = [], []
    sheet = ContactSheet(len(first), *batch.flats[0].regions.pieces.shape)
    for number, (chosen, sure, things) in enumerate(first):
        flats = replace(chosen, entry=strangers.entries(things))
        pieces = flats.regions.pieces
        found = unsure_regions(flats, sure, number, things)
        masks.append((~sure).astype(np.float32)[pieces])
        still = np.zeros(pieces.shape, np.float32)
        changed = flicker_map(made[-1], flats, matched(shapes[number - 1], shapes[number])) if made else still
        flicker.append(changed)
        sheet.add(number, f"frame {number}", under_ink(flats), masks[-1], changed, found)
        unsure += found
        made.append(flats)
    kept = replace(batch, flats=tuple(made), hints=(None,) * len(made))
    return ShotFlats(kept, tuple(unsure), np.stack(masks), np.stack(flicker), sheet.picture)


def under_ink(flats: Flats) -> np.ndarray:
    """(H, W, 3) uint8: flats with the ink of their drawing, black, on top."""
    return (flats.picture * (1 - flats.regions.ink[..., None].astype(np.float32) / 255)).astype(np.uint8)
