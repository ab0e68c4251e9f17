"""A folder's drawings on the machines of a Ray cluster: each worker has a ComfyUI of its own, as one machine has, and
what a lost worker had goes to another. All machines see the same folders under the same paths."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

from spread import on_ray
from spread.crew import Crew

from . import job
from .environment import Environment
from .errors import QuickstartError, ServerGone
from .plan import PACK
from .runtime import place_models, upload_all
from .server import Server
from .terminal import Status, Stopwatch


def crew_of(address: str, cpu: bool) -> Crew:
    """A worker for every GPU of the cluster, or for every machine where there are none."""
    machines, gpus = on_ray.machines_and_gpus(address)
    return Crew(machines, address) if cpu or not gpus else Crew(gpus, address, 1)


@dataclass(frozen=True)
class Order:
    """One drawing on its way to a worker."""

    name: str
    """Of its file in the server's input folder."""
    drawing: bytes
    workflow: job.Workflow


@dataclass
class Station:
    """A worker: its server starts at the first drawing, and ends with it."""

    environment: Environment
    comfyui: Path
    logs: Path
    gpu: bool
    models: dict[str, Path]
    shared: dict[str, Path]
    """What all drawings are given, by option."""
    _server: Server | None = None
    _given: dict[str, str] | None = None
    """Option -> value for the workflow."""

    def colour(self, order: Order) -> tuple[job.Result | str, float]:
        """The result, or why there is none; and the seconds that it took. A server that ends gets a second chance."""
        watch = Stopwatch()
        for _ in range(2):
            server = self._started(order.workflow)
            try:
                return self._result(server, order), watch.seconds()
            except ServerGone as error:
                why = f"ComfyUI ended twice at this drawing, at last with: {error}"
                server.stop()
                self._server = None
            except QuickstartError as error:
                return str(error), watch.seconds()
        return why, watch.seconds()

    def _started(self, workflow: job.Workflow) -> Server:
        if self._server is None:
            os.environ.pop("OMP_NUM_THREADS", None)  # Ray's own: one thread for one core; the machine is the server's
            device = "cuda" if self.gpu else "cpu"
            environment = replace(self.environment, device=device)
            server = Server(environment, self.comfyui, PACK, self.logs, Status(), cpu=not self.gpu)
            server.__enter__()  # it ends with this process
            server.require_nodes(workflow)
            self._given = place_models(server, self.models) | upload_all(server, self.shared)
            self._server = server
        return self._server

    def _result(self, server: Server, order: Order) -> job.Result:
        name = server.upload_bytes(order.drawing, order.name, order.name)
        workflow = job.fill(order.workflow, {**(self._given or {}), "sketch": name})
        with job.open_events(server) as events:
            prompt = job.queue(server, workflow)
            entry = job.follow(server, events, prompt, job.Progress(workflow, server.status))
        try:
            return job.result_of(server, workflow, entry)
        finally:
            job.tidy(server, prompt, name, entry)
