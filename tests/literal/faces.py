"""AnimeDiffusion, number by number: lines, warped references, and the walks between picture and noise."""

from __future__ import annotations

import math

import torch

from .blur import gaussian_blur

K, P, EPSILON = 3.5, 9.0, 0.01  # paper, 4.1
STEPS, BETA_START, BETA_END = 1000, 1e-6, 1e-2  # paper, 4.2


def alphas() -> list[float]:
    """The paper's alpha-bar: products of 1 - beta, beta on a straight line."""
    result, product = [], 1.0
    for t in range(STEPS):
        product *= 1.0 - (BETA_START + (BETA_END - BETA_START) * t / (STEPS - 1))
        result.append(product)
    return result


ALPHAS = alphas()


def xdog_lines(pictures: torch.Tensor, sigmas: list[float]) -> torch.Tensor:
    """uint8 pictures (B, 3, H, W) -> lines (B, 1, H, W), -1 on paper of 1: Eq. 1 and the threshold at epsilon.

    With phi = 1e9 the slope below the threshold is a step. Grey as the pictures of OpenCV: 0.299 R + 0.587 G + 0.114 B,
    whole numbers.
    """
    rows = []
    for picture, sigma in zip(pictures.double(), sigmas, strict=True):
        grey = (0.299 * picture[0] + 0.587 * picture[1] + 0.114 * picture[2]).round()[None, None] / 255
        sharp = (1 + P) * gaussian_blur(grey, sigma) - P * gaussian_blur(grey, K * sigma)
        rows.append(torch.where(sharp >= EPSILON, 1.0, -1.0)[0])
    return torch.stack(rows).float()


def bent(picture: torch.Tensor, source: list, target: list) -> torch.Tensor:
    """uint8 picture (3, H, W): what stood at `source` stands at `target` (points x, y in 0..1), by a thin plate spline.

    The spline says where in the picture a pixel of the result looks: f(p) = p + a + B p + sum w_i U(|p - c_i|),
    f(target_i) = source_i, with the targets as centres c_i and U(r) = r^2 ln(r + 1e-6).
    """
    count = len(target)
    system = torch.zeros(count + 3, count + 3, dtype=torch.float64)
    for i, (x, y) in enumerate(target):
        for j, other in enumerate(target):
            system[i, j] = kernel((x, y), other)
        for column, value in enumerate((1.0, x, y)):
            system[i, count + column] = system[count + column, i] = value
    moves = [[s - t for s, t in zip(*pair, strict=True)] for pair in zip(source, target, strict=True)]
    spline = torch.linalg.solve(system, torch.tensor([*moves, *[[0.0, 0.0]] * 3], dtype=torch.float64))
    _, height, width = picture.shape
    result = torch.zeros_like(picture)
    for row in range(height):
        for column in range(width):
            place = (column / (width - 1), row / (height - 1))
            terms = [*(kernel(place, centre) for centre in target), 1.0, *place]
            x, y = (
                p + sum(a * b for a, b in zip(terms, spline[:, k].tolist(), strict=True)) for k, p in enumerate(place)
            )
            result[:, row, column] = looked_up(picture, x * width, y * height).round().clamp(0, 255).byte()
    return result


def kernel(one, other) -> float:
    distance = math.dist(one, other)
    return distance**2 * math.log(distance + 1e-6)


def looked_up(picture, x, y):
    """The picture (3, H, W) at pixel (x, y) by cubic convolution (Keys 1981, a = -0.75); black outside."""
    value, left, top = torch.zeros(len(picture), dtype=torch.float64), math.floor(x), math.floor(y)
    for row in range(top - 1, top + 3):
        for column in range(left - 1, left + 3):
            if 0 <= row < picture.shape[1] and 0 <= column < picture.shape[2]:
                value += picture[:, row, column].double() * cubic(x - column) * cubic(y - row)
    return value


def cubic(distance: float, a: float = -0.75) -> float:
    d = abs(distance)
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.0


def diffused(x0, noise, steps):
    """Eq. 6, a step for every row."""
    rows = [math.sqrt(ALPHAS[t]) * x + math.sqrt(1 - ALPHAS[t]) * e for x, e, t in zip(x0, noise, steps, strict=True)]
    return torch.stack(rows)


def hop(x, eps, t, to):
    """Eq. 8 with Eq. 11 (eta 0) or Eq. 13: from step t to a cleaner or a noisier one; the picture is held in -1..1."""
    picture = ((x - math.sqrt(1 - ALPHAS[t]) * eps) / math.sqrt(ALPHAS[t])).clamp(-1, 1)
    return math.sqrt(ALPHAS[to]) * picture + math.sqrt(1 - ALPHAS[to]) * eps


def chain(count):
    """The steps of t', from clean to noisy: 0, then `count` equal strides from 1 on."""
    return [0, *(number * (STEPS // count) + 1 for number in range(count))]


def walked_up(predict, x0, count):
    """Algorithm 1, first loop: the picture made noise by the network's own answers."""
    times, x = chain(count), x0
    for t, to in zip(times, times[1:]):
        x = hop(x, predict(x, t), t, to)
    return x


def walked_down(predict, noise, count):
    """Algorithm 1, second loop."""
    times, x = chain(count)[::-1], noise
    for t, to in zip(times, times[1:]):
        x = hop(x, predict(x, t), t, to)
    return x
