"""What the quickstart tests share."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture
def make_comfyui(tmp_path):
    """Returns a function that makes a folder looking like ComfyUI: make(relative name, version="0.33.0", main="")."""

    def make(name: str, version: str = "0.33.0", main: str = "") -> Path:
        folder = tmp_path / name
        (folder / "comfy").mkdir(parents=True)
        (folder / "main.py").write_text(main, encoding="utf-8")
        (folder / "requirements.txt").write_text("torch\n", encoding="utf-8")
        (folder / "comfyui_version.py").write_text(f'__version__ = "{version}"\n', encoding="utf-8")
        return folder

    return make
