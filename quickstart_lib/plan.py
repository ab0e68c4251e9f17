"""What a run will colour and with what, looked at before any work is done."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import job, models, output, pictures, sizes
from .errors import QuickstartError
from .terminal import Status

PACK = Path(__file__).parent.parent
API_WORKFLOW = PACK / "workflows" / "api" / "quickstart.json"
FLATS_WORKFLOW = PACK / "workflows" / "api" / "flats.json"
EXAMPLES = PACK / "workflows" / "examples"
MODEL_FOLDERS = {"checkpoint": "checkpoints", "encoder": "clip_vision"}  # option -> folder in models/


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
    palette: Path | None = None
    layers: Path | None = None


def palette_file(given: Path | None) -> Path | None:
    """The palette that --palette names, checked before any work is done."""
    if given is None:
        return None
    file = given.expanduser().absolute()
    if not file.is_file():
        raise QuickstartError(f"--palette is {file}, but there is no such file.")
    if file.suffix.lower() not in (".gpl", ".json"):
        raise QuickstartError(
            f"--palette is {given}, but palettes are .gpl (Krita, GIMP) or .json files. Export it as one of them."
        )
    return file


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


@dataclass(frozen=True)
class Models:
    """The model files of a run."""

    files: dict[str, Path]
    """Option -> file."""
    checkpoint: models.Checkpoint
    trained: int
    """Side of the pictures the model was trained on, pixels."""
    sampler: dict[str, int | float | str]
    """Option -> how the model is best sampled; empty where the workflow says it, as with a student."""


def look_at_models(chosen: argparse.Namespace, comfy: Path, workflow: job.Workflow) -> Models:
    """The model files that the options name, checked against each other; raises QuickstartError."""
    files = {
        option: model_file(option, getattr(chosen, option), job.value_of(workflow, option), comfy)
        for option in MODEL_FOLDERS
    }
    checkpoint = models.checkpoint(files["checkpoint"])
    models.check_encoder(files["encoder"], checkpoint)
    sampler = {} if job.has_student(workflow) else checkpoint.sampler
    return Models(files, checkpoint, checkpoint.side or job.value_of(workflow, "width"), sampler)


def values_for(chosen: argparse.Namespace, found: Models, drawing: tuple[int, int] | None) -> dict[str, Any]:
    """Option -> value for the workflow, for a drawing of this (width, height); None keeps the workflow's."""
    width, height = sizes.working_size(drawing, chosen.size or found.trained, chosen.width, chosen.height)
    own = {"steps": chosen.steps, "reference_scale": chosen.reference_scale}
    sampler = found.sampler | {option: value for option, value in own.items() if value is not None}
    return dict(width=width, height=height, canvas=job.AS_GIVEN, seed=chosen.seed) | sampler


def check_size(values: dict[str, Any], found: Models, workflow: job.Workflow, status: Status) -> None:
    """Say what an absurd working size means, or refuse it."""
    weights, steps = found.files["checkpoint"].stat().st_size, values.get("steps") or job.value_of(workflow, "steps")
    sizes.check(values["width"], values["height"], found.trained, weights, steps, status)


def make_plan(chosen: argparse.Namespace, comfy: Path, workflow: job.Workflow, status: Status) -> Plan:
    """Look at everything the person gave; raises QuickstartError before any work is done."""
    sketch, reference = (picture(option, getattr(chosen, option)) for option in ("sketch", "reference"))
    found = look_at_models(chosen, comfy, workflow)
    values = values_for(chosen, found, sketch.size)
    check_size(values, found, workflow, status)
    layers = output.layers_file(chosen.layers) if chosen.layers else None
    values["layers"] = layers.suffix.lower()[1:] if layers else None
    values |= job.results(workflow, sketch.size)
    written, palette = output.output_file(chosen.output), palette_file(chosen.palette)
    return Plan(sketch, reference, found.files, found.checkpoint, values, written, palette, layers)


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
    if job.has_student(filled):
        status.line("Fast, by the model's student; the model itself, with more steps and guidance: add --quality full")
    if example:
        status.line("Your own: python quickstart.py my_sketch.png my_reference.png")
    if not chosen.flats:
        status.line("Clean cels with the drawing's own edges, and layers: add --flats, --layers out.psd")
    same = plan.sketch.file.read_bytes() == plan.reference.file.read_bytes()
    if same:
        status.line("The sketch and the reference are the same picture: there is nothing to take colours from.")
