"""One ComfyUI server for one job: on a free loopback port, in a folder of its own, gone when the job ends, however."""

import atexit
import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from .environment import Environment, forget_report
from .errors import QuickstartError, ServerGone
from .lock import locked
from .processes import clean_environ, kept, stop_group
from .terminal import Status, Stopwatch, clock

HOST = "127.0.0.1"
START_LIMIT = 300.0  # seconds; a first start on a slow disk compiles and reads a few GB
KEPT_LOGS = 5  # of failed runs
TRIES = 3  # another program may take the free port before the server does
FOLDER, IN_USE = "colorize-quickstart-", ".in-use"  # a server's folder; the file in it that its owner has locked
SWEEP_SECONDS = 60  # younger folders are left alone: their owner may not hold the lock yet
COLOUR_CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
NOT_IN_A_PACK_COPY = shutil.ignore_patterns(".*", "__pycache__", "tests", "docs", "*.part")


def free_port() -> int:
    """A TCP port that is free on the loopback address now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


def place(source: Path, target: Path) -> None:
    """Make `source` (file or folder) available as `target`: a link where the system allows it, else a copy."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        target.symlink_to(source, target_is_directory=source.is_dir())
    except OSError:  # Windows without the right to make links
        if source.is_dir():
            shutil.copytree(source, target, ignore=NOT_IN_A_PACK_COPY)
        else:
            try:
                os.link(source, target)
            except OSError:
                shutil.copyfile(source, target)


def sweep() -> None:
    """Remove the folders of servers whose quickstart was killed: nobody holds the lock in them any more."""
    for folder in Path(tempfile.gettempdir()).glob(FOLDER + "*"):
        try:
            if (folder / IN_USE).is_file() and time.time() - folder.stat().st_mtime > SWEEP_SECONDS:
                with locked(folder / IN_USE, wait=False) as free:
                    pass
                if free:
                    shutil.rmtree(folder, ignore_errors=True)
        except OSError:  # somebody else's
            continue


class Server:
    """A running ComfyUI. Use it as a context manager: leaving it stops the server and removes its folder."""

    def __init__(
        self, environment: Environment, comfyui: Path, pack: Path, logs: Path, status: Status, cpu: bool = False
    ):
        """`pack` becomes the server's only node pack; `logs` is where its output goes; `cpu` forces the CPU."""
        self.environment, self.comfyui, self.pack, self.status = environment, comfyui, pack, status
        self.cpu = cpu or environment.device == "cpu"
        self.log = logs / f"server-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
        self.client_id = uuid.uuid4().hex
        self.port = 0
        self.base: Path | None = None
        self._process: subprocess.Popen | None = None
        self._in_use = ExitStack()
        self._failed = False
        self._http = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy has no business on loopback

    # the process

    def command(self) -> list[str]:
        """How the server is started."""
        command = [
            str(self.environment.python),
            str(self.comfyui / "main.py"),
            "--listen",
            HOST,
            "--port",
            str(self.port),
            "--base-directory",
            str(self.base),
            "--database-url",
            "sqlite:///:memory:",
            "--disable-auto-launch",
            "--disable-api-nodes",
        ]  # this one also keeps the server off the network
        if self.cpu:
            command += ["--cpu", "--use-pytorch-cross-attention"]
        return command

    def __enter__(self) -> "Server":
        sweep()
        self.base = Path(tempfile.mkdtemp(prefix=FOLDER))
        atexit.register(self.stop)
        self._in_use.enter_context(locked(self.base / IN_USE))
        try:
            place(self.pack, self.base / "custom_nodes" / "colorize-diffusion")
            for folder in ("models/checkpoints", "models/clip_vision", "input", "output"):
                (self.base / folder).mkdir(parents=True, exist_ok=True)
            self.log.parent.mkdir(parents=True, exist_ok=True)
            self._start()
        except BaseException:
            self._failed = True
            self.stop()
            raise
        return self

    def __exit__(self, kind, *_exception) -> None:
        self._failed = kind is not None and kind is not KeyboardInterrupt
        self.stop()

    def _start(self) -> None:
        for attempt in range(TRIES):
            self.port = free_port()
            environ = clean_environ(PYTHONUNBUFFERED="1", HF_HUB_OFFLINE="1")
            with open(self.log, "ab") as log:
                self._process = subprocess.Popen(
                    kept(self.command()),
                    cwd=self.comfyui,
                    env=environ,
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=os.name != "nt",
                    creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
                )
            if self._wait_until_ready():
                return
            if attempt == TRIES - 1 or "address already in use" not in self.tail(200).lower():
                forget_report(self.environment.python)
                raise QuickstartError(
                    f"ComfyUI stopped while it started. The end of its output:\n{self.tail(15)}\n"
                    f"The whole output is in {self.log}."
                )
            stop_group(self._process)

    def _wait_until_ready(self) -> bool:
        watch = Stopwatch()
        while watch.seconds() < START_LIMIT:
            self.status.show("Starting ComfyUI", clock(watch.seconds()) if self.status.live else "")
            if self._process.poll() is not None:
                return False
            try:
                self._http.open(f"http://{HOST}:{self.port}/system_stats", timeout=5).close()
                return True
            except OSError:
                time.sleep(0.2)
        raise QuickstartError(f"ComfyUI did not answer within {START_LIMIT:.0f} seconds. Its output is in {self.log}.")

    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def tail(self, lines: int) -> str:
        """The last lines of the server's output, without colours."""
        try:
            text = self.log.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
        return "\n".join(COLOUR_CODES.sub("", text).splitlines()[-lines:])

    def stop(self) -> None:
        """Stop the server and remove its folder. Its log stays only after a failure."""
        if self._process is not None:
            stop_group(self._process)
            self._process = None
        self._in_use.close()
        if self.base is not None:
            link = self.base / "custom_nodes" / "colorize-diffusion"
            if link.is_symlink():
                link.unlink()  # so that nothing below can follow it
            shutil.rmtree(self.base, ignore_errors=True)
            self.base = None
            if not self._failed:
                self.log.unlink(missing_ok=True)
            for old in sorted(self.log.parent.glob("server-*.log"))[:-KEPT_LOGS]:
                old.unlink(missing_ok=True)
        atexit.unregister(self.stop)

    # its HTTP interface

    def request(self, path: str, data: bytes | None = None, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
        """(HTTP status, body) of GET, or of POST when `data` is given. Raises ServerGone when nobody answers."""
        request = urllib.request.Request(f"http://{HOST}:{self.port}{path}", data=data, headers=headers or {})
        try:
            with self._http.open(request, timeout=60) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()
        except OSError as error:
            self._failed = True
            raise ServerGone(
                f"ComfyUI does not answer any more ({error}). The end of its output:\n{self.tail(15)}\n"
                f"The whole output is in {self.log}."
            ) from error

    def get_json(self, path: str) -> Any:
        """The JSON document at `path`."""
        code, body = self.request(path)
        if code != 200:
            raise QuickstartError(f"ComfyUI answered {code} to {path}. Its output is in {self.log}.")
        return json.loads(body)

    def post_json(self, path: str, document: Any) -> tuple[int, Any]:
        """(HTTP status, answer) of posting `document`; an answer that is not JSON comes back as text."""
        code, body = self.request(path, json.dumps(document).encode(), {"Content-Type": "application/json"})
        try:
            return code, json.loads(body)
        except ValueError:
            return code, body.decode("utf-8", errors="replace")

    def upload(self, file: Path, name: str) -> str:
        """Upload a picture as `name` into the server's input folder; returns the value for a Load Image node."""
        return self.upload_bytes(file.read_bytes(), name, str(file))

    def upload_bytes(self, data: bytes, name: str, told: str) -> str:
        """As upload, of the bytes of a file; told: what messages call it."""
        boundary = uuid.uuid4().hex
        head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="overwrite"\r\n\r\ntrue\r\n'
            f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        ).encode()
        code, body = self.request(
            "/upload/image",
            head + data + f"\r\n--{boundary}--\r\n".encode(),
            {"Content-Type": f"multipart/form-data; boundary={boundary}"},
        )
        if code == 413:
            raise QuickstartError(
                f"{told} is too large for ComfyUI ({len(data) / 2**20:.0f} MiB). Use a smaller picture."
            )
        if code != 200:
            raise QuickstartError(f"ComfyUI answered {code} to the upload of {told}. Its output is in {self.log}.")
        answer = json.loads(body)
        return f"{answer['subfolder']}/{answer['name']}" if answer.get("subfolder") else answer["name"]

    def fetch(self, image: dict[str, str]) -> bytes:
        """The bytes of one picture of a node's output ({"filename", "subfolder", "type"})."""
        code, body = self.request("/view?" + urllib.parse.urlencode(image))
        if code != 200:
            raise QuickstartError(f"ComfyUI answered {code} when the picture was fetched. Its output is in {self.log}.")
        return body

    def require_nodes(self, workflow: dict[str, dict]) -> None:
        """Check that the server has every node of an API workflow."""
        known = self.get_json("/object_info")
        absent = sorted({node["class_type"] for node in workflow.values()} - set(known))
        if absent:
            self._failed = True
            hints = [line for line in self.tail(2000).splitlines() if "colorize-diffusion" in line or "Error" in line]
            raise QuickstartError(
                f"ComfyUI started without these nodes: {', '.join(absent)}. Its output says:\n  "
                + "\n  ".join(hints[-12:] or ["(nothing about it)"])
                + f"\nThe whole output is in {self.log}."
            )
