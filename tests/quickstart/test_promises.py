"""What the repository promises about itself, checked on its own files."""

import re
import subprocess

import pytest


def shipped(root) -> list:
    """The files git knows or would add; without git every file outside hidden folders."""
    result = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    names = result.stdout.splitlines()
    if result.returncode:
        names = [
            f.relative_to(root).as_posix()
            for f in root.rglob("*")
            if f.is_file() and "/." not in f"/{f.relative_to(root)}"
        ]
    return [root / name for name in names if (root / name).is_file()]


def test_no_file_names_a_machine_or_a_package_host(root):
    words = [
        "/".join(("", "root", "")),
        "/".join(("", "work", "main")),
        ".".join(("pypi", "org")),
        ".".join(("npmjs", "org")),
        ".".join(("debian", "org")),
        "/".join(("", "home", "[a-z]")),
    ]
    pattern = re.compile("|".join(words))
    found = []
    for file in shipped(root):
        if file.suffix in (".py", ".md", ".toml", ".txt", ".json", ".yml", ".cjs", ".sh") or file.parent.name == ".ci":
            for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
                if pattern.search(line):
                    found.append(f"{file.relative_to(root)}:{number}: {line.strip()[:100]}")
    assert found == []


def test_ci_runs_the_command_of_the_readme(root):
    assert re.search(r"quickstart\.py( --comfyui pypi)? --test", (root / ".ci" / "run").read_text(encoding="utf-8"))
    readme = root / "README.md"
    if not readme.is_file():
        pytest.skip("no README yet")
    text = readme.read_text(encoding="utf-8")
    assert "python quickstart.py --test" in text and re.search(r"^python quickstart\.py my_sketch", text, re.M)


def test_every_option_is_documented(root):
    from quickstart_lib.options import parser

    for action in parser()._actions:
        assert action.help, action.option_strings


def test_registry_rules(root):
    text = (root / "pyproject.toml").read_text(encoding="utf-8")
    name = re.search(r'^name = "(.+)"$', text, re.M).group(1)
    assert len(name) < 100 and "comfyui" not in name.lower()
    assert re.search(r'^version = "\d+\.\d+\.\d+"$', text, re.M)
    assert re.search(r'^DisplayName = ".+"$', text, re.M) and re.search(r'^PublisherId = ".+"$', text, re.M)
    license_text = (root / "LICENSE").read_text(encoding="utf-8")
    assert "GNU GENERAL PUBLIC LICENSE" in license_text and "Version 3, 29 June 2007" in license_text
