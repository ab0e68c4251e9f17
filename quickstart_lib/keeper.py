"""Runs one command and ends it when the standard input closes, which happens however the parent ends, SIGKILL included.

    python keeper.py COMMAND [ARGUMENT ...]

quickstart starts ComfyUI through this file, on POSIX in a process group of its own, so no server outlives it.
"""

import os
import signal
import subprocess
import sys
import threading

PATIENCE = 3.0  # seconds between the polite end and the hard one


OWN_GROUP = os.name != "nt" and os.getpgrp() == os.getpid()


def end(child: subprocess.Popen) -> None:
    """End the child and everything it started."""
    if os.name == "nt":
        subprocess.run(
            ["taskkill", "/F", "/T", "/PID", str(child.pid)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )
        return
    child.terminate()
    try:
        child.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        pass
    if OWN_GROUP:
        os.killpg(os.getpgrp(), signal.SIGKILL)  # this process included
    child.kill()


def main(command: list) -> int:
    """The child's exit status."""
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)

    ending = threading.Event()

    def watch() -> None:
        while os.read(0, 1):  # not sys.stdin: its lock, held in this thread, kills the interpreter when it ends first
            pass
        ending.set()
        end(child)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    code = child.wait()
    if ending.is_set():
        watcher.join()  # it still has the rest of the group to end
    return code


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    # A Ray worker that ends kills its children first: that is this process, which waits for the one that keeps watch.
    if hasattr(os, "fork") and (watch := os.fork()):
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(watch, 0)[1]))
    sys.exit(main(sys.argv[1:]))
