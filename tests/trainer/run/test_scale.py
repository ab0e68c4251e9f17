"""One run in several processes, and what killed runs leave behind."""

import json
import os
import random
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from trainer import config as configuration
from trainer.models import checkpoint
from trainer.run import datasets, loop
from trainer.run.interrupt import Interrupt

from .launch import command, finish, start


def lines(run: Path, name: str = "log.jsonl") -> list[dict]:
    return [json.loads(line) for line in (run / name).read_text().splitlines()]


LEAN = {"frozen_8bit": True, "layer_offload": 0.5}


@pytest.mark.parametrize(("stage", "system"), [("v1", {}), ("v1_5", {}), ("v1_5", LEAN)], ids=["v1", "v1_5", "lean"])
def test_two_processes_are_one_with_the_same_batch(values, write_toml, tmp_path, pictures, stage, system):
    """Losses, gradient norms, validation and weights: 2 processes with batches of 2, and one with batches of 4."""
    values["report"] |= {"log_every": 1, "save_every": 3, "validate_every": 3, "validate_count": 4}
    values["data"] |= {"holdout": str(pictures)}
    values["run"] |= {"steps": 3}
    values["system"] |= system
    values["loss"] |= {"latent_shuffle": 0.5, "noisy_reference": 0.5}
    if stage == "v1_5":
        small = values | {"run": {"output": str(tmp_path / "v1"), "steps": 1}, "system": {"precision": "fp32"}}
        init = loop.train(configuration.build(small))
        values["run"] |= {"stage": "v1_5"}
        values["model"] |= {"init": str(init), "vae": "", "recovery_layers": 2}
        values["loss"] = {"background_bleach": 0.3, "reference_drop": 0.3}
    shared = {section: dict(content) for section, content in values.items()}
    shared["run"] |= {"output": str(tmp_path / "shared")}
    log = tmp_path / "shared.txt"
    process = start(command(write_toml(shared), processes=2), log)
    alone = values | {"run": values["run"] | {"output": str(tmp_path / "alone")}}
    alone["optimizer"] = {**alone["optimizer"], "batch": 4}
    loop.train(configuration.build(alone))
    finish(process, log)

    for ours, theirs in zip(lines(tmp_path / "alone"), lines(tmp_path / "shared"), strict=True):
        for name in ("denoising", "grad_norm", "lr"):
            assert ours[name] == pytest.approx(theirs[name], rel=2e-4), (ours, theirs)
    (ours,), (theirs,) = (lines(tmp_path / name, "validation.jsonl") for name in ("alone", "shared"))
    assert ours == pytest.approx(theirs, rel=2e-4)
    ours, theirs = (checkpoint.load(tmp_path / name / "step-00000003")[1]["model"] for name in ("alone", "shared"))
    assert all(torch.allclose(ours[name], theirs[name], atol=2e-4) for name in ours)


def test_micro_steps_are_one_with_the_same_batch(values, tmp_path):
    """Two micro steps of 2 and one of 4 draw the same numbers for the same samples."""
    values["report"] |= {"log_every": 1}
    for name, adam in (("two", {"batch": 2, "accumulate": 2}), ("one", {"batch": 4})):
        run = {"run": {"output": str(tmp_path / name), "steps": 3}, "optimizer": values["optimizer"] | adam}
        loop.train(configuration.build(values | run))
    for ours, theirs in zip(lines(tmp_path / "one"), lines(tmp_path / "two"), strict=True):
        assert ours["denoising"] == pytest.approx(theirs["denoising"], rel=2e-4)
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=2e-4)


@pytest.mark.parametrize("optimizer", [{}, {"fused_backward_pass": True, "clip": 0.0}], ids=["plain", "fused"])
def test_a_killed_run_goes_on_exactly(values, write_toml, tmp_path, optimizer):
    """kill -9 at random moments, some in the middle of a save; the finished run is the unbroken one, bit for bit."""
    values["optimizer"] |= optimizer
    values["run"] |= {"steps": 12, "output": str(tmp_path / "killed")}
    values["system"] = values.get("system", {}) | {"threads": 1}  # sums of more threads may differ in the last bit
    values["report"] |= {"save_every": 1, "keep": 2, "log_every": 1}
    output, log, moment = tmp_path / "killed", tmp_path / "killed.txt", random.Random(0)
    arguments, killed_at = command(write_toml(values)), []
    while len(killed_at) < 2:
        process = start(arguments, log)
        try:
            seen = len(checkpoint.folders(output)) and checkpoint.step_of(checkpoint.folders(output)[-1])
            while process.poll() is None and not any(f.name > f"step-{seen:08d}" for f in checkpoint.folders(output)):
                time.sleep(0.005)
            time.sleep(moment.random() * 0.3)
        finally:
            process.kill()
        process.wait()
        reached = checkpoint.step_of(checkpoint.folders(output)[-1])
        assert process.returncode != 0 or reached == 12, log.read_text(errors="replace")[-4000:]
        killed_at.append(reached)
    loop.train(configuration.build(values))
    unbroken = loop.train(configuration.build(values | {"run": values["run"] | {"output": str(tmp_path / "unbroken")}}))

    assert killed_at[0] < 12
    broken, whole = (checkpoint.load(run / "step-00000012")[1] for run in (output, unbroken.parent))
    for part in ("model", "ema"):
        assert all(torch.equal(broken[part][name], whole[part][name]) for name in whole[part])
    for ours, theirs in zip(broken["optimizer"]["state"].values(), whole["optimizer"]["state"].values(), strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert [line["step"] for line in lines(output)] == list(range(1, 13))
    assert [line["denoising"] for line in lines(output)] == [line["denoising"] for line in lines(unbroken.parent)]
    assert not list(output.glob("*.part")) and not list(output.glob(".*"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork, to die in the middle of a function")
def test_a_save_may_end_at_any_moment(tmp_path):
    """A process dies at every single wait for the disk of three saves: the newest checkpoint is always a whole one."""
    deaths, ended = 0, False
    while not ended:
        output = tmp_path / str(deaths)
        child = os.fork()
        if not child:
            _save_and_die(output, deaths)
        ended = os.WIFEXITED(os.waitpid(child, 0)[1])
        checkpoint.sweep(output)
        assert not list(output.glob(".*"))
        for folder in checkpoint.folders(output):
            step, parts, _ = checkpoint.load(folder)
            assert folder.name == f"step-{step:08d}" and parts["model"]["weight"].tolist() == [step] * 3
            assert parts["optimizer"] == {"moment": step}
        if checkpoint.folders(output):  # what a resume does first
            checkpoint.note_best(output, checkpoint.read_state(checkpoint.folders(output)[-1])["best"])
            assert checkpoint.best(output).name == "step-00000001"
        deaths += 1
    assert deaths > 10
    assert [folder.name for folder in checkpoint.folders(output)] == ["step-00000001", "step-00000003"]


def _save_and_die(output: Path, deaths: int) -> None:
    waits, to_disk = [], checkpoint._to_disk

    def wait(path):
        if len(waits) == deaths:
            os.kill(os.getpid(), signal.SIGKILL)
        waits.append(path)
        to_disk(path)

    checkpoint._to_disk = wait
    for step in (1, 2, 3):
        parts = {"model": {"weight": torch.full((3,), float(step))}, "optimizer": {"moment": step}}
        state = {"step": step, "config": {}, "best": {"step": 1, "validation": 0.5}}
        checkpoint.save(output, parts, state, keep=1)
    os._exit(0)


def test_a_repeated_signal_of_a_launcher_does_not_cut_the_save_off():
    """Ctrl-C reaches a process from the terminal and again from its launcher; later ones are the user's."""
    interrupt = Interrupt(SimpleNamespace(num_processes=1))
    assert not interrupt.raised()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
        interrupt._note(number, None)
    assert interrupt.raised()
    interrupt.since -= 2 * interrupt.PATIENCE
    interrupt._note(signal.SIGTERM, None)
    with pytest.raises(KeyboardInterrupt):
        interrupt._note(signal.SIGINT, None)


class Interrupted(torch.utils.data.Dataset):
    """The terminal's Ctrl-C reaches the process that reads a sample."""

    def __getitem__(self, position):
        signal.raise_signal(signal.SIGINT)
        return {"index": position}


def test_ctrl_c_does_not_end_the_loader_processes(values):
    """Regression: the step in progress waited for a batch of a process that was gone, and nothing was saved."""
    values["data"] |= {"workers": 1}
    batches = datasets.batches_from(Interrupted(), configuration.build(values), 2, 0, 1, torch.device("cpu"))
    assert next(batches)["index"].tolist() == [4, 5]


def test_a_run_may_be_started_from_a_thread():
    """Python allows signal handlers in the main thread only."""
    failures = []

    def enter():
        try:
            with Interrupt(SimpleNamespace(num_processes=1)) as interrupt:
                assert not interrupt.previous
        except BaseException as error:  # an exception of a thread is not the test's
            failures.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert not failures
