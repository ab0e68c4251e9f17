"""The type check: mypy over the pack as both of its users import it. Alone: python -m quickstart_lib.type_check

The trainer imports `colorize` by its name; in ComfyUI the same files are parts of a package, whose name is that of the
folder and need not be one that Python can spell. So mypy gets a second way to the folder, a link with a plain name.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ALIAS = "pack"
IN_COMFYUI = ("colorize", "model_patches", "nodes")
IN_TRAINER = ("colorize", "trainer")


def link(folder: Path, target: Path) -> None:
    """Make `folder` another way to `target`; Windows allows everybody a junction, but not a symbolic link."""
    if os.name == "nt":
        import _winapi

        _winapi.CreateJunction(str(target), str(folder))
    else:
        folder.symlink_to(target, target_is_directory=True)


def check(python: str, pack: Path, environ: dict[str, str]) -> int:
    """Print what mypy finds, one line per place; its exit status, 0 for nothing. [tool.mypy] has the settings."""
    packages = [f"{ALIAS}.{name}" for name in IN_COMFYUI] + list(IN_TRAINER)
    options = [option for name in packages for option in ("-p", name)]
    with tempfile.TemporaryDirectory(prefix="colorize-types-", ignore_cleanup_errors=True) as folder:
        alias = Path(folder, ALIAS)
        link(alias, pack)
        try:
            result = subprocess.run(
                [python, "-m", "mypy", *options, "--no-error-summary", "--show-absolute-path"],
                cwd=pack,
                env={**environ, "MYPYPATH": folder},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                errors="replace",
                check=False,
            )
        finally:
            alias.unlink() if os.name != "nt" else alias.rmdir()  # the link, before anything follows it
    text = result.stdout
    for way in (alias, alias.resolve(), pack):
        text = text.replace(f"{way}{os.sep}", "")
    for line in dict.fromkeys(text.splitlines()):  # what both users import is found twice
        print(line)
    return result.returncode


if __name__ == "__main__":
    sys.exit(check(sys.executable, Path(__file__).resolve().parents[1], dict(os.environ)))
