"""Schedule, losses, reference transforms and EMA, written number by number in Python floats (float64)."""

from __future__ import annotations

import math

STEPS, BETA_START, BETA_END = 1000, 0.00085, 0.012


def alphas_cumprod() -> list[float]:
    """a_t = product of 1 - beta; beta = (linear from sqrt(start) to sqrt(end))^2."""
    result, product = [], 1.0
    for t in range(STEPS):
        root = math.sqrt(BETA_START) + (math.sqrt(BETA_END) - math.sqrt(BETA_START)) * t / (STEPS - 1)
        product *= 1.0 - root * root
        result.append(product)
    return result


def sigma_to_t(sigma: float) -> float:
    """Step of a noise level by linear interpolation in log sigma, held at the ends of the schedule."""
    table = [0.5 * math.log((1 - a) / a) for a in alphas_cumprod()]
    wanted = math.log(sigma)
    if wanted <= table[0]:
        return 0.0
    for t in range(STEPS - 1):
        if wanted <= table[t + 1]:
            return t + (wanted - table[t]) / (table[t + 1] - table[t])
    return STEPS - 1.0


def noised(x0: float, noise: float, a: float) -> float:
    return math.sqrt(a) * x0 + math.sqrt(1 - a) * noise


def velocity(x0: float, noise: float, a: float) -> float:
    return math.sqrt(a) * noise - math.sqrt(1 - a) * x0


def min_snr(a: float, gamma: float, prediction: str) -> float:
    """min(S, gamma) / S with S = a / (1 - a), plus 1 for v (Hang 2023, eq. 6 and the released trainer)."""
    snr = a / (1 - a) + (1.0 if prediction == "v" else 0.0)
    return min(snr, gamma) / snr


def loss(answer, x0, noise, t, prediction, gamma=0.0, mask=None) -> float:
    """Mean over samples of weight * mean squared error; nested lists (B, K) of numbers, t a list of B steps."""
    table, total, count = alphas_cumprod(), 0.0, 0
    for b, step in enumerate(t):
        weight = min_snr(table[step], gamma, prediction) if gamma else 1.0
        for k in range(len(answer[b])):
            wanted = noise[b][k] if prediction == "eps" else velocity(x0[b][k], noise[b][k], table[step])
            inside = mask[b][k] if mask is not None and not gamma else 1.0
            total += weight * inside * (answer[b][k] - wanted) ** 2
            count += 1
    return total / count


def dual_loss(answer, answer_without, x0, noise, other_noise, t, prediction, lambda_, gamma=0.0) -> float:
    """Eq. 4 of the v1 paper: the error with the reference, plus lambda times that without it, under another noise."""
    with_reference = loss(answer, x0, noise, t, prediction, gamma)
    return with_reference + lambda_ * loss(answer_without, x0, other_noise, t, prediction, gamma)


def token_step(t: int, variant: str) -> int:
    """The step whose noise the reference tokens get: t (paper, eq. 3); mirrored for t >= 900 in the released code."""
    return STEPS - 1 - t if variant == "released" and t >= 0.9 * STEPS else t


def ema(values: list[float], decay: float) -> list[float]:
    """Shadow of a number after each update; values[0] is what it starts from."""
    shadow, shadows = values[0], []
    for n, value in enumerate(values[1:], start=1):
        d = min(decay, (1 + n) / (10 + n))
        shadow = d * shadow + (1 - d) * value
        shadows.append(shadow)
    return shadows


def leading_steps(count: int, intervals: int, offset: int = 1) -> list[int]:
    """Descending steps k * (1000 // intervals) + offset; of `intervals` such steps the last `count` to come."""
    stride = STEPS // intervals
    return [k * stride + offset for k in range(intervals - 1, intervals - 1 - count, -1)]
