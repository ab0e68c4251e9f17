"""Where the picture goes: checked before the work, written so that it is whole or not there, and never lost."""

import os
import sys
import tempfile
from pathlib import Path

from .errors import QuickstartError
from .terminal import Status

FORMATS = {
    ".png": None,
    ".jpg": "jpeg;95",
    ".jpeg": "jpeg;95",
    ".webp": "webp;95",
}  # suffix -> what ComfyUI converts to
LAYERS = (".psd", ".ora")


def numbered(file: Path) -> Path:
    """`file`, or the first of file-2, file-3... that does not exist."""
    candidate, number = file, 1
    while candidate.exists():
        number += 1
        candidate = file.with_name(f"{file.stem}-{number}{file.suffix}")
    return candidate


def beside(folder: Path, picture: str, ending: str) -> str:
    """A free name, below `folder`, for the layered document of a picture there; nothing without an ending."""
    return numbered((folder / picture).with_suffix(f".{ending}")).relative_to(folder).as_posix() if ending else ""


def output_file(given: Path | None) -> Path:
    """The picture to write, checked before any work is done."""
    return _checked(given or Path("colorized.png"), "--output", "PNG, JPEG and WebP", tuple(FORMATS))


def layers_file(given: Path) -> Path:
    """The layered document to write, checked before any work is done."""
    return _checked(given, "--layers", "PSD and OpenRaster", LAYERS)


def layers_kind(given: Path | None) -> str:
    """The ending that --layers names for many drawings, checked before any work is done; nothing without it."""
    kind = str(given or "").lower()
    if kind and f".{kind}" not in LAYERS:
        raise QuickstartError(
            f"--layers is {given}, but --sketch names many drawings. Give psd or ora: every drawing gets a document "
            "beside its picture."
        )
    return kind


def _checked(given: Path, option: str, kinds: str, endings: tuple[str, ...]) -> Path:
    """The file that an option names, with the first ending where it has none, under a name that is free."""
    file = given.expanduser().absolute()
    if file.is_dir():
        file = file / f"colorized{endings[0]}"
    if not file.suffix:
        file = file.with_suffix(endings[0])
    if file.suffix.lower() not in endings:
        raise QuickstartError(
            f"{option} is {given}, but quickstart writes {kinds}. Use a name that ends in "
            f"{', '.join(endings[:-1])} or {endings[-1]}."
        )
    if not file.parent.is_dir():
        raise QuickstartError(f"{option} is {given}, but the folder {file.parent} does not exist. Make it first.")
    if not os.access(file.parent, os.W_OK):
        raise QuickstartError(
            f"{option} is {given}, but nothing can be written into {file.parent}. Choose another folder."
        )
    return numbered(file)


def output_folder(given: Path | None) -> Path:
    """The folder for the pictures of many drawings, made when it is not there; checked before any work is done."""
    given = given or Path("colorized")
    folder = given.expanduser().absolute()
    if folder.is_file() or folder.suffix.lower() in FORMATS:
        raise QuickstartError(
            f"--output is {given}, but --sketch names many drawings: give a folder for their pictures."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise QuickstartError(f"--output is {given}, which cannot be made: {error.strerror or error}.") from error
    if not os.access(folder, os.W_OK):
        raise QuickstartError(f"--output is {given}, but nothing can be written into it. Choose another folder.")
    return folder


def write(data: bytes, file: Path) -> Path:
    """Write `data` as `file`, or under the next free number; the name appears when everything is on the disk."""
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        with open(part, "xb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        target = numbered(file)  # somebody may have written it meanwhile
        part.replace(target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return target


def save(data: bytes, file: Path, status: Status) -> Path:
    """Write the finished picture; where that fails, into another folder, at last one the person names."""
    problems = []
    for folder in dict.fromkeys((file.parent, Path.home(), Path(tempfile.gettempdir()))):
        try:
            saved = write(data, folder / file.name)
        except OSError as error:
            problems.append(f"{folder}: {error.strerror or error}")
            continue
        if problems:
            status.line(f"The picture could not be written into {problems[0]}.")
        return saved
    while sys.stdin and sys.stdin.isatty():
        status.line("The picture is made, but it can be written nowhere:\n  " + "\n  ".join(problems))
        try:
            folder = Path(input("Make room, or type another folder, and press Enter: ").strip() or file.parent)
            return write(data, folder.expanduser().absolute() / file.name)
        except EOFError:
            break
        except OSError as error:
            problems = [str(error)]
    raise QuickstartError(
        "The picture is made, but it can be written nowhere:\n  " + "\n  ".join(problems) + "\nMake room, or choose "
        "another folder with --output, and start again with the same seed."
    )
