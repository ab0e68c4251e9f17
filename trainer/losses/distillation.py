"""Distillation: what a student of few steps learns from the solver of its teacher.

The noise schedule is cut into as many segments as the student takes steps, at the levels where ComfyUI's scheduler
"simple" puts them. In one step the student goes from anywhere in a segment to the segment's clean end:

    jump(x, x0, t, e) = s_e x0 + p_e / p_t (x - s_t x0)          DDIM with eta 0 (Song 2021, eq. 12)

with s = sqrt(a), p = sqrt(1 - a) (sampling/schedule.py), x0 what the network's answer implies, and s = 1, p = 0 at the
clean end of the schedule, whose step is CLEAN here. Two ways to say where it should land:

- trajectory: from the segment's beginning, where the teacher's solver lands after several of its steps (progressive
  distillation, Salimans and Ho 2022, with the steps in between skipped at once);
- consistency: from any grid point, where the student itself lands from the next point of the teacher's way
  (Song 2023, in segments as in Heek 2024 and Wang 2024, "Phased Consistency Models"; the target is the student without
  gradient, as in Song and Dhariwal 2023).

Either is compared as the x0 that would have landed there, with the weight max(snr, 1) of Salimans and Ho (2022).
The teacher is guided (Meng 2023): the student learns the guided answer, and needs one pass where the teacher needs two.
Ours: a share of the loss may be that to the true picture, and samples may begin a segment where the student itself
arrived (stages/distill.py).
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from colorize.sampling.schedule import NoiseSchedule

SOLVERS = ("ddim", "dpmpp_2m")
CLEAN = -1
"""The step that stands for a clean sample."""

X0 = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(x_t (B, ...), steps t (B,)) -> the clean sample (B, ...) that a network's answer implies."""


def teacher_grid(total: int, segments: int, substeps: int) -> torch.Tensor:
    """(segments, substeps + 1) descending steps: row i goes from the beginning of segment i to its end.

    Segment i begins at total - 1 - floor(i * total / segments), where ComfyUI's scheduler "simple" has its i-th noise
    level; the last one ends at CLEAN. ValueError where a segment has fewer steps than `substeps`.
    """
    ends = [total - 1 - number * total // segments for number in range(segments)] + [CLEAN]
    if min(a - b for a, b in zip(ends, ends[1:], strict=False)) < substeps:
        raise ValueError(f"{segments} segments of {total} steps have no room for {substeps} steps of a teacher each.")
    share = torch.arange(substeps + 1, dtype=torch.float64) / substeps
    begin, end = torch.tensor(ends[:-1]).double()[:, None], torch.tensor(ends[1:]).double()[:, None]
    return (begin + (end - begin) * share).round().long()


def levels(schedule: NoiseSchedule, t: torch.Tensor, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """s and p at steps t (B,), CLEAN among them, shaped to broadcast over `like` (B, ...)."""
    signal, spread = schedule.coefficients(t.clamp_min(0), like)
    clean = (t == CLEAN).view(signal.shape)
    return signal.masked_fill(clean, 1.0), spread.masked_fill(clean, 0.0)


def jump(
    schedule: NoiseSchedule, x: torch.Tensor, x0: torch.Tensor, t: torch.Tensor, end: torch.Tensor
) -> torch.Tensor:
    """Where a DDIM step of eta 0 from x (B, ...) at steps t (B,) lands at `end` (B,) for the clean samples x0."""
    signal, spread = levels(schedule, t, x)
    end_signal, end_spread = levels(schedule, end, x)
    return end_signal * x0 + end_spread / spread * (x - signal * x0)


def landing_x0(
    schedule: NoiseSchedule, x: torch.Tensor, landed: torch.Tensor, t: torch.Tensor, end: torch.Tensor
) -> torch.Tensor:
    """The x0 for which `jump` lands on `landed` (B, ...) (Salimans and Ho 2022, appendix G). end is below t."""
    signal, spread = levels(schedule, t, x)
    end_signal, end_spread = levels(schedule, end, x)
    ratio = end_spread / spread
    return (landed - ratio * x) / (end_signal - ratio * signal)


def noisy_start(schedule: NoiseSchedule, latents: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """x_t of clean latents (B, ...); at the schedule's last step noise alone, which is what sampling starts from."""
    first = (t == schedule.steps - 1).view(-1, *[1] * (latents.ndim - 1))
    return torch.where(first, noise, schedule.add_noise(latents, noise, t))


def solved(
    predict: X0, schedule: NoiseSchedule, x: torch.Tensor, times: torch.Tensor, solver: str = "ddim"
) -> torch.Tensor:
    """Where a solver of SOLVERS lands from x (B, ...) along times (B, n + 1), CLEAN at an end.

    dpmpp_2m is DPM-Solver++ (Lu 2022, algorithm 2), of first order in its first step, and in one that ends clean, as it
    is used; without the second order it is DDIM.
    """
    previous: tuple[torch.Tensor, torch.Tensor] | None = None  # x0 and h of the step before
    for t, end in zip(times.unbind(1)[:-1], times.unbind(1)[1:], strict=True):
        x0 = predict(x, t)
        signal, spread = levels(schedule, t, x)
        end_signal, end_spread = levels(schedule, end, x)
        h = (end_signal * spread).log() - (signal * end_spread).log()  # infinite at the clean end
        estimate = x0
        if previous is not None and solver == "dpmpp_2m":
            other, other_h = previous
            second = x0 + 0.5 * torch.where(end_spread > 0, h, 0.0) / other_h * (x0 - other)
            estimate = torch.where(end_spread > 0, second, x0)
        x = end_spread / spread * x - end_signal * torch.expm1(-h) * estimate
        previous = x0, h
    return x


def trajectory_target(
    teacher: X0, schedule: NoiseSchedule, x: torch.Tensor, times: torch.Tensor, solver: str = "ddim"
) -> tuple[torch.Tensor, torch.Tensor]:
    """(steps t (B,), the x0 the student should answer there) for x (B, ...) at times[:, 0]; times (B, n + 1)."""
    t, end = times[:, 0], times[:, -1]
    return t, landing_x0(schedule, x, solved(teacher, schedule, x, times, solver), t, end)


def consistency_target(
    teacher: X0,
    student: X0,  # asked without gradient
    schedule: NoiseSchedule,
    x: torch.Tensor,  # (B, ...) at t
    t: torch.Tensor,  # (B,) grid points
    following: torch.Tensor,  # (B,) the next point of each
    end: torch.Tensor,  # (B,) the end of each one's segment
) -> torch.Tensor:
    """The x0 (B, ...) that the student should answer at t: it lands where the student does from the teacher's step."""
    on_the_way = jump(schedule, x, teacher(x, t), t, following)
    arrived = (following == end).view(-1, *[1] * (x.ndim - 1))
    asked = following.clamp_min(0)  # CLEAN has no network: its rows are replaced below
    landed = jump(schedule, on_the_way, student(on_the_way, asked), asked, end)
    return landing_x0(schedule, x, torch.where(arrived, on_the_way, landed), t, end)


def snr_weight(schedule: NoiseSchedule, t: torch.Tensor) -> torch.Tensor:
    """max(snr, 1) at steps t (B,): the truncated weight of an error in x0 (Salimans and Ho 2022, section 4)."""
    return schedule.signal_to_noise(t).clamp_min(1.0)
