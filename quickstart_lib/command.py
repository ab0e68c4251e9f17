"""The command line of quickstart.py and the order of its work."""

import argparse
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import comfyui, environment, job, models, options, output, pictures, sizes, testing
from .errors import QuickstartError
from .requirements import EXTRAS_FOR_TESTS, EXTRAS_FOR_TRAINER
from .server import Server, place
from .terminal import Status, Stopwatch, clock, give_up

PACK = Path(__file__).parent.parent
API_WORKFLOW = PACK / "workflows" / "api" / "quickstart.json"
EXAMPLES = PACK / "workflows" / "examples"
MODEL_FOLDERS = {"checkpoint": "checkpoints", "encoder": "clip_vision"}  # option -> folder in models/
NO_GPU_IN_TORCH = (
    "There is an NVIDIA driver, but this torch sees no GPU: computing on the CPU. To use the GPU, start quickstart "
    "with --torch cuda, or with the Python of a ComfyUI that does: python quickstart.py --use-current-environment"
)


@dataclass(frozen=True)
class Plan:
    """One picture, everything looked at that can be known before ComfyUI starts."""

    sketch: pictures.Picture
    reference: pictures.Picture
    files: dict[str, Path]
    """Option -> model file."""
    checkpoint: models.Checkpoint
    values: dict[str, Any]
    """Option -> value for the workflow; None keeps the workflow's."""
    output: Path


def picture(option: str, given: Path | None) -> pictures.Picture:
    """The picture to upload, checked before any work is done."""
    file = (given or EXAMPLES / f"quickstart_{option}.png").expanduser().absolute()
    if not file.is_file() and given:
        raise QuickstartError(f"--{option} is {file}, but there is no such file.")
    if not file.is_file():
        raise QuickstartError(
            f"The bundled picture {file} is missing. Restore it from the repository, or give your own with --{option}."
        )
    return pictures.examine(f"--{option}", file)


def model_file(option: str, given: str | None, bundled: str, comfy: Path) -> Path:
    """The file an option names: a path, or a name in the pack's or ComfyUI's models folder; else `bundled`."""
    places = [base / "models" / MODEL_FOLDERS[option] for base in (PACK, comfy)]
    for file in (Path(given or bundled).expanduser(), *(where / (given or bundled) for where in places)):
        if file.is_file():
            return file.absolute()
    if given is None:
        raise QuickstartError(
            f"The bundled file {places[0] / bundled} is missing. Restore it from the repository, "
            f"or name another with --{option}."
        )
    raise QuickstartError(
        f"--{option} is {given}, but there is no such file, here or in {' or '.join(map(str, places))}. "
        f"These can be used: {', '.join(models.usable(option, places)) or 'none'}."
    )


def make_plan(chosen: argparse.Namespace, comfy: Path, workflow: job.Workflow, status: Status) -> Plan:
    """Look at everything the person gave; raises QuickstartError before any work is done."""
    sketch, reference = (picture(option, getattr(chosen, option)) for option in ("sketch", "reference"))
    files = {
        option: model_file(option, getattr(chosen, option), job.value_of(workflow, option), comfy)
        for option in MODEL_FOLDERS
    }
    checkpoint = models.checkpoint(files["checkpoint"])
    models.check_encoder(files["encoder"], checkpoint)
    trained = checkpoint.side or job.value_of(workflow, "width")
    width, height = sizes.working_size(sketch.size, chosen.size or trained, chosen.width, chosen.height)
    steps = chosen.steps or job.value_of(workflow, "steps")
    sizes.check(width, height, trained, files["checkpoint"].stat().st_size, steps, status)
    scale = chosen.reference_scale if chosen.reference_scale is not None else checkpoint.scale
    values = dict(
        width=width, height=height, canvas=job.AS_GIVEN, steps=chosen.steps, seed=chosen.seed, reference_scale=scale
    )
    return Plan(sketch, reference, files, checkpoint, values, output.output_file(chosen.output))


def introduce(plan: Plan, chosen: argparse.Namespace, workflow: job.Workflow, status: Status) -> None:
    """Say what is about to be coloured, with what, and how to take one's own pictures."""
    filled = job.fill(workflow, plan.values)
    example = chosen.sketch is None and chosen.reference is None
    status.line(f"Sketch: {plan.sketch.file}{' (the bundled example)' if chosen.sketch is None else ''}")
    status.line(f"Reference: {plan.reference.file}{' (the bundled example)' if chosen.reference is None else ''}")
    drawing = plan.sketch.size
    status.line(
        f"Model: {plan.files['checkpoint'].name} ({plan.checkpoint.title}), working at {plan.values['width']} x "
        f"{plan.values['height']}, {job.value_of(filled, 'steps')} steps"
        + (f"; the picture gets the drawing's {drawing[0]} x {drawing[1]}" if drawing else "")
    )
    if example:
        status.line("Your own: python quickstart.py my_sketch.png my_reference.png")
    same = plan.sketch.file.read_bytes() == plan.reference.file.read_bytes()
    if same:
        status.line("The sketch and the reference are the same picture: there is nothing to take colours from.")


def choose_environment(
    chosen: argparse.Namespace, comfy: Path, cache: Path, extras: Sequence[str], status: Status
) -> environment.Environment:
    """The environment the options ask for."""
    if chosen.use_current_environment:
        return environment.current(comfy, PACK, extras)
    wishes = environment.Wishes(chosen.torch, chosen.rebuild, chosen.verbose)
    return environment.prepare(comfy, PACK, extras, cache, status, wishes)


def find_comfyui(chosen: argparse.Namespace, cache: Path, status: Status) -> Path:
    """ComfyUI's folder, as the options ask for."""
    return comfyui.find_or_fetch(chosen.comfyui, typed_pack(), os.environ, Path.home(), cache, status)


def colour(chosen: argparse.Namespace, status: Status) -> None:
    """The main job."""
    cache, setup = environment.cache_folder(os.environ, Path.home()), Stopwatch()
    for option in ("sketch", "reference"):
        picture(option, getattr(chosen, option))  # before a first start fetches anything
    output.output_file(chosen.output)
    workflow = job.load_workflow(API_WORKFLOW)
    comfy = find_comfyui(chosen, cache, status)
    plan = make_plan(chosen, comfy, workflow, status)
    introduce(plan, chosen, workflow, status)
    env = choose_environment(chosen, comfy, cache, (), status)
    if env.device == "cpu" and not chosen.cpu and shutil.which("nvidia-smi"):
        status.line(NO_GPU_IN_TORCH)
    setup_seconds, start = setup.seconds(), Stopwatch()
    with Server(env, comfy, PACK, cache / "logs", status, cpu=chosen.cpu) as server:
        server.require_nodes(workflow)
        start_seconds, work = start.seconds(), Stopwatch()
        values = dict(plan.values)
        for name, shown in (("sketch", plan.sketch), ("reference", plan.reference)):
            values[name] = server.upload(shown.file, f"quickstart_{name}{shown.file.suffix.lower()}")
        for option, file in plan.files.items():
            values[option] = file.name
            place(file, server.base / "models" / MODEL_FOLDERS[option] / file.name)
        filled = job.fill(workflow, values)
        result = job.run(server, filled, status, output.FORMATS[plan.output.suffix.lower()])
        work_seconds = work.seconds()
        saved = output.save(result.picture, plan.output, status)  # before anything else can go wrong
    status.clear()
    status.line(f"Picture: {saved}")
    for finding in result.findings:
        status.line(f"  {finding}")
    status.line(f"Seed: {job.value_of(filled, 'seed')}")
    device = "CPU" if server.cpu else env.device
    status.line(f"Seconds: set-up {setup_seconds:.1f}, server start {start_seconds:.1f}, picture {work_seconds:.1f}")
    status.line(f"Computed on: {device}")


def typed_pack() -> Path:
    """The pack's folder as the person named it: a link inside custom_nodes tells where ComfyUI is."""
    return Path(os.path.abspath(sys.argv[0])).parent if Path(sys.argv[0]).name == "quickstart.py" else PACK


def other_program(mode: str, chosen: argparse.Namespace, arguments: Sequence[str], status: Status) -> int:
    """The test suite or the trainer in quickstart's environment; its exit status."""
    cache, watch = environment.cache_folder(os.environ, Path.home()), Stopwatch()
    comfy = find_comfyui(chosen, cache, status)
    extras = EXTRAS_FOR_TESTS if mode == "tests" else EXTRAS_FOR_TRAINER
    env = choose_environment(chosen, comfy, cache, extras, status)
    status.line(f"Environment ready in {clock(watch.seconds())}: {env.python} (torch {env.torch}), ComfyUI {comfy}")
    if mode == "tests":
        return testing.run(env, comfy, PACK, arguments, status)
    return testing.train(env, PACK, arguments)


def _leave(number: int, _frame) -> None:
    """Turn a polite kill into an exit that runs every clean-up."""
    raise SystemExit(128 + number)


def _tell(text: str, status: Status) -> None:
    """Print a last word on the error stream, where that can be written."""
    status.clear()
    try:
        print(f"quickstart: {text}", file=sys.stderr, flush=True)
    except (OSError, ValueError):
        give_up(sys.stderr)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 done, 1 could not be done, 2 wrong options, 130 after Ctrl-C."""
    for name in ("SIGTERM", "SIGHUP", "SIGBREAK"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _leave)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a file name that the terminal's encoding does not have
    chosen, mode, rest = options.read(list(sys.argv[1:] if arguments is None else arguments))
    status = Status()
    try:
        if mode != "colour":
            return other_program(mode, chosen, rest, status)
        colour(chosen, status)
        return 0
    except QuickstartError as error:
        _tell(str(error), status)
        return 1
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        _tell(
            f"The system refused something quickstart needs: {error.strerror or error}{where}. Check the free disk "
            "space and the rights on this folder; COLORIZE_CACHE moves quickstart's own files to another one.",
            status,
        )
        return 1
    except KeyboardInterrupt:
        _tell("stopped; nothing is left running", status)
        return 130
