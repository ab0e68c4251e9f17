"""Filling the workflow in, and what a person reads when the server says no."""

import io
import json

import pytest

from quickstart_lib import job
from quickstart_lib.errors import QuickstartError
from quickstart_lib.terminal import Status, step_bar


@pytest.fixture
def workflow(root):
    return job.load_workflow(root / "workflows" / "api" / "quickstart.json")


def test_every_option_has_its_place(workflow):
    values = {
        "sketch": "s.png",
        "reference": "r.png",
        "width": 512,
        "height": 320,
        "canvas": job.AS_GIVEN,
        "checkpoint": "c.safetensors",
        "encoder": "e.safetensors",
        "steps": 3,
        "seed": 0,
        "reference_scale": 5.5,
        "sampler": "lcm",
        "scheduler": "beta",
    }
    assert set(values) == set(job.BINDINGS)
    filled = job.fill(workflow, values)
    assert {option: job.value_of(filled, option) for option in values} == values
    assert job.value_of(workflow, "steps") != 3  # the original is untouched


def test_every_option_has_its_place_in_the_workflow_of_flats(root):
    workflow = job.load_workflow(root / "workflows" / "api" / "flats.json")
    values = {option: number for number, option in enumerate(job.BINDINGS | job.FLATS_BINDINGS)}
    filled = job.fill(workflow, values)
    assert {option: job.value_of(filled, option) for option in values} == values
    assert {job.title_of(node) for node in workflow.values()} <= {*job.WORDS, "Soft Result", "Regions"}


def test_none_keeps_the_workflows_value(workflow):
    assert job.fill(workflow, dict.fromkeys(job.BINDINGS)) == workflow


def test_missing_title_is_told(workflow):
    for node in workflow.values():
        node["_meta"] = {"title": "x"}
    with pytest.raises(QuickstartError, match='titled "Sampler" with the input "cfg"'):
        job.fill(workflow, {"reference_scale": 2.0})


def test_rejection_names_the_node_and_the_problem(workflow):
    node_id, _ = job.find_input(workflow, "checkpoint")
    answer = {
        "error": {
            "type": "prompt_outputs_failed_validation",
            "message": "Prompt outputs failed validation",
            "details": "",
        },
        "node_errors": {
            node_id: {
                "class_type": "ColorizeLoadCheckpoint",
                "dependent_outputs": ["12"],
                "errors": [
                    {
                        "type": "value_not_in_list",
                        "message": "Value not in list",
                        "details": "ckpt_name: 'a' not in []",
                    },
                    {
                        "type": "value_not_in_list",
                        "message": "Value not in list",
                        "details": "ckpt_name: 'a' not in []",
                    },
                ],
            }
        },
    }
    text = job.rejection_text(answer, workflow)
    assert text == (
        "ComfyUI refused the workflow:\n"
        f"  Load ColorizeDiffusion Checkpoint (node {node_id}): Value not in list: ckpt_name: 'a' not in []"
    )


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (
            {"error": {"message": "No prompt provided", "details": "No prompt provided"}, "node_errors": {}},
            "No prompt provided",
        ),
        ({"error": "invalid prompt", "node_errors": {}}, "invalid prompt"),
        ("500: Internal Server Error", "Internal Server Error"),
    ],
)
def test_rejection_without_a_node(answer, text):
    assert job.rejection_text(answer, {}).endswith(text)


def test_failure_shows_the_nodes_message_once(workflow):
    event = {
        "node_id": "6",
        "node_type": "ColorizeEncodeReference",
        "exception_type": "ValueError",
        "traceback": ["..."],
        "exception_message": "The picture has 0 pixels.\nUse another one.\n",
    }
    assert job.failure_text(event, workflow) == (
        "Encode Reference (node 6) stopped with an error:\n  The picture has 0 pixels.\n  Use another one."
    )
    event["exception_type"] = "PIL.UnidentifiedImageError"
    assert "UnidentifiedImageError: The picture" in job.failure_text(event, workflow)


def test_history_of_good_and_bad_runs(workflow):
    event = {"node_id": "9", "exception_type": "RuntimeError", "exception_message": "no"}
    good = {"status": {"status_str": "success", "messages": [["execution_start", {}], ["execution_success", {}]]}}
    bad = {"status": {"status_str": "error", "messages": [["execution_error", event]]}}
    stopped = {"status": {"status_str": "error", "messages": [["execution_interrupted", {}]]}}
    assert job.error_in_history(good, workflow) is None
    assert job.error_in_history(bad, workflow).startswith("Sampler (node 9) stopped")
    assert "interrupted" in job.error_in_history(stopped, workflow)


def test_progress_of_the_sampler_only(workflow):
    stream = io.StringIO()
    progress = job.Progress(workflow, Status(stream))
    progress.take("executing", {"node": progress.sampler})
    for value in range(1, 21):
        progress.take("progress", {"node": progress.sampler, "value": value, "max": 20})
        progress.take("progress", {"node": "10", "value": 1, "max": 2})
    lines = stream.getvalue().splitlines()
    assert lines[0] == "Colouring" and "20/20 steps" in lines[-1] and len(lines) <= 6


class FakeServer:
    """Answers /history after a while and is alive."""

    def __init__(self, entry, after=2):
        self.entry, self.after, self.log = entry, after, "server.log"

    def alive(self):
        return True

    def get_json(self, path):
        self.after -= 1
        return {} if self.after > 0 else {path.rsplit("/", 1)[1]: self.entry}


class FakeEvents:
    """Gives the listed messages, then breaks."""

    def __init__(self, messages):
        self.messages = list(messages)

    def receive(self, timeout):
        if not self.messages:
            raise job.WebSocketError("gone")
        return self.messages.pop(0)


def test_follow_survives_a_lost_event_stream(workflow):
    stream = io.StringIO()
    events = FakeEvents(
        [
            json.dumps({"type": "executing", "data": {"node": "9", "prompt_id": "other"}}),
            None,
            json.dumps({"type": "executing", "data": {"node": "9", "prompt_id": "p"}}),
        ]
    )
    entry = job.follow(FakeServer({"outputs": {}}, after=3), events, "p", job.Progress(workflow, Status(stream)))
    assert entry == {"outputs": {}} and stream.getvalue() == "Colouring\n"


def test_dead_server_is_told_with_its_last_words(workflow):
    class Dead(FakeServer):
        def alive(self):
            return False

        def tail(self, lines):
            return "Killed"

    with pytest.raises(QuickstartError, match="(?s)ended while.*Killed"):
        job.follow(Dead({}), FakeEvents([None]), "p", job.Progress(workflow, Status(io.StringIO())))


def test_step_bar():
    assert step_bar(0, 20, 0.0) == "[" + "-" * 30 + "] 0/20 steps"
    assert step_bar(10, 20, 5.0) == "[" + "#" * 15 + "-" * 15 + "] 10/20 steps  0.50 s/step  5.0 s left"


def test_every_node_has_words_for_the_person_who_waits(workflow):
    assert {job.title_of(node) for node in workflow.values()} <= set(job.WORDS)
    assert job.PREFLIGHT in {job.title_of(node) for node in workflow.values()}


def test_a_canvas_as_given_is_what_the_node_calls_it():
    from colorize.pictures.canvas import SIZES

    assert job.AS_GIVEN == SIZES[0]


def test_only_problems_and_warnings_are_shown():
    report = "Preflight: 1 problem.\n1. PROBLEM (sketch): blank. Fix: draw.\n2. WARNING (model): x\n3. FINE (masks): y"
    assert job.findings(report) == ["PROBLEM (sketch): blank. Fix: draw.", "WARNING (model): x"]
    assert job.findings("Preflight: all is well.") == []
