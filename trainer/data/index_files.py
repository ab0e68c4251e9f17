"""Reading the index files of a data set, .json or .parquet, block by block (their form: index.py)."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from trainer.config import ConfigError
from trainer.data.index import FORMAT, Index, build
from trainer.json_file import JSON_ERRORS

_BLOCK = 8 * 2**20
_ENTRY_END = re.compile(rb"\}\s*,")
_LONGEST_ENTRY = 4 * _BLOCK
_FAILED_BYTES = 8 * _LONGEST_ENTRY  # that may be read in vain between two entries: some seconds
_TAIL = 2**20  # bytes at the end of a block in which a cut is looked for
_CUTS = 64  # places tried in a block; only nested entries need more than one


def find_files(root: Path, names: Iterable[str]) -> list[Path]:
    """The index files that data.index names: paths, or names in the data set or its data_index/, suffix optional."""
    found = []
    for name in names:
        bases = (Path(), root, root / "data_index")
        places = (base / f"{name}{suffix}" for base in bases for suffix in ("", ".json", ".parquet"))
        file = next((place for place in places if place.is_file()), None)
        if file is None:
            there = sorted(p.name for p in (root / "data_index").glob("*") if p.suffix in (".json", ".parquet"))
            known = f"there are {', '.join(there)}" if there else f"{root / 'data_index'} holds none"
            raise ConfigError(f"data.index names {name!r}, which is no file; {known}.")
        if file.suffix not in (".json", ".parquet"):
            raise ConfigError(f"data.index names {file}; an index is a .json or a .parquet file.")
        found.append(file)
    return found


def file_hash(path: Path) -> str:
    """SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def from_files(files: Iterable[Path], cache: Path, shards: bool = False) -> Index:
    """The index of all entries of index files, one after the other; of equal paths the first counts."""
    files = list(files)
    parts = [f"index {FORMAT}{' shards' if shards else ''}", *(file_hash(file) for file in files)]
    fingerprint = hashlib.sha256("\n".join(parts).encode()).hexdigest()
    problems: list[str] = []
    entries = (entry for file in files for entry in (read_json if file.suffix == ".json" else read_parquet)(file))
    return build(cache, fingerprint, entries, problems, shards=shards)


def read_json(path: Path) -> Iterator[tuple[str, Any]]:
    """(path, entry) pairs of a JSON object, block by block: the file is never in memory as a whole.

    A block is cut behind the last entry that ends in it. A cut inside a string or a nested value leaves text that is no
    JSON object, so what parses was cut at an entry's end. ConfigError names the file and the place when it is damaged.
    """
    with path.open("rb") as file:
        buffer = file.read(_BLOCK).lstrip(b"\xef\xbb\xbf \t\r\n")
        if not buffer.startswith(b"{"):
            raise ConfigError(f"{path} is not a JSON object {{path: {{...}}, ...}}; write one entry per picture.")
        buffer, failed = buffer[1:], 0
        while block := file.read(_BLOCK):
            buffer += block
            tail = max(0, len(buffer) - _TAIL)
            ends = [(match.start() + 1, match.end()) for match in _ENTRY_END.finditer(buffer, tail)][-_CUTS:]
            for end, after in reversed(ends):
                if failed > _FAILED_BYTES:
                    raise ConfigError(
                        f"{path} has entries that are nested in each other; write one flat entry per picture."
                    )
                try:
                    entries = json.loads(b"{" + buffer[:end] + b"}")
                except RecursionError:
                    raise ConfigError(f"{path} is nested too deep; write one flat entry per picture.") from None
                except ValueError:
                    failed += end
                    continue
                yield from entries.items()
                buffer, failed = buffer[after:], 0
                break
            if len(buffer) > _LONGEST_ENTRY:  # it is damaged
                break
        try:
            entries = json.loads(b"{" + buffer)
        except JSON_ERRORS as error:
            start = file.tell() - len(buffer)
            raise ConfigError(
                f"{path} is no whole JSON file: behind byte {start}, {error}. Write or download it again."
            ) from None
        yield from entries.items()


def read_parquet(path: Path) -> Iterator[tuple[str, Any]]:
    """(path, entry) pairs of a parquet file, batch by batch; needs the package pyarrow."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ConfigError(
            f"{path} needs the package pyarrow (pip install pyarrow), or convert the index to JSON."
        ) from None
    known = (
        "image_path",
        "aesthetic_score",
        "exist_sketch",
        "width",
        "height",
        "reference_list",
        "caption",
        "tags",
        "group",
    )
    try:
        file = pyarrow.parquet.ParquetFile(path)
        columns = [name for name in known if name in file.schema_arrow.names]
        if "image_path" not in columns:
            raise ConfigError(f"{path} has no column image_path; it has {', '.join(file.schema_arrow.names)}.")
        for batch in file.iter_batches(columns=columns):
            for entry in batch.to_pylist():
                yield entry.pop("image_path"), entry
    except pyarrow.ArrowException as error:
        raise ConfigError(f"{path} is no whole parquet file ({error}); write or download it again.") from None
