"""What ends a run from outside: what is kept then, what is said, and the exit status."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import SafetensorError

from trainer import config as configuration
from trainer.__main__ import main
from trainer.config import ConfigError
from trainer.failures import Failure, Stopped
from trainer.models import checkpoint
from trainer.run import lock, loop
from trainer.run.interrupt import HANGUP, Interrupt
from trainer.run.prepare import prepare

from .launch import ENVIRONMENT, ROOT, command

if sys.platform != "win32":
    import pty

KILLED = RuntimeError("DataLoader worker (pid 4711) is killed by signal: Killed. ")


def train(values: dict, **changes: dict) -> Path:
    """Train with some keys changed, e.g. run={"steps": 3}."""
    merged = {section: {**content, **changes.get(section, {})} for section, content in values.items()}
    return loop.train(configuration.build(merged))


def fails(batches, after: int, error: Exception):
    """The batches, and the error in the place of the one after so many."""
    for number, batch in enumerate(batches):
        if number == after:
            raise error
        yield batch


@pytest.fixture
def failing(monkeypatch):
    """failing(after, error): the next run fails so while it waits for a batch."""

    def fail(after: int, error: Exception) -> None:
        def prepared(config):
            run = prepare(config)
            run.batches = fails(run.batches, after, error)
            return run

        monkeypatch.setattr(loop, "prepare", prepared)

    return fail


def test_a_reader_that_is_killed_costs_no_step(values, failing, monkeypatch, tmp_path):
    """Its run is saved where it stood, says so in a line, and goes on to the weights of an unbroken one."""
    values["optimizer"] |= {"decay": "constant", "accumulate": 2}
    whole = train(values, run={"output": str(tmp_path / "whole"), "steps": 3})
    failing(3, KILLED)  # in the middle of the second step
    with pytest.raises(Failure, match="reads pictures was ended.*data.workers.*kept up to step 1; the same command"):
        train(values, run={"steps": 3})
    monkeypatch.undo()
    assert [folder.name for folder in checkpoint.folders(Path(values["run"]["output"]))] == ["step-00000001"]
    ours, theirs = (checkpoint.read_tensors(file)[0] for file in (whole, train(values, run={"steps": 3})))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_mistake_of_ours_is_saved_too_and_keeps_its_traceback(values, failing):
    failing(1, KeyError("ours"))
    with pytest.raises(KeyError, match="ours"):
        train(values)
    assert len(checkpoint.folders(Path(values["run"]["output"]))) == 1


def test_too_little_memory_is_a_line(values, failing):
    failing(0, torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB. And so on"))
    with pytest.raises(Failure, match="memory .CUDA out of memory.: lower optimizer.batch.*Nothing of .* is saved yet"):
        train(values)


def test_a_full_disk_is_a_line_and_leaves_no_half_checkpoint(values, write_toml, monkeypatch, capsys):
    values["report"]["save_every"] = 2
    real, calls = checkpoint.save_file, []

    def full(tensors, path, metadata):
        calls.append(path)
        if len(calls) > 4:  # model, optimizer and average of step 2, and the model of step 4
            Path(path).write_bytes(b"half")
            raise SafetensorError("I/O error: No space left on device (os error 28)")
        real(tensors, path, metadata=metadata)

    monkeypatch.setattr(checkpoint, "save_file", full)
    assert main(["train", "--config", write_toml(values)]) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert "No space left on device" in told and "free some space" in told and "kept up to step 2" in told
    output = Path(values["run"]["output"])
    assert [path.name for path in output.glob("*step-*")] == ["step-00000002"]
    assert not list(output.glob(f".*{checkpoint.UNFINISHED}"))


def test_numbers_that_are_none_are_not_saved(values, write_toml, capsys):
    values["optimizer"] |= {"lr": 1e30, "clip": 0.0, "warmup": 0}
    values["report"] |= {"log_every": 1, "save_every": 100}
    assert main(["train", "--config", write_toml(values)]) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert "not a number" in told and "Nothing of" in told and "Lower optimizer.lr" in told
    assert not checkpoint.folders(Path(values["run"]["output"]))


def test_a_folder_that_cannot_be_written_is_a_line(values, write_toml, tmp_path, capsys):
    (tmp_path / "file").write_text("no folder")
    values["run"]["output"] = str(tmp_path / "file" / "run")
    assert main(["train", "--config", write_toml(values)]) == 1
    assert capsys.readouterr().err.startswith("error: Not a directory: ")


# -- one run in a folder -----------------------------------------------------------------------------------------------


def test_a_second_run_in_a_folder_is_refused(values, tmp_path):
    with lock.held(tmp_path / "run"):
        with pytest.raises(ConfigError, match="run is in use by process .*wait for that run or stop it"):
            train(values)
        assert [path.name for path in (tmp_path / "run").iterdir()] == [lock.NAME]
    assert not list((tmp_path / "run").iterdir())
    with lock.held(tmp_path / "run"):
        pass


def test_the_lock_of_a_run_that_was_killed_holds_nobody_up(tmp_path):
    (tmp_path / lock.NAME).write_bytes(b"process 1 on elsewhere")
    with lock.held(tmp_path):
        assert (tmp_path / lock.NAME).read_bytes().startswith(b"process ")


def test_only_the_first_process_of_a_run_holds_the_lock(tmp_path, monkeypatch):
    with lock.held(tmp_path):
        monkeypatch.setenv("RANK", "1")
        with lock.held(tmp_path):
            pass


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch, caplog):
    def no_locks(file):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock, "_lock", no_locks)
    with lock.held(tmp_path):
        assert "start no second run" in caplog.text


# -- signals -----------------------------------------------------------------------------------------------------------


def test_a_run_that_is_stopped_exports_nothing_and_says_so_by_its_status(values, monkeypatch):
    """Regression: `train && convert` went on with half a run."""
    monkeypatch.setattr(Interrupt, "raised", lambda self: True)
    with pytest.raises(Stopped, match="stopped after step 1 of 6.*convert .*run --output") as stopped:
        train(values)
    assert stopped.value.status == 130
    output = Path(values["run"]["output"])
    assert [folder.name for folder in checkpoint.folders(output)] == ["step-00000001"]
    assert not list(output.glob("*.safetensors"))
    assert train(values, run={"steps": 2}).is_file()  # a signal in the last step stops nothing any more


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGHUP")
def test_the_end_of_the_terminal_is_a_signal_like_the_others():
    with Interrupt(SimpleNamespace(num_processes=1)) as interrupt:
        signal.raise_signal(signal.SIGHUP)
        assert interrupt.raised() and interrupt.signal == signal.SIGHUP


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGHUP")
def test_nohup_stays_in_force():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupt(SimpleNamespace(num_processes=1)) as interrupt:
            signal.raise_signal(signal.SIGHUP)
            assert not interrupt.raised() and HANGUP
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGHUP")
def test_a_terminal_that_is_closed_loses_nothing(values, write_toml):
    """Its processes, readers too, get SIGHUP, and what they print can no longer be written."""
    values["run"]["steps"] = 100_000
    values["report"]["log_every"] = 1
    values["data"]["workers"] = 1
    config, output = write_toml(values), Path(values["run"]["output"])
    process, terminal = pty.fork()
    if not process:
        os.chdir(ROOT)
        os.execve(sys.executable, command(config), {**os.environ, **ENVIRONMENT})
    try:
        os.set_blocking(terminal, False)
        for _ in range(2400):
            with contextlib.suppress(OSError):
                os.read(terminal, 2**16)
            if (output / "log.jsonl").is_file():
                break
            time.sleep(0.1)
        os.close(terminal)
        for _ in range(600):
            ended, status = os.waitpid(process, os.WNOHANG)
            if ended:
                break
            time.sleep(0.1)
        assert ended and os.waitstatus_to_exitcode(status) == 128 + signal.SIGHUP
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    assert len(checkpoint.folders(output)) == 1
