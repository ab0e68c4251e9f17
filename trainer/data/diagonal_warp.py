"""The warp of AnimeDiffusion's references: a thin plate spline that moves two points along the picture's diagonal.

Without it the reference is the true answer itself and the network learns to copy pixels; with it only colours and rough
places remain. It is not the stronger warp of deform.py (16 points that move freely). All coordinates are x, y with 0..1
over the picture. Source: the paper and its released code; the spline is Bookstein's (1989), U(r) = r^2 ln(r + 1e-6).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from trainer.draws import Draws

CORNERS = ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0))
PLACES = (0.3, 0.7)  # of the two points on the diagonal
LARGEST_MOVE = 0.25  # of each, along the diagonal
TRIES = 8  # draws per warp, of which the first usable one is taken; about one in eighty is not
STILL = (0.4, 0.6, 0.0, 0.0)  # places and moves when none is: no warp


def draw_points(count: int, draws: Draws, strength: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Control points of `count` warps, before and after: (count, 6, 2) each; strength 0..1 scales the moves.

    Places and moves are drawn evenly and rounded to hundredths; draws whose two moved points fall together are thrown
    away (two points on one place leave no spline).
    """
    low, high = PLACES
    drawn = draws.rand((count, TRIES, 4))
    drawn[..., :2] = drawn[..., :2] * (high - low) + low
    drawn[..., 2:] = (2 * drawn[..., 2:] - 1) * LARGEST_MOVE * strength
    drawn = torch.cat([(drawn * 100).round() / 100, torch.tensor(STILL).expand(count, 1, -1)], dim=1)
    usable = ((drawn[..., 0] + drawn[..., 2]) - (drawn[..., 1] + drawn[..., 3])).abs() > 0.005
    drawn = drawn[torch.arange(count), usable.int().argmax(dim=1)]
    corners = torch.tensor(CORNERS).expand(count, -1, -1)
    diagonal = drawn[:, :2, None].expand(-1, -1, 2)
    moves = drawn[:, 2:, None].expand(-1, -1, 2)
    return torch.cat([corners, diagonal], dim=1), torch.cat([corners, diagonal + moves], dim=1)


def _kernel(points: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
    """U of the distances between points (B, M, 2) and centres (B, K, 2): (B, M, K)."""
    distances = (points[:, :, None] - centres[:, None]).square().sum(-1).sqrt()
    return distances**2 * torch.log(distances + 1e-6)


def solve(source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The spline of the displacement source - target at the target points, both (B, K, 2).

    -> (B, K + 3, 2): K weights of the kernel, then the factors of 1, x and y. The weights sum to zero.
    """
    batch, count, _ = target.shape
    plane = torch.cat([torch.ones_like(target[..., :1]), target], dim=-1)
    system = target.new_zeros(batch, count + 3, count + 3)
    system[:, :count, :count] = _kernel(target, target)
    system[:, :count, count:] = plane
    system[:, count:, :count] = plane.mT
    wanted = F.pad(source - target, (0, 0, 0, 3))
    return torch.linalg.solve(system, wanted)


def source_positions(spline: torch.Tensor, target: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Where each pixel of the warped picture comes from: (B, H, W, 2), 0..1 at the outermost pixels' middles."""
    rows, columns = (torch.linspace(0, 1, side, device=target.device) for side in (height, width))
    places = torch.stack(torch.meshgrid(rows, columns, indexing="ij")[::-1], dim=-1)
    flat = places.reshape(1, -1, 2).expand(len(target), -1, -1)
    values = torch.cat([_kernel(flat, target), torch.ones_like(flat[..., :1]), flat], dim=-1)
    return places + (values @ spline).view(-1, height, width, 2)


def sample(pictures: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """uint8 pictures (B, C, H, W) read at positions (B, H, W, 2): bicubic (a = -0.75), black outside, uint8.

    A position times the width is a pixel number, as in the released code, so 1 is one pixel beyond the last: the right
    and lower edges turn dark.
    """
    sides = torch.tensor([pictures.shape[-1], pictures.shape[-2]], device=positions.device)
    grid = 2 * positions - 1 + 1 / sides
    read = F.grid_sample(pictures.float(), grid, mode="bicubic", padding_mode="zeros", align_corners=False)
    return read.round().clamp(0, 255).to(torch.uint8)


def warp(pictures: torch.Tensor, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """uint8 pictures (B, C, H, W) warped by control points (B, 6, 2) before and after."""
    return sample(pictures, source_positions(solve(source, target), target, *pictures.shape[-2:]))
