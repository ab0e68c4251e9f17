"""The type check sees the pack as ComfyUI and as the trainer import it, whatever its folder is called."""

import os
import sys

import pytest

from quickstart_lib.type_check import check

pytest.importorskip("mypy")

FILES = {
    "__init__.py": "",
    "colorize/__init__.py": "",
    "colorize/halves.py": "def half(number: int) -> float:\n    return number / 2\n",
    "model_patches/__init__.py": "",
    "nodes/__init__.py": "",
    "nodes/node.py": "from ..colorize.halves import half\n\nTEXT: str = half(3)\n",
    "trainer/__init__.py": "",
    "trainer/loop.py": "from colorize.halves import half\n\nNUMBER: float = half(3)\n",
}


def test_a_wrong_type_is_found_behind_a_relative_import(tmp_path, capsys):
    pack = tmp_path / "my-pack 2"
    for name, text in FILES.items():
        (pack / name).parent.mkdir(parents=True, exist_ok=True)
        (pack / name).write_text(text, encoding="utf-8")
    assert check(sys.executable, pack, dict(os.environ)) == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert line.replace("\\", "/").startswith("nodes/node.py:3: error: Incompatible types in assignment")
    (pack / "nodes/node.py").write_text("from ..colorize.halves import half\n\nNUMBER: float = half(3)\n")
    assert check(sys.executable, pack, dict(os.environ)) == 0
    assert not capsys.readouterr().out
    assert sorted(file.name for file in pack.iterdir() if not file.name.startswith(".")) == [
        "__init__.py", "colorize", "model_patches", "nodes", "trainer",
    ]  # fmt: skip
