"""The packages that hold drawings with a free licence, and fetching them through their ordinary clients.

npm and apt-get bring the files; what they bring is compared with the hashes below. A package of another version than
the one that was looked at is refused, because nobody has looked at its pictures and its licence.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

from trainer.config import ConfigError


@dataclass(frozen=True)
class Package:
    """One package of one registry."""

    name: str
    client: str
    """npm or apt"""
    version: str
    sha256: str
    title: str
    author: str
    source: str
    licence: str
    """of the drawings"""


def _dicebear(
    name: str, sha256: str, title: str = "", author: str = "", source: str = "", licence: str = ""
) -> Package:
    return Package(f"@dicebear/{name}", "npm", "9.4.3", sha256, title or name, author, source, licence)


CC_BY, CC0, EXPAT = "CC BY 4.0", "CC0 1.0", "Expat"
FIGMA = "https://www.figma.com/community/file/"
PACKAGES = (
    _dicebear("core", "6ca7dae651c74ad547e548fbe7c41f49aaa377cf4617259277518389bf6b1a3d", licence="MIT (code only)"),
    _dicebear(
        "adventurer",
        "6edeac04f94ef6177c946918dce012e530200dfcc274b4f954239e33ecbe590c",
        "Adventurer",
        "Lisa Wischofsky",
        FIGMA + "1184595184137881796",
        CC_BY,
    ),
    _dicebear(
        "lorelei",
        "78cbba0a6c4d14e1af7c62ffa9a73bd98a8cda02e28690110e199348cd6a9c06",
        "Lorelei",
        "Lisa Wischofsky",
        FIGMA + "1198749693280469639",
        CC0,
    ),
    _dicebear(
        "micah",
        "b948931f01e97147ce8cdcfc4dfdad5c029bcb1ad57420dc0b22bc0aeb1d3fa7",
        "Avatar Illustration System",
        "Micah Lanier",
        FIGMA + "829741575478342595",
        CC_BY,
    ),
    _dicebear(
        "open-peeps",
        "65b664ec00dc69c068051461f2b5bd97c8335af676e36c284e906a3017c23d4f",
        "Open Peeps",
        "Pablo Stanley",
        "https://www.openpeeps.com",
        CC0,
    ),
    _dicebear(
        "toon-head",
        "b9cd3b5def9fb2c37a9acba2e4b9bd00268b6eaff705d596756e8d921a4580c8",
        "ToonHead",
        "Johan Melin",
        FIGMA + "1589627891082866389",
        CC_BY,
    ),
    _dicebear(
        "personas",
        "6f5b4765c4d54444ab0330c4a89da53636662de3b04118b827f005a31332d002",
        "Personas by Draftbit",
        "Draftbit",
        "https://personas.draftbit.com",
        CC_BY,
    ),
    _dicebear(
        "big-smile",
        "8dbd7b96c9ceaf9dd7c280cdae4f0bb3e43ab2798b7bedbe355fbb3ce30e87bb",
        "Custom Avatar",
        "Ashley Seo",
        FIGMA + "881358461963645496",
        CC_BY,
    ),
    _dicebear(
        "big-ears",
        "02fc47ff824b783142e6c85c2ba182ff535a7b40f65bfddfafa2b4f8d86eef50",
        "Face Generator",
        "The Visual Team",
        FIGMA + "986078800058673824",
        CC_BY,
    ),
    _dicebear(
        "miniavs",
        "cebf19ca30a49e88a60824f994f5fa2d9f9f7e2cbc7eb3bcad5b5af166f78274",
        "Miniavs",
        "Webpixels",
        FIGMA + "923211396597067458",
        CC_BY,
    ),
    Package(
        "renpy-demo",
        "apt",
        "8.0.3+dfsg-1",
        "b7599368598cd7a96e89772d48d7c89327fcc8d4490e0760eceda0bd792025d5",
        "Ren'Py tutorial",
        "Piroshki (Eileen), Mugenjohncel (Lucy, backgrounds), Tom Rothamel",
        "https://www.renpy.org",
        EXPAT,
    ),
    Package(
        "renpy-thequestion",
        "apt",
        "8.0.3+dfsg-1",
        "aee15e3230dd4ea84295ffc98e2793ad9dd48780991b6a0e8a8db47fda1b0bfa",
        "The Question",
        "Deji and derik (character), Mugenjohncel and DaFool (backgrounds), Tom Rothamel",
        "https://www.renpy.org",
        EXPAT,
    ),
)
BY_NAME = {package.name: package for package in PACKAGES}


def fetch(names: list[str], folder: Path) -> None:
    """Fetch and unpack packages below `folder`: npm's into node_modules/, Debian's into NAME/. Skips what is there.

    Raises ConfigError for a client that is missing or fails, and for a file that is not the one that was looked at.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        package = BY_NAME[name]
        place = root_of(package, folder)
        if (place / ".complete").is_file():
            continue
        shutil.rmtree(place, ignore_errors=True)
        file = _download(package, folder)
        found = hashlib.sha256(file.read_bytes()).hexdigest()
        if found != package.sha256:
            raise ConfigError(
                f"{file.name} is not the file that was looked at (version {package.version}, SHA-256 "
                f"{package.sha256[:16]}..., this one {found[:16]}...). Fetch that version, or leave its pictures out."
            )
        place.mkdir(parents=True)
        if package.client == "npm":
            with tarfile.open(file) as archive:  # everything lies below package/
                archive.extractall(folder / "unpacked", filter="data")
            shutil.move(folder / "unpacked" / "package", place / "package")
            for child in (place / "package").iterdir():
                shutil.move(child, place / child.name)
        else:
            _run(["dpkg-deb", "-x", str(file.resolve()), str(place.resolve())], place)
        (place / ".complete").write_text(package.version, encoding="utf-8")


def root_of(package: Package, folder: Path) -> Path:
    """Where a package is unpacked."""
    return folder / "node_modules" / package.name if package.client == "npm" else folder / package.name


def _download(package: Package, folder: Path) -> Path:
    """The package's file, by its client unless it lies in the folder already."""
    if package.client == "npm":
        file = folder / f"{package.name.replace('@', '').replace('/', '-')}-{package.version}.tgz"
        command = ["npm", "pack", "--silent", f"{package.name}@{package.version}"]
    else:
        file = folder / f"{package.name}_{package.version}_all.deb"
        command = ["apt-get", "download", f"{package.name}={package.version}"]
    if not file.is_file():
        _run(command, folder)
    if not file.is_file():
        raise ConfigError(f"`{' '.join(command)}` did not bring {file.name}; put the file into {folder} by hand.")
    return file


def _run(command: list[str], folder: Path) -> None:
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise ConfigError(
            f"`{command[0]}` is not installed. It brings drawings of its registry; install it, or leave out the "
            "sources that need it (--avatars 0, --figures 0)."
        ) from None
    except subprocess.CalledProcessError as error:
        raise ConfigError(f"`{' '.join(command)}` failed: {error.stderr.strip()[-400:]}") from None


def attribution(names: list[str]) -> str:
    """The text that must go with pictures, and models, made of these packages (Markdown)."""
    lines = [
        "# Drawings used here",
        "",
        "Changed: recoloured, cut, mirrored, scaled, put on other backgrounds, drawn as lines.",
        "",
        "| title | author | source | licence |",
        "|---|---|---|---|",
    ]
    for package in (BY_NAME[name] for name in names):
        if package.author:
            lines.append(f"| {package.title} | {package.author} | {package.source} | {package.licence} |")
    return "\n".join(lines) + "\n"
