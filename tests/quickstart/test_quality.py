"""Which way a picture is made, and what the fast way changes in the workflow."""

import json
import struct

import pytest

from colorize.names import DISTILLED_FACTS
from colorize.sampler_settings import SMALL
from quickstart_lib import job, models, options, plan, quality
from quickstart_lib.errors import QuickstartError

FACTS = {"steps": 2, "sampler": "euler", "scheduler": "simple", "cfg": 1.0, "guidance": 2.0}


def lora(path, metadata):
    """A file with a header and one tensor of one number."""
    entry = {"x": {"dtype": "F16", "shape": [1], "data_offsets": [0, 2]}, "__metadata__": metadata}
    text = json.dumps(entry).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"\0\0")
    return path


@pytest.fixture
def file(tmp_path):
    return lora(tmp_path / "student.safetensors", {DISTILLED_FACTS: json.dumps(FACTS)})


@pytest.fixture
def workflow(root):
    return job.load_workflow(root / "workflows" / "api" / "quickstart.json")


def chosen(*arguments):
    return options.read([*arguments])[0]


@pytest.mark.parametrize(
    ("arguments", "fast"),
    [
        ([], True),
        (["--quality", "fast"], True),
        (["--quality", "fast", "--steps", "4"], True),
        (["--quality", "full"], False),
        (["--steps", "20"], False),
        (["--reference-scale", "3"], False),
        (["--checkpoint", "mine.safetensors"], False),
        (["--encoder", "mine.safetensors"], False),
    ],
)
def test_options_of_the_full_way_choose_it(file, arguments, fast):
    assert (quality.student(chosen(*arguments), file) is not None) == fast


def test_contradictions_and_missing_files_are_told(tmp_path, file):
    with pytest.raises(QuickstartError, match="does not go with --reference-scale: leave out"):
        quality.student(chosen("--quality", "fast", "--reference-scale", "3"), file)
    gone = tmp_path / "gone.safetensors"
    assert quality.student(chosen(), gone) is None
    with pytest.raises(QuickstartError, match="is missing. Restore it"):
        quality.student(chosen("--quality", "fast"), gone)
    with pytest.raises(QuickstartError, match="does not say how it is run"):
        quality.student(chosen(), lora(tmp_path / "other.safetensors", {}))


@pytest.mark.parametrize("name", ["quickstart", "flats"])
def test_the_student_stands_between_the_loader_and_everything_that_reads_the_model(root, file, name):
    whole = quality.with_student(job.load_workflow(root / "workflows" / "api" / f"{name}.json"), None)
    changed = quality.with_student(whole, quality.student(chosen(), file))
    loader = job.find_input(changed, "checkpoint")[0]
    node = job.find_node(changed, job.STUDENT, "lora_name")
    readers = {n for n, each in whole.items() for value in each["inputs"].values() if value == [loader, 0]}
    assert readers and all([node, 0] in changed[reader]["inputs"].values() for reader in readers)
    assert changed[node]["inputs"] == {"model": [loader, 0], "lora_name": file.name, "strength_model": 1.0}
    told = {option: job.value_of(changed, option) for option in ("steps", "reference_scale", "sampler", "scheduler")}
    assert told == {"steps": 2, "reference_scale": 1.0, "sampler": "euler", "scheduler": "simple"}
    added = {node, *(number for number, each in changed.items() if job.title_of(each) == job.VOTING)}
    assert set(changed) - set(whole) == added and len(added) == (2 if name == "flats" else 1)
    assert quality.with_student(whole, None) == whole
    assert job.STUDENT in job.WORDS


def test_records_tell_one_student_from_none(workflow, file, monkeypatch):
    monkeypatch.setattr(quality, "STUDENT_FILE", file)
    assert quality.student_in(workflow) is None
    changed = quality.with_student(workflow, quality.student(chosen(), file))
    assert quality.student_in(changed) == f"student.safetensors, {file.stat().st_size} bytes"


OPTIONS = ("steps", "reference_scale", "sampler", "scheduler")


def test_a_run_is_sampled_as_its_file_says_or_as_its_student(workflow, file, tmp_path):
    """The model's own settings for the full way, the student's for the fast one, and what a person gives over both."""

    def sampled(whole, *arguments):
        given = chosen(*arguments)
        values = plan.values_for(given, plan.look_at_models(given, tmp_path, whole), None)
        filled = job.fill(whole, values)
        return {option: job.value_of(filled, option) for option in OPTIONS}

    other = job.fill(workflow, {"steps": 99, "scheduler": "karras"})  # what the workflow says does not matter
    assert sampled(other) == models.sampler_options(SMALL)
    assert sampled(other, "--steps", "7", "--reference-scale", "3") == models.sampler_options(SMALL) | {
        "steps": 7,
        "reference_scale": 3.0,
    }
    student = quality.with_student(workflow, quality.student(chosen(), file))
    assert sampled(student) == {"steps": 2, "reference_scale": 1.0, "sampler": "euler", "scheduler": "simple"}
    assert sampled(student, "--quality", "fast", "--steps", "4")["steps"] == 4


def by_titles(workflow):
    """The workflow without its numbers: title -> inputs, links as (title, output)."""
    titles = {number: job.title_of(node) for number, node in workflow.items()}

    def said(value):
        return (titles[value[0]], value[1]) if isinstance(value, list) else value

    return {titles[n]: {name: said(value) for name, value in node["inputs"].items()} for n, node in workflow.items()}


def test_the_template_of_flats_is_what_the_fast_way_runs_and_the_full_way_has_nothing_of_it(root):
    shipped = job.load_workflow(root / "workflows" / "api" / "flats.json")
    before = json.dumps(shipped)
    fast = quality.with_student(shipped, quality.student(chosen(), quality.STUDENT_FILE))
    assert by_titles(fast) == by_titles(shipped)
    full = quality.with_student(shipped, None)
    assert set(by_titles(shipped)) - set(by_titles(full)) == {job.STUDENT, job.VOTING}
    links = [value for inputs in by_titles(full).values() for value in inputs.values() if isinstance(value, tuple)]
    assert {title for title, _ in links} < set(by_titles(full))
    assert by_titles(full)["Flatten Colours"]["together"] is False
    assert json.dumps(shipped) == before


def test_the_student_s_results_vote_on_flats_unless_the_drawing_is_large(root, file, workflow):
    whole = quality.with_student(job.load_workflow(root / "workflows" / "api" / "flats.json"), None)
    fast = quality.with_student(whole, quality.student(chosen(), file))
    node = job.find_node(fast, job.VOTING, "amount")
    latent = whole[job.find_node(whole, "Sampler", "latent_image")]["inputs"]["latent_image"]
    assert fast[node]["inputs"] == {"samples": latent, "amount": job.VOTES}
    assert fast[job.find_node(fast, "Sampler", "latent_image")]["inputs"]["latent_image"] == [node, 0]
    assert fast[job.find_node(fast, "Flatten Colours", "together")]["inputs"]["together"] is True
    assert job.results(fast, (1024, 1024)) == {"results": job.VOTES} == job.results(fast, None)
    assert job.value_of(job.fill(fast, job.results(fast, (4096, 4096))), "results") == 1
    assert job.results(whole, None) == {} == job.results(workflow, None)  # the model itself, and soft pictures
    assert job.VOTING in job.WORDS
