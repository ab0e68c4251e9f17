"""How a picture is made: fast, by the bundled model's student, or in full, by the model itself with guidance."""

import argparse
from dataclasses import dataclass
from pathlib import Path

from . import job, models
from .errors import QuickstartError
from .plan import PACK

STUDENT_FILE = PACK / "models" / "loras" / "colorize_small_student.safetensors"
OWN = ("checkpoint", "encoder", "reference_scale")  # options of the full way


@dataclass(frozen=True)
class Student:
    """What the bundled model learned as a LoRA, and how it is run."""

    file: Path
    settings: dict[str, int | float | str]
    """Option of job.BINDINGS -> value for the sampler."""


def student(chosen: argparse.Namespace, file: Path = STUDENT_FILE) -> Student | None:
    """The student that the options ask for; None for the full way. Raises QuickstartError where they contradict.

    Without --quality the fast way is taken, unless an option of the full way is given.
    """
    own = [name for name in OWN if getattr(chosen, name) is not None]
    if chosen.quality == "full" or chosen.quality is None and (own or chosen.steps is not None or not file.is_file()):
        return None
    if own:
        option = "--" + own[0].replace("_", "-")
        raise QuickstartError(
            f"--quality fast runs what the bundled model has learned, with guidance in it, and does not go with "
            f"{option}: leave out {option}, or choose --quality full."
        )
    if not file.is_file():
        raise QuickstartError(
            f"The bundled file {file} is missing. Restore it from the repository, or choose --quality full."
        )
    return Student(file, settings_of(file))


def settings_of(file: Path) -> dict[str, int | float | str]:
    """How a student is run, from the header of its file; raises QuickstartError."""
    _, metadata = models.header("The student", file)
    found = models.sampler_settings().stated(metadata)
    if found is None:
        raise QuickstartError(
            f"{file} does not say how it is run, so it is not a student of this pack's trainer. Restore it from the "
            "repository, or choose --quality full."
        )
    return models.sampler_options(found)


def with_student(workflow: job.Workflow, found: Student | None) -> job.Workflow:
    """The workflow with the student's LoRA behind the loader and its settings in the sampler; without any for None.

    Where it makes flats, several results of the student vote: they cost little.
    """
    whole = _without_student(workflow)
    if found is None:
        return whole
    changed = job.fill(whole, found.settings)
    loader = job.find_input(changed, "checkpoint")[0]
    added = _free_id(changed)
    _reconnect(changed, [loader, 0], [added, 0])
    changed[added] = {
        "class_type": "LoraLoaderModelOnly",
        "inputs": {"model": [loader, 0], "lora_name": found.file.name, "strength_model": 1.0},
        "_meta": {"title": job.STUDENT},
    }
    return _voting(changed)


def _without_student(workflow: job.Workflow) -> job.Workflow:
    """A copy of the workflow, of the model itself and with one result of a drawing. How it is sampled then, its file
    says (plan.py)."""
    changed = job.fill(workflow, {})
    for number, node in workflow.items():
        given = {job.STUDENT: "model", job.VOTING: "samples"}.get(job.title_of(node))
        if given is not None:
            _reconnect(changed, [number, 0], changed.pop(number)["inputs"][given])
    for node in changed.values():
        if "together" in node["inputs"]:
            node["inputs"]["together"] = False
    return changed


def _free_id(workflow: job.Workflow) -> str:
    return str(max(int(number) for number in workflow) + 1)


def _reconnect(workflow: job.Workflow, output: list, other: list) -> None:
    """What reads an output reads the other one."""
    for node in workflow.values():
        node["inputs"] |= {name: other for name, value in node["inputs"].items() if value == output}


def _voting(workflow: job.Workflow) -> job.Workflow:
    """The workflow with job.VOTES results of the drawing, which vote on its flats; as it is where none are made."""
    flats = [node for node in workflow.values() if "together" in node["inputs"]]
    if not flats:
        return workflow
    sampler, added = job.find_input(workflow, "steps")[0], _free_id(workflow)
    latent = workflow[sampler]["inputs"]["latent_image"]
    workflow[added] = {
        "class_type": "RepeatLatentBatch",
        "inputs": {"samples": latent, "amount": job.VOTES},
        "_meta": {"title": job.VOTING},
    }
    workflow[sampler]["inputs"]["latent_image"] = [added, 0]
    for node in flats:
        node["inputs"]["together"] = True
    return workflow


def student_in(workflow: job.Workflow) -> str | None:
    """What names the student that a workflow runs, for records; None without one."""
    for node in workflow.values():
        if job.title_of(node) == job.STUDENT:
            return f"{node['inputs']['lora_name']}, {STUDENT_FILE.stat().st_size} bytes"
    return None
