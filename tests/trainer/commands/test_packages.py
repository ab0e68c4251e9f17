"""A command says at its start which packages it lacks; without the optional ones no command breaks at import."""

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

from trainer import __main__ as command_line
from trainer import packages
from trainer.config import ConfigError

ROOT = Path(__file__).parents[3]

PROBE = """
import contextlib, io, sys
sys.path.insert(0, sys.argv[1])
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("accelerate", "diffusers", "torchmetrics", "tensorboard", "deepspeed"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
import importlib.util
found = importlib.util.find_spec
def find_spec(name, package=None):
    try:
        return found(name, package)
    except ModuleNotFoundError:
        return None
importlib.util.find_spec = find_spec
from trainer import __main__ as line
for name in ["train", *line.COMMANDS]:
    err = io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
        try:
            code = line.main([name, "--config", "demo-v1", "--dry-run"] if name == "train" else [name, "--help"])
        except SystemExit as end:
            code = end.code
    print(name, code, err.getvalue().splitlines()[-1:] or "")
"""


def test_every_command_without_the_trainers_packages():
    result = subprocess.run([sys.executable, "-c", PROBE, str(ROOT)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    told = {line.split()[0]: line for line in result.stdout.splitlines()}
    assert set(told) == {"train", *command_line.COMMANDS}
    for name in ("train", "cache"):
        assert f"{name} 2" in told[name] and "needs accelerate" in told[name]
        assert 'pip install ".[trainer]"' in told[name]
    assert "evaluate-faces 2" in told["evaluate-faces"] and "needs torchmetrics" in told["evaluate-faces"]
    for name in set(told) - {"train", "cache", "evaluate-faces"}:
        assert told[name].startswith(f"{name} 0"), told[name]


def test_evaluate_needs_torchmetrics_for_one_protocol_only(monkeypatch):
    monkeypatch.setattr(packages, "present", lambda name: False)
    packages.check("evaluate", argparse.Namespace(protocol=["regions", "entanglement"]))
    with pytest.raises(ConfigError, match="`evaluate` needs torchmetrics.*quickstart.py --trainer evaluate"):
        packages.check("evaluate", argparse.Namespace(protocol=["regions", "deformed"]))


def test_it_waits_passively():
    code = "import os, trainer.__main__; print(os.environ['OMP_WAIT_POLICY'])"
    environ = {"PATH": "", "PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "PASSIVE"
