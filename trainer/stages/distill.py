"""Stage distill: a student colours in one to four passes what its teacher colours in forty.

Teacher and student start as the same U-Net, the one of model.init; the student learns all of it but the region weights,
which stay on top. With [adapter] they are one network in memory: with its adapters it is the student, without them the
teacher. Guidance is folded in: the student's one answer is the teacher's guided one. See losses/distillation.py for the
two ways to learn, and distill_lessons.py for what every family brings.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import nn

from colorize import distilled, names
from colorize.sampling.guidance import single_guidance
from colorize.sampling.schedule import NoiseSchedule
from trainer.config import Config, ConfigError
from trainer.draws import Draws
from trainer.losses.diffusion import denoising_loss
from trainer.losses.distillation import (
    X0,
    consistency_target,
    jump,
    noisy_start,
    snr_weight,
    teacher_grid,
    trajectory_target,
)
from trainer.models.colorizer import MODES
from trainer.models.denoising import Denoising
from trainer.models.frozen import borrowed
from trainer.models.low_rank import lora_header, low_rank_difference
from trainer.pictures import Batch, contact_sheet, figure_mask, model_sketch, picture

from . import adapted
from .distill_lessons import Lesson, Lessons, lessons_for
from .shared import freeze, model_header, model_markers
from .sizes import is_xl
from .stage import Stage

Asked = Callable[[], torch.Tensor]
"""The x0 (B, 4, h, w) that the teacher wants; it is asked, and costs its passes, when this is called."""

LORA_FILE = "-lora"
"""End of the name of the file with what the student learned, as a LoRA."""


def also_reads(config: Config) -> tuple[str, ...]:
    """Parts and numbers of a picture that a run reads beside picture, sketch and reference."""
    masks = ("mask", "reference_mask") if set(config.distill.modes) - {"vanilla"} else ()
    return (*masks, *(("score", "size") if is_xl(config) else ()), *(("crop",) if is_xl(config) and masks else ()))


def check(config: Config) -> None:
    """ConfigError for what does not go together."""
    taught, known = config.distill.modes, ", ".join(MODES)
    if not taught or set(taught) - set(MODES):
        raise ConfigError(f"distill.modes holds one or more of {known}, not {list(taught)}.")
    try:
        grid_of(config)
    except ValueError as error:
        raise ConfigError(f"[distill]: {error}") from None
    if adapted.wanted(config) and config.distill.lora_rank:
        raise ConfigError(
            "distill.lora_rank makes a LoRA of whole weights that were trained; adapter.kind trains one: set "
            "distill.lora_rank to 0."
        )


def grid_of(config: Config, total: int = 1000) -> torch.Tensor:
    """The teacher's steps in every segment of the student; see teacher_grid."""
    steps = config.distill.steps
    return teacher_grid(total, steps, -(-config.distill.teacher_steps // steps))


class DistillStage(Stage):
    """Trains `model.diffusion_model` without its region weights, or with [adapter] `diffusion_model`, adapters of it;
    everything else is frozen."""

    def __init__(self, config: Config, device: torch.device) -> None:
        super().__init__(config, device)
        lessons = lessons_for(config, device)
        unet = lessons.colorizer.unet
        unet.gradient_checkpointing = config.system.gradient_checkpointing
        as_teacher: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext
        if adapted.wanted(config):
            teacher, as_teacher = unet, adapted.hang_alone(self, unet).off
        else:
            # It may rest, but whole: rounded to 8 bits it would teach its rounding.
            exact = dataclasses.replace(config, system=dataclasses.replace(config.system, frozen_8bit=False))
            teacher = freeze(copy.deepcopy(unet), exact, device)
            for name, parameter in unet.named_parameters():
                parameter.requires_grad_(names.REGION_LORA not in name)
            self.model = nn.ModuleDict({"diffusion_model": unet})
        self.train()
        if config.system.channels_last:
            for network in (unet, teacher, lessons.colorizer.sketch_encoder):
                network.to(memory_format=torch.channels_last)
        # A tuple keeps the frozen networks and the views on them out of the module tree.
        self._around = (lessons, teacher, as_teacher)
        self.schedule = NoiseSchedule().to(device)
        self.grid = grid_of(config, self.schedule.steps)

    @property
    def lessons(self) -> Lessons:
        """The frozen part of the family."""
        return self._around[0]

    def student(self, lesson: Lesson) -> X0:
        """What the student takes for the clean sample."""
        unet = self.lessons.colorizer.unet
        return self._x0(lambda x, t: lesson.answer(unet, x, t))

    def teacher(self, lesson: Lesson) -> X0:
        """What the guided teacher takes for the clean sample."""
        (_, unet, as_teacher), scale = self._around, self.config.distill.guidance

        def guided(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            with as_teacher():
                answer = lesson.answer(unet, x, t)
                if scale == 1:
                    return answer
                return single_guidance(answer, lesson.answer(unet, x, t, reference=False), scale)

        return self._x0(guided)

    def _x0(self, network: X0) -> X0:
        prediction = self.config.model.prediction_type
        return lambda x, t: self.schedule.x0_from(network(x, t), x, t, prediction)

    def forward(self, batch: Batch, draws: Draws, progress: float = 0.0) -> dict[str, torch.Tensor]:
        taught = self.config.distill.modes
        mode = taught[int(torch.randint(len(taught), (), generator=draws.shared))]
        lesson = self.lessons.lesson(batch, mode, draws)
        noise = draws.randn(lesson.latents.shape).to(lesson.latents)
        drawn = draws.timesteps(self.schedule.steps, len(noise))
        learn = self.trajectory if self.config.distill.method == "trajectory" else self.consistency
        x, t, asked = learn(lesson, noise, drawn, draws)
        share = self.config.distill.truth
        by_truth = share > 0 and float(torch.rand((), generator=draws.shared)) < share
        wanted = lesson.latents if by_truth else asked()
        answer, weight = self.student(lesson)(x, t), snr_weight(self.schedule, t)
        distance = denoising_loss(answer, wanted, weight, huber=self.config.loss.huber)
        if not share:
            return {"distillation": distance}
        # Both are there in every step, so that their means over steps are what each has of the loss.
        none = torch.zeros_like(distance)
        return {"distillation": none if by_truth else distance, "truth": distance if by_truth else none}

    @torch.no_grad()
    def trajectory(
        self, lesson: Lesson, noise: torch.Tensor, drawn: torch.Tensor, draws: Draws
    ) -> tuple[torch.Tensor, torch.Tensor, Asked]:
        """(x (B, 4, h, w), t (B,), the x0 wanted there) at the beginnings of the segments of the steps `drawn`."""
        segments = (self.schedule.steps - 1 - drawn) * len(self.grid) // self.schedule.steps
        times = self.grid[segments].to(self.device)
        x = self._starts(lesson, noise, times[:, 0], segments, draws)

        @torch.no_grad()
        def asked() -> torch.Tensor:
            solver = self.config.distill.solver
            return trajectory_target(self.teacher(lesson), self.schedule, x, times, solver)[1]

        return x, times[:, 0], asked

    @torch.no_grad()
    def consistency(
        self, lesson: Lesson, noise: torch.Tensor, drawn: torch.Tensor, draws: Draws
    ) -> tuple[torch.Tensor, torch.Tensor, Asked]:
        """(x (B, 4, h, w), t (B,), the x0 wanted there) at the grid points before the steps `drawn`."""
        points = self.grid.shape[1] - 1
        point = (self.schedule.steps - 1 - drawn) * len(self.grid) * points // self.schedule.steps
        times = self.grid[point // points].to(self.device)
        place = (point % points).to(self.device)[:, None]
        t, following = times.gather(1, place)[:, 0], times.gather(1, place + 1)[:, 0]
        x = self._starts(lesson, noise, t, torch.where(point % points == 0, point // points, 0), draws)

        @torch.no_grad()
        def asked() -> torch.Tensor:
            teacher, student = self.teacher(lesson), self.student(lesson)
            return consistency_target(teacher, student, self.schedule, x, t, following, times[:, -1])

        return x, t, asked

    def _starts(
        self, lesson: Lesson, noise: torch.Tensor, t: torch.Tensor, segments: torch.Tensor, draws: Draws
    ) -> torch.Tensor:
        """x (B, 4, h, w) at steps t (B,): noisy pictures, or with distill.own_starts where the student itself arrives
        at the beginning of `segments` (B,) from the same noise. Segment 0 begins with noise, or is not asked."""
        x = noisy_start(self.schedule, lesson.latents, noise, t)
        own = (draws.rand((len(noise), 1))[:, 0] < self.config.distill.own_starts) & (segments > 0)
        if not own.any():
            return x
        arrived, student = noise, self.student(lesson)
        for number in range(int(segments[own].max())):
            begin, end = (self.grid[number, place].expand(len(noise)).to(self.device) for place in (0, -1))
            landed = jump(self.schedule, arrived, student(arrived, begin), begin, end)
            arrived = torch.where((segments > number).to(self.device).view(-1, 1, 1, 1), landed, arrived)
        return torch.where(own.to(self.device).view(-1, 1, 1, 1), arrived, x)

    @torch.no_grad()
    def sheet(self, batch: Batch, draws: Draws) -> np.ndarray:
        """Columns: sketch, reference, results of the student and of the teacher (report.sample_steps) in the first of
        distill.modes, the true picture. Both results start from the same noise."""
        (lessons, teacher, as_teacher), report, settings = self._around, self.config.report, self.config.distill
        colorizer, student = lessons.colorizer, lessons.colorizer.unet
        sketches, references = model_sketch(batch["sketch"]), picture(batch["reference"])
        masks = [figure_mask(batch[name]) if name in batch else None for name in ("mask", "reference_mask")]
        seed, results = draws.seed, []
        with borrowed(*lessons.frozen):
            tokens = colorizer.tokens(references)
            regions = colorizer.regions(settings.modes[0], references, *masks)
            for unet, form, how in (
                (student, contextlib.nullcontext, Denoising(settings.steps, 1.0, sampler=distilled.SAMPLER)),
                (teacher, as_teacher, Denoising(report.sample_steps, settings.guidance)),
            ):
                colorizer.unet = unet
                noise = torch.Generator().manual_seed(seed)
                with form():
                    results.append(colorizer.generate(sketches, tokens, how, noise, regions))
            colorizer.unet = student
        return contact_sheet([-sketches, references, *results, picture(batch["color"])])

    def facts(self) -> distilled.Distilled:
        """What the exported file says about how it is run."""
        return distilled.Distilled(self.config.distill.steps, self.config.distill.guidance)

    def export(self, weights: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
        """The whole model: model.init with the student as its U-Net; or adapters that make it one."""
        config, lessons, facts = self.config, self.lessons, self.facts()
        if adapted.wanted(config):
            tensors, header = adapted.export(config, lessons.family, weights)
            return tensors | facts.lora_marker(), header | facts.header()
        network = lessons.colorizer.unet.config
        markers = model_markers(config.model.prediction_type, network.num_head_channels)
        learned, how = self.marks()
        return lessons.exported(weights) | markers | learned, model_header(config, lessons.family, network) | how

    def marks(self) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
        """Those of a student."""
        facts = self.facts()
        return facts.marker(), facts.settings.header() | facts.header()

    def further_exports(
        self, weights: Mapping[str, torch.Tensor]
    ) -> dict[str, tuple[dict[str, torch.Tensor], dict[str, str]]]:
        """What the student learned, as a LoRA for the file of model.init."""
        rank = self.config.distill.lora_rank
        if not rank:
            return {}
        after = {k.removeprefix(names.UNET): v for k, v in weights.items() if names.REGION_LORA not in k}
        lora, facts = low_rank_difference(self.lessons.before(), after, rank), self.facts()
        header = lora_header(Path(self.config.run.output).name, rank) | facts.header()
        return {LORA_FILE: (lora | facts.lora_marker(), header)}
