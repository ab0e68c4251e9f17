"""Distillation against a transcription with plain numbers: grid, jumps, the teacher's solver and both targets."""

from __future__ import annotations

import math

import pytest
import torch

from colorize.sampling.schedule import NoiseSchedule
from colorize.sampling.solvers import sample_ddim
from trainer.losses.distillation import (
    CLEAN,
    SOLVERS,
    consistency_target,
    jump,
    landing_x0,
    noisy_start,
    snr_weight,
    solved,
    teacher_grid,
    trajectory_target,
)

SCHEDULE = NoiseSchedule()


def level(t: int) -> tuple[float, float]:
    """s and p of a step, as the module's docstring has them."""
    a = 1.0 if t == CLEAN else float(SCHEDULE.alphas_cumprod[t].double())
    return math.sqrt(a), math.sqrt(1 - a)


def ddim(x: float, x0: float, t: int, end: int) -> float:
    """Song 2021, eq. 12 with eta 0."""
    (s, p), (s_end, p_end) = level(t), level(end)
    noise = (x - s * x0) / p
    return s_end * x0 + p_end * noise


def network(x: float, t: int) -> float:
    """Some clean sample that depends on place and step."""
    return math.tanh(0.7 * x) + 0.3 * math.sin(t / 90)


def ddim_along(x: float, times: list[int], predict) -> float:
    """Step after step."""
    for t, end in zip(times, times[1:], strict=False):
        x = ddim(x, predict(x, t), t, end)
    return x


def dpm_solver(x: float, times: list[int], predict) -> float:
    """Lu 2022, algorithm 2 (DPM-Solver++ 2M), first order at the beginning and into the clean end."""
    earlier = None
    for t, end in zip(times, times[1:], strict=False):
        x0 = predict(x, t)
        (s, p), (s_end, p_end) = level(t), level(end)
        if end == CLEAN:
            return x0
        h = math.log(s_end / p_end) - math.log(s / p)
        estimate = x0
        if earlier is not None:
            before, h_before = earlier
            ratio = h_before / h
            estimate = (1 + 1 / (2 * ratio)) * x0 - 1 / (2 * ratio) * before
        x = p_end / p * x - s_end * (math.exp(-h) - 1) * estimate
        earlier = x0, h
    return x


def as_network(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return torch.tensor([[network(float(value), int(step))] for value, step in zip(x, t, strict=True)]).double()


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]


def test_the_grid_begins_where_comfyuis_scheduler_has_its_levels():
    grid = teacher_grid(1000, 2, 4)
    assert grid.tolist() == [[999, 874, 749, 624, 499], [499, 374, 249, 124, CLEAN]]
    for steps in (1, 2, 3, 4, 7):
        begins = [1000 - (1 + int(number * (1000 / steps))) for number in range(steps)]  # simple_scheduler
        assert teacher_grid(1000, steps, 2)[:, 0].tolist() == begins == SCHEDULE.timesteps_simple(steps).tolist()
        assert teacher_grid(1000, steps, 5)[:, -1].tolist() == [*begins[1:], CLEAN]
    with pytest.raises(ValueError, match="no room"):
        teacher_grid(1000, 500, 4)


@pytest.mark.parametrize(("t", "end"), [(999, 499), (700, 3), (499, CLEAN)])
def test_a_jump_is_a_ddim_step_and_landing_inverts_it(t, end):
    x, x0, steps, ends = column(0.3, -1.2), column(0.8, 0.1), torch.tensor([t, t]), torch.tensor([end, end])
    landed = jump(SCHEDULE, x, x0, steps, ends)
    wanted = [ddim(0.3, 0.8, t, end), ddim(-1.2, 0.1, t, end)]
    assert torch.allclose(landed, column(*wanted), atol=1e-6)
    assert torch.allclose(landing_x0(SCHEDULE, x, landed, steps, ends), x0, atol=1e-5)


LITERAL = {"ddim": ddim_along, "dpmpp_2m": dpm_solver}


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_teachers_solver_is_the_papers_row_by_row(solver):
    times = torch.stack([teacher_grid(1000, 2, 5)[0], teacher_grid(1000, 2, 5)[1]])
    landed = solved(as_network, SCHEDULE, column(0.4, -0.9), times, solver)
    wanted = [LITERAL[solver](x, row.tolist(), network) for x, row in zip((0.4, -0.9), times, strict=True)]
    assert torch.allclose(landed, column(*wanted), atol=1e-5)


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_target_of_a_trajectory_is_what_lands_where_the_teacher_does(solver):
    times = teacher_grid(1000, 2, 4)
    x = column(1.1, 0.2)
    t, wanted = trajectory_target(as_network, SCHEDULE, x, times, solver)
    assert t.tolist() == [999, 499]
    for row, start in enumerate((1.1, 0.2)):
        end = int(times[row, -1])
        landed = LITERAL[solver](start, times[row].tolist(), network)
        assert ddim(start, float(wanted[row]), int(t[row]), end) == pytest.approx(landed, abs=1e-5)


def test_one_step_of_the_teacher_teaches_its_own_answer():
    """With as many steps as the student the teacher's x0 is the target itself."""
    times, x = teacher_grid(1000, 3, 1), column(1.1, 0.2, -0.4)
    t, wanted = trajectory_target(as_network, SCHEDULE, x, times)
    assert torch.allclose(wanted, as_network(x, t), atol=1e-4)


def test_the_target_of_consistency_goes_one_step_with_the_teacher_and_on_with_the_student():
    def student(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return as_network(x, t) * 0.5 + 0.1

    x, t = column(0.9, -0.3, 0.5), torch.tensor([999, 300, 60])
    following, end = torch.tensor([900, 200, CLEAN]), torch.tensor([499, CLEAN, CLEAN])
    wanted = consistency_target(as_network, student, SCHEDULE, x, t, following, end)
    for row in range(3):
        step, after, last = int(t[row]), int(following[row]), int(end[row])
        landed = ddim(float(x[row]), network(float(x[row]), step), step, after)
        if after != last:
            landed = ddim(landed, 0.5 * network(landed, after) + 0.1, after, last)
        assert ddim(float(x[row]), float(wanted[row]), step, last) == pytest.approx(landed, abs=1e-5)


def test_a_student_without_error_is_a_fixed_point():
    """Where every answer is the true sample, all targets are."""
    truth = column(0.25, 0.25)

    def knows(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return truth

    x, times = column(1.0, -2.0), teacher_grid(1000, 2, 6)
    assert torch.allclose(trajectory_target(knows, SCHEDULE, x, times)[1], truth, atol=1e-5)
    t, following, end = times[:, 2], times[:, 3], times[:, -1]
    assert torch.allclose(consistency_target(knows, knows, SCHEDULE, x, t, following, end), truth, atol=1e-5)


def test_sampling_starts_from_noise_alone():
    latents, noise = torch.full((2, 4, 2, 2), 3.0), torch.randn(2, 4, 2, 2)
    x = noisy_start(SCHEDULE, latents, noise, torch.tensor([999, 499]))
    assert torch.equal(x[0], noise[0])
    assert torch.equal(x[1:], SCHEDULE.add_noise(latents[1:], noise[1:], torch.tensor([499])))


def test_weights_are_signal_to_noise_cut_off_below():
    t = torch.tensor([999, 20])
    signal, spread = level(20)
    assert snr_weight(SCHEDULE, t).tolist() == pytest.approx([1.0, signal**2 / spread**2], rel=1e-4)


def test_euler_of_the_trainer_takes_a_students_jumps():
    """sample_ddim on the "simple" steps is jump after jump, from the grid's beginnings."""
    x = torch.randn(1, 4, 2, 2, dtype=torch.float64)

    def v(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return x.tanh() * 0.4

    sampled, here = sample_ddim(v, x, SCHEDULE, "v", 3, simple=True), x
    for t, end in zip(*(teacher_grid(1000, 3, 1)[:, place] for place in (0, 1)), strict=True):
        steps, ends = t[None], end[None]
        here = jump(SCHEDULE, here, SCHEDULE.x0_from(v(here, steps), here, steps, "v"), steps, ends)
    assert torch.allclose(sampled, here, atol=1e-6)
