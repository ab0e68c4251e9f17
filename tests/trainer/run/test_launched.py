"""Commands of the data under `accelerate launch`, two processes: what they leave is what one leaves."""

import shutil
from pathlib import Path

import pytest

from trainer.commands.cache import build_cache
from trainer.stages import table

from .launch import finish, launched, start


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.png"))}


@pytest.mark.slow
def test_prepare_and_cache_in_two_processes(values, write_toml, pictures, tmp_path):
    sets = {}
    for processes in (1, 2):
        root = tmp_path / f"set{processes}"
        shutil.copytree(pictures / "color", root / "color")
        log = tmp_path / f"prepare{processes}.txt"
        options = ("prepare", str(root), "--sketch", "standard", "--workers", "1", "--device", "cpu")
        finish(start(launched(processes, *options), log), log)
        sets[processes] = files(root)
        assert len(list((root / "sketch").glob("*.png"))) == 8
    assert sets[1] == sets[2]

    values["data"] |= {"cache_folder": str(tmp_path / "cache")}
    values["loss"] = {"reference_drop": 0.3}
    config, log = write_toml(values), tmp_path / "cache.txt"
    finish(start(launched(2, "cache", "--config", config), log), log)
    text = log.read_text()
    assert (
        sum(" new " in line for line in text.splitlines()) == 2
        and "(the first of 2 processes; the others wrote theirs)" in text
    )  # it speaks alone
    again = build_cache(table.load(config), progress=False)
    assert not any(again.written.values()) and set(again.there.values()) == {8}
