"""One picture through a running server: fill the workflow in, queue it, follow it, fetch the result."""

import copy
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import QuickstartError, ServerGone
from .server import HOST, Server
from .terminal import Status, Stopwatch
from .websocket import WebSocket, WebSocketError

# option -> (title of the node in the workflow, its input)
BINDINGS = {
    "sketch": ("Sketch", "image"),
    "reference": ("Reference", "image"),
    "width": ("Prepare Sketch", "width"),
    "height": ("Prepare Sketch", "height"),
    "canvas": ("Prepare Sketch", "size"),
    "checkpoint": ("Load ColorizeDiffusion Checkpoint", "ckpt_name"),
    "encoder": ("Load Reference Encoder", "encoder_name"),
    "steps": ("Sampler", "steps"),
    "seed": ("Sampler", "seed"),
    "reference_scale": ("Sampler", "cfg"),
    "sampler": ("Sampler", "sampler_name"),
    "scheduler": ("Sampler", "scheduler"),
}

# the same for what only workflows/api/flats.json has
FLATS_BINDINGS = {
    "palette": ("Palette from Reference", "file_name"),
    "layers": ("Save Layers", "format"),
}

VOTING = "Results"  # title of the node that makes several results of one drawing for a student's flats (quality.py)
VOTING_BINDINGS = {"results": (VOTING, "amount")}

VOTES = 4  # results of a drawing by the student, which vote on its flat colours
LARGEST_VOTED = 2048 * 2048  # pixels; of larger drawings so many results would fill the memory

STUDENT = "Student"  # title of the bundled model's LoRA, which quality.py puts in and takes out

AS_GIVEN = (
    "width x height"  # what Prepare Sketch calls a canvas that does not follow the drawing: sizes.py has done that
)

# title of a node -> what it does, for the person who waits
WORDS = {
    "Load ColorizeDiffusion Checkpoint": "Loading the model",
    "Load Reference Encoder": "Loading the reference encoder",
    STUDENT: "Loading what makes it fast",
    "Sketch": "Reading the sketch",
    "Reference": "Reading the reference",
    "Prepare Sketch": "Preparing the sketch",
    "Encode Reference": "Looking at the reference",
    "Apply Reference": "Giving the model the reference",
    "Apply Sketch": "Giving the model the sketch",
    VOTING: "Preparing some results",
    "Sampler": "Colouring",
    "Decode": "Making pixels",
    "Restore Size": "Returning to the drawing's size",
    "Save Picture": "Saving",
    "Find Regions": "Finding regions between the lines",
    "Flatten Colours": "Making flats",
    "Palette from Reference": "Taking the palette",
    "Lock to Palette": "Giving flats their colours",
    "Save Layers": "Saving layers",
    "Preflight": "Checking both pictures",
}

PREFLIGHT = "Preflight"  # title of the node that checks the pictures
SHOWN_LEVELS = ("PROBLEM", "WARNING")

ENDS = ("execution_success", "execution_error", "execution_interrupted")

Workflow = dict[str, dict[str, Any]]


def load_workflow(file: Path) -> Workflow:
    """The API workflow in `file`."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise QuickstartError(
            f"The workflow {file} cannot be read: {error}. Restore it from the repository."
        ) from error


def title_of(node: dict[str, Any]) -> str:
    """The name a person sees on the node."""
    return node.get("_meta", {}).get("title") or node["class_type"]


def find_node(workflow: Workflow, title: str, name: str | None = None) -> str:
    """The id of the node with this title, and with the input `name`."""
    for node_id, node in workflow.items():
        if title_of(node) == title and (name is None or name in node["inputs"]):
            return node_id
    wanted = f' with the input "{name}"' if name else ""
    raise QuickstartError(
        f'The workflow has no node titled "{title}"{wanted}. Restore workflows/api/quickstart.json from the repository.'
    )


def find_input(workflow: Workflow, option: str) -> tuple[str, str]:
    """(node id, input name) that an option sets."""
    title, name = (BINDINGS | FLATS_BINDINGS | VOTING_BINDINGS)[option]
    return find_node(workflow, title, name), name


def fill(workflow: Workflow, values: dict[str, Any]) -> Workflow:
    """A copy of `workflow` with the values that are not None filled in; `values` maps options to inputs' values."""
    filled = copy.deepcopy(workflow)
    for option, value in values.items():
        if value is not None:
            node_id, name = find_input(workflow, option)
            filled[node_id]["inputs"][name] = value
    return filled


def value_of(workflow: Workflow, option: str) -> Any:
    """What the workflow has for an option."""
    node_id, name = find_input(workflow, option)
    return workflow[node_id]["inputs"][name]


def has_student(workflow: Workflow) -> bool:
    """Whether a student makes the picture, which quality.py has put in."""
    return any(title_of(node) == STUDENT for node in workflow.values())


def results(workflow: Workflow, drawing: tuple[int, int] | None) -> dict[str, int]:
    """How many results of a drawing of this (width, height) vote, as a value for `fill`; nothing where none can."""
    if not any(title_of(node) == VOTING for node in workflow.values()):
        return {}
    return {"results": VOTES if drawing is None or drawing[0] * drawing[1] <= LARGEST_VOTED else 1}


def findings(report: str) -> list[str]:
    """What a person should know out of Preflight's report: "PROBLEM (sketch): text Fix: advice", a line each."""
    lines = [line.partition(". ")[2] for line in report.splitlines()]
    return [line for line in lines if line.startswith(SHOWN_LEVELS)]


def rejection_text(answer: Any, workflow: Workflow) -> str:
    """One readable message from the answer to a refused prompt."""
    if not isinstance(answer, dict):
        return f"ComfyUI refused the workflow: {str(answer).strip()[:500]}"
    lines = []
    for node_id, problem in (answer.get("node_errors") or {}).items():
        name = title_of(workflow[node_id]) if node_id in workflow else problem.get("class_type", "?")
        for error in problem.get("errors", []):
            text = ": ".join(
                part for part in (error.get("message", "").strip(), error.get("details", "").strip()) if part
            )
            lines.append(f"{name} (node {node_id}): {text}")
    if not lines:
        error = answer.get("error") or {}
        if isinstance(error, dict):
            error = ": ".join(
                dict.fromkeys(part for part in (error.get("message", ""), error.get("details", "")) if part)
            )
        lines = [str(error)]
    return "ComfyUI refused the workflow:\n  " + "\n  ".join(dict.fromkeys(lines))


def failure_text(event: dict[str, Any], workflow: Workflow) -> str:
    """One readable message from an execution_error event."""
    node_id = str(event.get("node_id", "?"))
    name = title_of(workflow[node_id]) if node_id in workflow else event.get("node_type", "?")
    message = str(event.get("exception_message", "")).strip() or "no message"
    kind = str(event.get("exception_type", "")).rsplit(".", 1)[-1]
    prefix = "" if kind in ("ValueError", "RuntimeError", "Exception", "ExecutionBlocked", "") else f"{kind}: "
    return f"{name} (node {node_id}) stopped with an error:\n  " + f"{prefix}{message}".replace("\n", "\n  ")


def error_in_history(entry: dict[str, Any], workflow: Workflow) -> str | None:
    """The message of a failed run as /history tells it, or None when it went well."""
    status = entry.get("status") or {}
    for kind, event in status.get("messages", []):
        if kind == "execution_error":
            return failure_text(event, workflow)
        if kind == "execution_interrupted":
            return "The run was interrupted."
    return None if status.get("status_str", "success") == "success" else "The run failed without a message."


class Progress:
    """Turns the server's events into a line for the person. `now` is the title of the node at work."""

    def __init__(self, workflow: Workflow, status: Status):
        self.workflow, self.status = workflow, status
        self.sampler = find_input(workflow, "steps")[0]
        self.now = "Waiting"
        self._watch = Stopwatch()

    def take(self, kind: str, data: dict[str, Any]) -> None:
        """Show one event."""
        node_id = str(data.get("node"))
        if kind == "executing" and node_id in self.workflow:
            self.now = title_of(self.workflow[node_id])
            self._watch = Stopwatch()
            self.status.show(WORDS.get(self.now, self.now))
        elif kind == "progress" and node_id == self.sampler:
            self.status.steps("Colouring", int(data["value"]), int(data["max"]), self._watch.seconds())


def queue(server: Server, workflow: Workflow) -> str:
    """Queue the workflow; returns the prompt's id."""
    code, answer = server.post_json("/prompt", {"prompt": workflow, "client_id": server.client_id})
    if code != 200 or not isinstance(answer, dict) or answer.get("node_errors"):
        raise QuickstartError(rejection_text(answer, workflow))
    return answer["prompt_id"]


@dataclass(frozen=True)
class Result:
    """What a run made."""

    picture: bytes
    findings: list[str]
    """What Preflight found wrong with the inputs, a line each."""
    layers: bytes | None = None
    """The layered document, where the workflow makes one."""


def open_events(server: Server) -> WebSocket:
    """The stream of what the server does for us; raises QuickstartError."""
    try:
        return WebSocket(HOST, server.port, f"/ws?clientId={server.client_id}")
    except WebSocketError as error:
        raise QuickstartError(f"ComfyUI's event stream cannot be opened: {error}.") from error


def run(server: Server, workflow: Workflow, status: Status, preview: str | None = None) -> Result:
    """Run the workflow; returns its Save Image node's picture. Raises QuickstartError with the node's message.

    preview: "jpeg;95" or "webp;95" when ComfyUI shall convert the picture (without the workflow inside), else PNG.
    """
    with open_events(server) as events:
        prompt_id = queue(server, workflow)
        entry = follow(server, events, prompt_id, Progress(workflow, status))
    return result_of(server, workflow, entry, preview)


def result_of(server: Server, workflow: Workflow, entry: dict[str, Any], preview: str | None = None) -> Result:
    """What a run made, out of its history entry; raises QuickstartError with the node's message when it failed."""
    problem = error_in_history(entry, workflow)
    if problem:
        raise QuickstartError(f"{problem}\nThe server's output is in {server.log}.")
    outputs = entry.get("outputs", {})
    checks = [node_id for node_id, node in workflow.items() if title_of(node) == PREFLIGHT]
    report = "\n".join(str(text) for node_id in checks for text in outputs.get(node_id, {}).get("text", []))
    for image in images_of(entry):
        if image["type"] == "output":
            picture = server.fetch(image | ({"preview": preview} if preview else {}))
            documents = files_of(entry, "layers")
            return Result(picture, findings(report), server.fetch(documents[0]) if documents else None)
    raise QuickstartError(
        "The run ended without a picture: the workflow has no Save Image node that ran. "
        "Restore workflows/api/quickstart.json from the repository."
    )


def images_of(entry: dict[str, Any]) -> list[dict[str, str]]:
    """Every picture that a run wrote, as the server names it: {"filename", "subfolder", "type"}."""
    return files_of(entry, "images")


def files_of(entry: dict[str, Any], kind: str) -> list[dict[str, str]]:
    """Every file of a kind ("images", "layers") that a run wrote, as the server names it."""
    files = [file for output in entry.get("outputs", {}).values() for file in output.get(kind, [])]
    return [{key: file.get(key, "") for key in ("filename", "subfolder", "type")} for file in files]


def tidy(server: Server, prompt_id: str, drawing: str, entry: dict[str, Any]) -> None:
    """Forget a finished run: its history and its files, so that a thousandth drawing finds the server as the first."""
    server.post_json("/history", {"delete": [prompt_id]})
    files = [server.base / "input" / drawing]
    made = [*images_of(entry), *files_of(entry, "layers")]
    files += [server.base / i["type"] / i["subfolder"] / i["filename"] for i in made if i["filename"]]
    for file in files:
        file.unlink(missing_ok=True)


def next_event(events: WebSocket | None) -> tuple[str, dict[str, Any]] | None:
    """(type, data) of the server's next event, or None when a moment passes without one. Raises WebSocketError."""
    if events is None:
        time.sleep(0.3)
        return None
    message = events.receive(timeout=1.0)
    if message is None:
        return None
    event = json.loads(message)
    return event.get("type", ""), event.get("data") or {}


def follow(server: Server, stream: WebSocket, prompt_id: str, progress: Progress) -> dict[str, Any]:
    """Show events until the prompt is in the history; returns its entry. Without the stream only the bar is lost."""
    events: WebSocket | None = stream
    while True:
        try:
            event = next_event(events)
        except WebSocketError:
            event = events = None
        if event is not None:
            kind, data = event
            if data.get("prompt_id") == prompt_id:
                progress.take(kind, data)
            if kind not in ENDS:
                continue
        if not server.alive():
            raise ServerGone(
                f"ComfyUI ended while it worked on {progress.now}. The end of its output:\n{server.tail(15)}\n"
                f"The whole output is in {server.log}. When it was killed for want of memory, try a smaller size."
            )
        entry = server.get_json(f"/history/{prompt_id}").get(prompt_id)
        if entry is not None:
            return entry
