"""One of each, or as many as pictures: the one check of batches that meet in a run, with one message."""

from __future__ import annotations

from collections.abc import Mapping

ADVICE = "Use one, or as many as sketches (Repeat Image Batch and Image From Batch change the number)."


def mismatch(counts: Mapping[str, int]) -> str:
    """What does not fit together, as a sentence; empty where every count is 1 or the same. counts: name -> number."""
    if len(set(counts.values()) - {1}) < 2:
        return ""
    *first, last = (f"{count} {name}" for name, count in counts.items())
    return f"There are {', '.join(first)} and {last}."


def check_counts(counts: Mapping[str, int], advice: str = ADVICE) -> None:
    """Raise ValueError, with the advice, unless every count is 1 or the same. counts: name -> number."""
    if sentence := mismatch(counts):
        raise ValueError(f"{sentence} {advice}")


def check_count(
    name: str, count: int, pictures: int, of: str = "pictures", advice: str = ADVICE, repeats: bool = False
) -> None:
    """Raise ValueError, with the advice, unless there is one, or one for each of the pictures.

    repeats: or a number that divides theirs; they are taken in turn then, as ComfyUI repeats what it batches.
    """
    if count not in (1, pictures) and not (repeats and count and pictures % count == 0):
        raise ValueError(f"There are {count} {name} for {pictures} {of}. {advice}")
