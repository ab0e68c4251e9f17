"""What a mutation is."""

from __future__ import annotations

from typing import NamedTuple

STAGES = "tests/trainer/stages"


class Mutation(NamedTuple):
    """One change of the source that must make a test fail."""

    name: str
    file: str
    old: str
    """occurs once in the file"""
    new: str
    tests: str
    """what runs: a file, or a file and `-k` words after a space"""


def mutated(text: str, mutation: Mutation) -> str:
    """The file's text with the change. ValueError when the place is not there exactly once."""
    if (count := text.count(mutation.old)) != 1:
        raise ValueError(f"{mutation.name}: {mutation.old!r} stands {count} times in {mutation.file}; name it anew.")
    return text.replace(mutation.old, mutation.new)
