"""Many drawings, one server: the models and the reference are read once, results come as they are made, and a run that
was stopped goes on where it was. One seed gives all drawings of one size the same noise."""

import argparse
import json
import os
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spread.crew import Crew

from . import environment, frames, job, keyed, output, pictures, videos
from .errors import QuickstartError, ServerGone
from .lock import locked
from .plan import (
    API_WORKFLOW,
    FLATS_WORKFLOW,
    PACK,
    Models,
    check_size,
    look_at_models,
    palette_file,
    picture,
    values_for,
)
from .quality import student, student_in, with_student
from .record import DONE, FAILED, WRITING, Entry, Record, digest
from .runtime import choose_environment, find_comfyui, place_models, tell_device, upload_all
from .server import Server
from .stations import Order, Station, crew_of
from .terminal import Status, Stopwatch, clock
from .websocket import WebSocket

QUEUED = 2  # prompts in the server's queue, so that it never waits for us


@dataclass
class Task:
    """One drawing that is to be coloured."""

    number: int
    file: Path
    target: Path
    entry: Entry
    workflow: job.Workflow
    layers: str = ""
    """Ending of the layered document that is wanted beside the picture."""
    suspect: bool = False
    """A server ended while it had this drawing: it is tried alone, and given up when that ends a server again."""


def server_name(task: Task) -> str:
    """A drawing's file in a server's input folder."""
    return f"frame_{task.number:06d}{task.file.suffix.lower()}"


@dataclass(frozen=True)
class Queued:
    """A drawing that the server has."""

    task: Task
    workflow: job.Workflow
    prompt: str
    """The prompt's id."""
    name: str
    """The drawing's file in the server's input folder."""


class ServerDied(Exception):
    """The server ended; `there` are the drawings it had, the one at work first."""

    def __init__(self, text: str, there: list[Task]):
        super().__init__(text)
        self.there = there


class ShotProgress(job.Progress):
    """A drawing's progress, with its place among all and the time left."""

    def __init__(self, workflow: job.Workflow, status: Status, where: str):
        super().__init__(workflow, status)
        self._where = where

    def take(self, kind: str, data: dict) -> None:
        if self.status.live and kind == "progress" and str(data.get("node")) == self.sampler:
            self.status.show(f"{self._where}  step {data['value']} of {data['max']}")
        elif kind == "executing":
            self.now = job.title_of(self.workflow.get(str(data.get("node")), {"class_type": self.now, "inputs": {}}))


class Shot:
    """The work on one list of drawings: what is to be done, and what became of it."""

    def __init__(self, record: Record, tasks: list[Task], count: int, status: Status, palette: Path | None = None):
        self.record, self.tasks, self.count, self.status = record, deque(tasks), count, status
        self.palette = palette
        self._watch, self._made, self._all = Stopwatch(), 0, 0

    def shared(self, reference: Path) -> dict[str, Path]:
        """What all drawings are given, by option."""
        return {"reference": reference} | ({"palette": self.palette} if self.palette else {})

    def work(self, server: Server, models: dict[str, Path], reference: Path) -> None:
        """Colour what is left; raises ServerDied, and QuickstartError when nothing more can be done."""
        self._begin()
        given = place_models(server, models) | upload_all(server, self.shared(reference))
        queued: deque[Queued] = deque()
        with job.open_events(server) as events:
            try:
                while self.tasks or queued:
                    while self._may_start(queued):
                        self._start(server, self.tasks.popleft(), given, queued)
                    if queued:
                        self._finish(server, events, queued)
                        queued.popleft()
            finally:
                self.tasks.extendleft(reversed([each.task for each in queued]))

    def _begin(self) -> None:
        self._watch, self._made, self._all = Stopwatch(), 0, len(self.tasks)

    def work_on(self, crew: Crew, station: Station) -> None:
        """Colour what is left on a cluster; this process reads the drawings and keeps the pictures."""
        self._begin()
        orders = (Order(server_name(task), task.file.read_bytes(), task.workflow) for task in list(self.tasks))
        for outcome, seconds in crew.map(station.colour, orders):
            task = self.tasks.popleft()
            if isinstance(outcome, str):
                self._fail(task, outcome)
            else:
                self._keep(task, outcome, seconds)

    def _may_start(self, queued: deque[Queued]) -> bool:
        alone = any(task.suspect for task in [*(each.task for each in queued), *list(self.tasks)[:1]])
        return bool(self.tasks) and len(queued) < (1 if alone else QUEUED)

    def _start(self, server: Server, task: Task, given: dict[str, str], queued: deque[Queued]) -> None:
        try:
            name = server.upload(task.file, server_name(task))
            workflow = job.fill(task.workflow, given | {"sketch": name})
            queued.append(Queued(task, workflow, job.queue(server, workflow), name))
        except ServerGone as error:
            self.tasks.appendleft(task)
            raise ServerDied(str(error), [*(each.task for each in queued), task]) from error
        except QuickstartError as error:
            self._fail(task, str(error))

    def _finish(self, server: Server, events: WebSocket, queued: deque[Queued]) -> None:
        """Wait for the first of the queue, and keep what it made."""
        first, watch = queued[0], Stopwatch()
        where = f"Colouring {first.task.number} of {self.count}{self._left()}"
        if self.status.live:
            self.status.show(where)
        entry: dict[str, Any] = {}
        try:
            entry = job.follow(server, events, first.prompt, ShotProgress(first.workflow, self.status, where))
            result = job.result_of(server, first.workflow, entry)
        except ServerGone as error:
            raise ServerDied(str(error), [each.task for each in queued]) from error
        except QuickstartError as error:
            self._fail(first.task, str(error))
        else:
            self._keep(first.task, result, watch.seconds())
        job.tidy(server, first.prompt, first.name, entry)

    def _keep(self, task: Task, result: job.Result, seconds: float) -> None:
        """Write the picture. Its name is in the report before it appears, so that a kill in between loses nothing."""
        entry = task.entry
        entry.findings, entry.seconds, entry.why = result.findings, round(seconds, 2), ""
        try:
            task.target.parent.mkdir(parents=True, exist_ok=True)
            target = output.numbered(task.target)
            entry.state, entry.picture = WRITING, target.relative_to(self.record.folder).as_posix()
            entry.layers = output.beside(self.record.folder, entry.picture, task.layers)
            self.record.save()
            if task.layers and result.layers:
                output.write(result.layers, self.record.folder / entry.layers)  # the picture comes last
            saved = output.write(result.picture, target)
            entry.state, entry.picture = DONE, saved.relative_to(self.record.folder).as_posix()
            self.record.save()
        except OSError as error:
            raise QuickstartError(
                f"The picture of {task.file.name} could not be written: {error.strerror or error}. Make room; the same "
                "command goes on from here."
            ) from error
        self._made += 1
        note = f"  {len(entry.findings)} findings" if entry.findings else ""
        self.status.line(f"{task.number} of {self.count}: {entry.picture}  {seconds:.1f} s{self._left()}{note}")

    def _fail(self, task: Task, why: str) -> None:
        task.entry.state, task.entry.why = FAILED, why
        self.record.save()
        self._made += 1
        self.status.line(f"{task.number} of {self.count}: {task.file.name} failed: {why}")

    def look_into(self, death: ServerDied) -> None:
        """Try the drawings that a server had once more, one at a time; give that one up which was alone."""
        alone = death.there[0] if len(death.there) == 1 else None
        if alone is not None and alone.suspect:
            self.tasks.remove(alone)
            self._fail(alone, f"ComfyUI ended twice at this drawing, at last with: {death}")
        for task in death.there:
            task.suspect = True

    def _left(self) -> str:
        if not self._made:
            return ""
        return f", {clock(self._watch.seconds() / self._made * (self._all - self._made))} left"


def make_tasks(drawings: list[frames.Drawing], record: Record, values_of: "Values", status: Status) -> list[Task]:
    """What is to be done: the drawings that `record` does not know as done. Those that are no pictures fail at once."""
    tasks = []
    for number, drawing in enumerate(drawings, 1):
        try:
            data = drawing.file.read_bytes()
            shown = pictures.examine("--sketch", drawing.file)
        except (OSError, QuickstartError) as error:
            record.entries[drawing.label] = Entry(drawing.label, "", FAILED, why=str(error))
            status.line(f"{number} of {len(drawings)}: {drawing.label} failed: {error}")
            continue
        workflow, size = values_of(shown.size)
        entry = record.take(drawing.label, digest(values_of.about, size, data))
        if entry.state != DONE:
            target = record.folder / drawing.target
            tasks.append(Task(number, drawing.file, target, entry, workflow, values_of.layers))
    return tasks


class Values:
    """The workflow for a drawing of any size, filled in as the options say."""

    def __init__(self, chosen: argparse.Namespace, models: Models, workflow: job.Workflow, status: Status):
        self._chosen, self._models, self._workflow, self._status = chosen, models, workflow, status
        self._told: set[str] = set()
        self.layers, self.palette = flat_files(chosen)
        self.about = ""
        """Everything else that decides how the pictures come out."""

    def __call__(self, drawing: tuple[int, int] | None) -> tuple[job.Workflow, str]:
        """(workflow, working size as text) for a drawing of this (width, height)."""
        values = values_for(self._chosen, self._models, drawing)
        size = f"{values['width']} x {values['height']}"
        if size not in self._told:
            self._told.add(size)
            check_size(values, self._models, self._workflow, self._status)
        values |= job.results(self._workflow, drawing)
        return job.fill(self._workflow, values | {"layers": self.layers or None}), size


def is_flat(chosen: argparse.Namespace) -> bool:
    """Whether the model's own pictures are made flat. With --key they only decide what no key shows."""
    return chosen.flats and chosen.key is None


def flat_files(chosen: argparse.Namespace) -> tuple[str, Path | None]:
    """(ending of the layered documents, or nothing; palette) for the model's own pictures."""
    return (output.layers_kind(chosen.layers), palette_file(chosen.palette)) if is_flat(chosen) else ("", None)


def about_run(
    chosen: argparse.Namespace, reference: pictures.Picture, models: Models, workflow: job.Workflow
) -> dict[str, str | int | float | None]:
    """Everything that decides how the pictures come out, drawings and sizes apart."""
    filled = job.fill(workflow, values_for(chosen, models, None))
    values = {name: job.value_of(filled, name) for name in ("steps", "seed", "reference_scale", "sampler", "scheduler")}
    values["student"] = student_in(workflow)
    layers, palette = flat_files(chosen)
    files = {name: f"{file.name}, {file.stat().st_size} bytes" for name, file in models.files.items()}
    return {
        "reference": str(reference.file),
        "reference_digest": digest(reference.file.read_bytes()),
        "workflow_digest": digest(json.dumps(workflow, sort_keys=True)),
        **files,
        **values,
        **({"layers": layers} if layers else {}),
        **({"palette": digest(palette.read_bytes())} if palette else {}),
    }


def colour(chosen: argparse.Namespace, status: Status) -> int:
    """Colour every drawing of --sketch into the folder --output; the exit status, 1 when a drawing failed."""
    cache = environment.cache_folder(os.environ, Path.home())
    reference = picture("reference", chosen.reference)
    output.layers_kind(chosen.layers)
    palette_file(chosen.palette)
    key = keyed.keys_of(chosen)
    videos.check(chosen.sketch)
    if key is not None and not frames.is_video(chosen.sketch):
        keyed.check(key, frames.listed(chosen.sketch))
    target = videos.Target.of(chosen.output)
    folder = output.output_folder(target.frames)
    with locked(cache / "locks" / digest(str(folder)), wait=False) as free:
        if not free:
            raise QuickstartError(
                f"Another quickstart is writing into {folder}. Wait for it, or choose another folder."
            )
        return _colour(chosen, reference, key, folder, target, cache, status)


def _colour(
    chosen: argparse.Namespace,
    reference: pictures.Picture,
    key: keyed.Keys | None,
    folder: Path,
    target: videos.Target,
    cache: Path,
    status: Status,
) -> int:
    crew = crew_of(chosen.ray, chosen.cpu) if chosen.ray else None
    watch, whole = Stopwatch(), job.load_workflow(FLATS_WORKFLOW if is_flat(chosen) else API_WORKFLOW)
    workflow = with_student(whole, student(chosen))
    comfy = find_comfyui(chosen, cache, status)
    models = look_at_models(chosen, comfy, workflow)
    env = choose_environment(chosen, comfy, cache, (), status)
    values_of = Values(chosen, models, workflow, status)
    about = about_run(chosen, reference, models, workflow)
    values_of.about = json.dumps({name: value for name, value in about.items() if name != "reference"}, sort_keys=True)
    with videos.drawings(chosen.sketch, env, status) as (drawings, speed):
        if key:
            keyed.check(key, drawings)  # a video's are known from here on
        record = Record(folder, about)
        tasks = make_tasks(drawings, record, values_of, status)
        shot = Shot(record, tasks, len(drawings), status, values_of.palette)
        introduce(shot, drawings, reference, models, status)
        tell_device(env, chosen, status)
        record.save()
        try:
            if crew:
                files = shot.shared(reference.file)
                shot.work_on(crew, Station(env, comfy, cache / "logs", crew.gpus > 0, models.files, files))
            while shot.tasks:
                server = Server(env, comfy, PACK, cache / "logs", status, cpu=chosen.cpu)
                _serve(shot, server, workflow, models, reference)
        except KeyboardInterrupt:
            status.line(f"{len(shot.tasks)} drawings are left: the same command goes on.")
            raise
        entries = [record.entries[drawing.label] for drawing in drawings]
        failed = [entry for entry in entries if entry.state == FAILED]
        status.line(f"Pictures: {len(entries) - len(failed)} of {len(entries)} in {folder}, {clock(watch.seconds())}")
        for entry in failed:
            status.line(f"  {entry.sketch}: {entry.why.splitlines()[0] if entry.why else 'failed'}")
        if failed:
            for asked, what in ((key, "The key's colours are carried"), (target.video, "The video is written")):
                if asked:
                    status.line(f"{what} when every drawing has its picture.")
            return 1
        made = [folder / entry.picture for entry in entries]
        if key:
            made = keyed.carry(key, drawings, record, env, status)
        if target.video:
            status.line(f"Video: {videos.join(made, target.video, speed, env, status)}")
    return 0


def _serve(shot: Shot, server: Server, workflow: job.Workflow, models: Models, reference: pictures.Picture) -> None:
    """Work until everything is done or the server ends."""
    try:
        with server:
            server.require_nodes(workflow)
            shot.work(server, models.files, reference.file)
    except ServerDied as death:
        shot.status.line(f"ComfyUI ended: {str(death).splitlines()[0]} Starting it again.")
        shot.look_into(death)


def introduce(
    shot: Shot, drawings: list[frames.Drawing], reference: pictures.Picture, models: Models, status: Status
) -> None:
    """Say what is about to be coloured, with what."""
    known = sum(shot.record.entries[drawing.label].state == DONE for drawing in drawings)
    status.line(f"Drawings: {len(drawings)}" + (f", {known} of them coloured already" if known else ""))
    status.line(f"Reference: {reference.file}")
    status.line(f"Model: {models.files['checkpoint'].name} ({models.checkpoint.title})")
    if any(task.target.exists() for task in shot.tasks):
        status.line("There are pictures of these names already, made otherwise: they stay, and new ones get a number.")
