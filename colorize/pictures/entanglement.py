"""The entanglement meter: how much of a result's structure comes from the reference instead of the sketch.

The authors of ColorizeDiffusion call it the distribution problem (arXiv 2401.01456) and spatial entanglement
(arXiv 2502.19937): trained on references of the same layout, a model learns to take shapes from the reference as well
as colours. The measures here are this project's own; the tests hold them to the procedural world, where truth is known.

Both look at edges, never at colours, for the reference is there to change the colours. An edge field holds the
strength of the colour gradient in ORIENTATIONS directions, compressed to 0..1, so that a dark line counts little more
than the border of two similar colours:

    E_k(p) = w_k(angle(p)) m(p)^2 / (m(p)^2 + STRENGTH^2)

m and angle: largest change of the structure tensor summed over R, G, B (Di Zenzo 1986); w_k: triangular weights of the
two nearest orientations, summing to 1.

Shape legend: B batch, H W size of a picture, K orientations, N cells.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from .masks import dilate
from .ranges import model_to_unit

ORIENTATIONS = 6  # K
STRENGTH = 0.08  # change of colour (0..1 per channel) that counts half
TOLERANCE = 2 / 256  # share of the shorter side; edges that close to one another match
INK = 0.25  # 0..1; darker strokes of the sketch count as lines
CELLS = 16  # per side, of the self-similarity
SHIFTS = (0.25, 0.5, 0.75)  # shares of height and width, of the stand-ins for other references


def edge_field(pictures: torch.Tensor) -> torch.Tensor:
    """Pictures (B, 3, H, W) in [-1, 1] -> E (B, K, H, W) in 0..1; equation above."""
    values = F.pad(model_to_unit(pictures.float().clamp(-1, 1)), (1, 1, 1, 1), mode="replicate")
    across = (values[..., 2:] - values[..., :-2]) / 2  # derivative, then smoothed the other way: Scharr's weights
    down = (values[..., 2:, :] - values[..., :-2, :]) / 2
    dx = (3 * across[..., :-2, :] + 10 * across[..., 1:-1, :] + 3 * across[..., 2:, :]) / 8
    dy = (3 * down[..., :-2] + 10 * down[..., 1:-1] + 3 * down[..., 2:]) / 8
    xx, yy, xy = ((a * b).sum(1, keepdim=True) for a, b in ((dx, dx), (dy, dy), (dx, dy)))
    spread = ((xx - yy) ** 2 + 4 * xy**2).sqrt()
    squared = (xx + yy + spread) / 2  # m^2: the larger eigenvalue
    place = torch.atan2(2 * xy, xx - yy) / (2 * math.pi) % 1 * ORIENTATIONS  # 0..K, 180 degrees apart is the same
    centres = torch.arange(ORIENTATIONS, device=values.device).view(1, -1, 1, 1)
    apart = (place - centres).abs()
    weights = (1 - torch.minimum(apart, ORIENTATIONS - apart)).clamp_min(0)
    return weights * squared / (squared + STRENGTH**2)


def near(values: torch.Tensor, reach: int) -> torch.Tensor:
    """The largest value within `reach` pixels (a square) of every pixel, per channel."""
    return dilate(values, 2 * reach + 1)


def structure_distance(result: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    """How much the structure of two pictures (B, 3, H, W) in [-1, 1] differs: (B,), 0 the same, 1 nothing in common.

    Self-similarity (Shechtman and Irani 2007): with f_n the edge field averaged over cell n of a CELLS x CELLS grid and
    S_nm = f_n . f_m, the Gram matrix over places, the distance is |S - S'|_F^2 / (|S|_F^2 + |S'|_F^2). Where neither
    picture has an edge the distance is 0. base: the same sketch and noise without reference.
    """
    _check_sizes(result, base)
    first, second = (_self_similarity(edge_field(pictures)) for pictures in (result, base))
    apart = (first - second).square().sum((1, 2))
    return apart / (first.square().sum((1, 2)) + second.square().sum((1, 2))).clamp_min(1e-12)


def _self_similarity(field: torch.Tensor) -> torch.Tensor:
    cells = F.adaptive_avg_pool2d(field, CELLS).flatten(2).transpose(1, 2)  # (B, N, K)
    return cells @ cells.transpose(1, 2)


def own_edges(reference: torch.Tensor, lines: torch.Tensor) -> torch.Tensor:
    """Edge field (B, K, H, W) of references (B, 3, H, W) where no line of the sketch explains an edge, else 0.

    lines: ink (B, 1, H, W) in 0..1. Twice the tolerance around a line is left out, so that an edge of the result that
    lies on the line cannot answer for one of the reference.
    """
    _check_sizes(reference, lines)
    return edge_field(reference) * _off_lines(lines)


def _off_lines(lines: torch.Tensor) -> torch.Tensor:
    return 1 - near((lines.float() > INK).float(), 2 * _reach(lines))


def leaked_edges(result: torch.Tensor, reference: torch.Tensor, lines: torch.Tensor) -> torch.Tensor:
    """Where edges of the reference, and not of the sketch, stand in the result: (B, 1, H, W) in 0..1.

    With E' the reference's own edges (`own_edges`), E the edges of the result and near the maximum over the tolerance:
    sum over k of min(E_k near(E'_k)).
    """
    _check_sizes(result, reference)
    own = near(own_edges(reference, lines), _reach(lines))
    return torch.minimum(edge_field(result), own).sum(1, keepdim=True)


def found_again(result: torch.Tensor, reference: torch.Tensor, lines: torch.Tensor) -> torch.Tensor:
    """Share (B,) in 0..1 of the reference's own edges that the result repeats at the same place and orientation.

    sum min(E'_k, near(E_k)) / sum E'_k over places and orientations; 0 where the reference has no edge of its own.
    """
    _check_sizes(result, reference)
    return _share(own_edges(reference, lines), near(edge_field(result), _reach(lines)))


def _share(own: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
    return torch.minimum(own, there).sum((1, 2, 3)) / own.sum((1, 2, 3)).clamp_min(1e-6)


def leakage(
    result: torch.Tensor, reference: torch.Tensor, lines: torch.Tensor, others: Sequence[torch.Tensor] = ()
) -> torch.Tensor:
    """(B,): what `found_again` gives beyond chance, as a share of what chance leaves: about 0 without leakage, 1 all.

    (s - c) / (1 - c), with s of the reference and c the mean over `others`, references (B, 3, H, W) that the results
    were not made with: they match by accident, and because figures stand in the middle of most pictures. Without
    others, shifted copies of the reference stand in for them, which only know about the accident.
    """
    _check_sizes(result, reference)
    _check_sizes(reference, lines)
    there, off_lines = near(edge_field(result), _reach(lines)), _off_lines(lines)
    own = _share(edge_field(reference) * off_lines, there)
    chance = torch.stack([_share(edge_field(one) * off_lines, there) for one in others or shifted(reference)]).mean(0)
    return (own - chance) / (1 - chance).clamp_min(1e-6)


def shifted(reference: torch.Tensor) -> list[torch.Tensor]:
    """Copies of the reference moved around by SHIFTS of its sides, what leaves at one side coming in at the other."""
    height, width = reference.shape[-2:]
    return [
        reference.roll((round(y * height), round(x * width)), (-2, -1))
        for y in (0, *SHIFTS)
        for x in (0, *SHIFTS)
        if x or y
    ]


def _reach(lines: torch.Tensor) -> int:
    return max(1, round(TOLERANCE * min(lines.shape[-2:])))


def _check_sizes(first: torch.Tensor, second: torch.Tensor) -> None:
    if first.shape[0] != second.shape[0] or first.shape[-2:] != second.shape[-2:]:
        raise ValueError(
            f"Pictures of the shapes {tuple(first.shape)} and {tuple(second.shape)} cannot be compared; bring them to "
            "one size and count."
        )
