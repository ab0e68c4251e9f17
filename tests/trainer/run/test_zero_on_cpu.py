"""DeepSpeed's ZeRO-2 for real: two processes on the CPU that talk through gloo are killed, go on, and are converted."""

import importlib.util
import json
import time
from pathlib import Path

import psutil
import pytest
import torch

from trainer import config as configuration
from trainer.__main__ import main
from trainer.models import checkpoint
from trainer.run import loop

from .launch import command, finish, start

TOLERANCE = 2e-4  # sums over two processes round in another order, and DeepSpeed's optimiser works on flat shards


def losses(run: Path) -> list[float]:
    return [json.loads(line)["denoising"] for line in (run / "log.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None,
    reason='needs the package deepspeed: pip install ".[deepspeed]" (Linux)',
)
def test_zero_2_trains_resumes_and_converts_as_one_process_does(values, write_toml, tmp_path, capsys):
    values["run"] |= {"steps": 4, "output": str(tmp_path / "zero")}
    values["report"] |= {"log_every": 1, "save_every": 2}
    values["optimizer"] |= {"ema": 0.0}
    alone = values | {"run": values["run"] | {"output": str(tmp_path / "alone")}}
    alone["optimizer"] = {**values["optimizer"], "batch": 4}
    whole = loop.train(configuration.build(alone))

    values["system"] = {"precision": "fp32", "deepspeed": "zero2", "trust_checkpoint": True}
    arguments, log = command(write_toml(values), processes=2), tmp_path / "zero.txt"
    here = {"ACCELERATE_USE_CPU": "false", "DS_ACCELERATOR": "cpu"}
    process = start(arguments, log, **here)
    begin = time.monotonic()
    while not checkpoint.folders(tmp_path / "zero") and process.poll() is None and time.monotonic() < begin + 600:
        time.sleep(0.01)
    for one in (*psutil.Process(process.pid).children(recursive=True), process):  # workers are no part of its group
        one.kill()
    process.wait()
    assert checkpoint.folders(tmp_path / "zero"), log.read_text(errors="replace")[-4000:]
    finish(start(arguments, log, **here), log)

    assert losses(tmp_path / "zero") == pytest.approx(losses(tmp_path / "alone"), rel=TOLERANCE)
    run, output = str(tmp_path / "zero"), tmp_path / "converted.safetensors"
    assert main(["convert", run, "--output", str(output), "--dtype", "fp32"]) == 2
    assert "it holds pickles" in capsys.readouterr().err
    assert main(["convert", run, "--output", str(output), "--dtype", "fp32", "--trust"]) == 0
    ours, theirs = (checkpoint.read_tensors(file)[0] for file in (output, whole))
    assert ours.keys() == theirs.keys()
    assert all(torch.allclose(ours[name], theirs[name], atol=TOLERANCE) for name in ours)
