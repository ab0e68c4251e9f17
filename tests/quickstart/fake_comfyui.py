"""The main.py of a pretended ComfyUI: what quickstart needs of its HTTP interface, and a child that ignores SIGTERM.

$FAKE_MODE: finish (the prompt ends at once), hang (it never ends), refuse (validation error), fail (a node raises),
die (the server ends while it works), crash (it never starts), deaf (its process ignores SIGTERM too), port (the port is
taken at the first start). $FAKE_AT: fail and die only at drawings that hold this text; the others finish. Process ids
are appended to $FAKE_PIDS.
"""

import base64
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

MODE = os.environ["FAKE_MODE"]
PIDS = Path(os.environ["FAKE_PIDS"])
AT = os.environ.get("FAKE_AT", "").encode()
UPLOADS: dict[str, bytes] = {}
SKETCHES: dict[str, bytes] = {}  # of each prompt
NODES = [
    "ColorizeLoadCheckpoint",
    "ColorizeLoadReferenceEncoder",
    "LoadImage",
    "ColorizePreflight",
    "ColorizePrepareSketch",
    "ColorizeEncodeReference",
    "ColorizeApplyReference",
    "ControlNetApplyAdvanced",
    "KSampler",
    "RepeatLatentBatch",
    "VAEDecode",
    "ColorizeRestoreSize",
    "SaveImage",
    "PreviewImage",
    "ColorizeFindRegions",
    "ColorizeFlattenColors",
    "ColorizePaletteFromReference",
    "ColorizeLockToPalette",
    "ColorizeSaveLayers",
]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, document, code=200):
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if self.path.startswith("/ws"):
            key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
            self.send_response(101)
            self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode())
            self.end_headers()
            self.wfile.flush()
            time.sleep(60)
        elif self.path == "/object_info":
            self.answer(dict.fromkeys(NODES, {}))
        elif self.path.startswith("/history/"):
            image = {"filename": "p.png", "subfolder": "", "type": "output"}
            failed = [
                [
                    "execution_error",
                    {"node_id": "6", "exception_type": "ValueError", "exception_message": "bad picture"},
                ]
            ]
            report = "Preflight: 1 problem.\n1. PROBLEM (sketch): The sketch is blank.\n2. NOTE (model): small."
            outputs = {"13": {"images": [{"type": "temp"}], "text": [report]}, "12": {"images": [image]}}
            outputs["18"] = {"layers": [{"filename": "p.psd", "subfolder": "", "type": "output"}]}
            entry = {"outputs": outputs, "status": {"status_str": "success", "messages": []}}
            prompt = self.path.rsplit("/", 1)[1]
            if MODE == "fail" and AT in SKETCHES.get(prompt, b""):
                entry = {"outputs": {}, "status": {"status_str": "error", "messages": failed}}
            ends = MODE in ("finish", "fail", "port") or bool(AT)
            self.answer({prompt: entry} if ends else {})
        elif self.path.startswith("/view?filename=p.psd"):
            self.answer(b"8BPS layers")
        elif self.path.startswith("/view"):
            self.answer(b"\xff\xd8 picture" if "preview=jpeg" in self.path else b"\x89PNG picture")
        else:
            self.answer({})

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/upload/image":
            name = body.split(b'filename="')[1].split(b'"')[0].decode()
            UPLOADS[name] = body
            self.answer({"name": name, "subfolder": "", "type": "input"})
        elif self.path == "/history":
            self.answer({})
        elif MODE == "refuse":
            error = {"message": "Value not in list", "details": "ckpt_name"}
            self.answer({"error": {"message": "x"}, "node_errors": {"1": {"class_type": "A", "errors": [error]}}}, 400)
        else:
            Path(os.environ["FAKE_PIDS"] + ".prompt").write_bytes(body)
            nodes = json.loads(body)["prompt"].values()
            sketch = next(node["inputs"]["image"] for node in nodes if node["class_type"] == "LoadImage")
            prompt = str(len(SKETCHES) + 1)
            SKETCHES[prompt] = UPLOADS[sketch]
            with Path(os.environ["FAKE_PIDS"] + ".prompts").open("a") as file:
                file.write(sketch + "\n")
            self.answer({"prompt_id": prompt, "node_errors": {}})
            if MODE == "die" and AT in UPLOADS[sketch]:
                print("out of memory", flush=True)
                os._exit(9)

    def log_message(self, *_arguments):
        pass


def main():
    if MODE == "crash":
        sys.exit("RuntimeError: no such device")
    if MODE == "port" and not PIDS.exists():
        PIDS.touch()
        sys.exit("OSError: [Errno 98] error while attempting to bind: address already in use")
    if MODE == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(120)"
    child = subprocess.Popen([sys.executable, "-c", code])
    with PIDS.open("a") as file:
        file.write(f"{os.getpid()}\n{os.getppid()}\n{child.pid}\n")
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()


if __name__ == "__main__":
    main()
