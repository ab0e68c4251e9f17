"""The command line of quickstart.py and the order of its work."""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from spread.errors import SpreadError

from . import environment, frames, job, options, output, shots, testing
from .errors import QuickstartError
from .plan import API_WORKFLOW, FLATS_WORKFLOW, PACK, introduce, make_plan, palette_file, picture
from .quality import student, with_student
from .requirements import EXTRAS_FOR_TESTS, EXTRAS_FOR_TRAINER
from .runtime import choose_environment, find_comfyui, place_models, tell_device, upload_all
from .server import Server
from .terminal import Status, Stopwatch, clock, give_up


def colour(chosen: argparse.Namespace, status: Status) -> None:
    """The main job."""
    cache, setup = environment.cache_folder(os.environ, Path.home()), Stopwatch()
    for option in ("sketch", "reference"):
        picture(option, getattr(chosen, option))  # before a first start fetches anything
    output.output_file(chosen.output)
    if chosen.layers:
        output.layers_file(chosen.layers)
    palette_file(chosen.palette)
    whole = job.load_workflow(FLATS_WORKFLOW if chosen.flats else API_WORKFLOW)
    workflow = with_student(whole, student(chosen))
    comfy = find_comfyui(chosen, cache, status)
    plan = make_plan(chosen, comfy, workflow, status)
    introduce(plan, chosen, workflow, status)
    env = choose_environment(chosen, comfy, cache, (), status)
    tell_device(env, chosen, status)
    setup_seconds, start = setup.seconds(), Stopwatch()
    with Server(env, comfy, PACK, cache / "logs", status, cpu=chosen.cpu) as server:
        server.require_nodes(workflow)
        start_seconds, work = start.seconds(), Stopwatch()
        given = {"sketch": plan.sketch.file, "reference": plan.reference.file}
        given |= {"palette": plan.palette} if plan.palette else {}
        filled = job.fill(workflow, plan.values | upload_all(server, given) | place_models(server, plan.files))
        result = job.run(server, filled, status, output.FORMATS[plan.output.suffix.lower()])
        work_seconds = work.seconds()
        saved = output.save(result.picture, plan.output, status)  # before anything else can go wrong
        layers = output.save(result.layers, plan.layers, status) if plan.layers and result.layers else None
    status.clear()
    status.line(f"Picture: {saved}")
    if layers:
        status.line(f"Layers: {layers}")
    for finding in result.findings:
        status.line(f"  {finding}")
    status.line(f"Seed: {job.value_of(filled, 'seed')}")
    device = "CPU" if server.cpu else env.device
    status.line(f"Seconds: set-up {setup_seconds:.1f}, server start {start_seconds:.1f}, picture {work_seconds:.1f}")
    status.line(f"Computed on: {device}")


def other_program(mode: str, chosen: argparse.Namespace, arguments: Sequence[str], status: Status) -> int:
    """The test suite or the trainer in quickstart's environment; its exit status."""
    if mode == "tests" and not (PACK / "tests").is_dir():
        raise QuickstartError(
            f"{PACK} has no tests: the Comfy registry's package leaves them out. Take the repository itself (a clone "
            "or its archive), which holds tests/, and run the command there."
        )
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
        if frames.is_many(chosen.sketch) or chosen.key is not None or chosen.hints is not None:
            return shots.colour(chosen, status)
        if chosen.ray:
            raise QuickstartError("--ray is for many drawings: give a folder, a pattern or a video with --sketch.")
        colour(chosen, status)
        return 0
    except (QuickstartError, SpreadError) as error:
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
