"""From a tagger's probabilities to lines of tags: names, thresholds, order, spelling. Pure Python and torch."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass

import torch

GENERAL, CHARACTER, RATING = 0, 4, 9  # categories of selected_tags.csv
MCUT_CHARACTERS = 0.15  # the gap rule never goes below it for characters
LONGEST_NAME = 300  # letters of a tag; published ones have up to about 100
ORDERS = ("score", "list")
THRESHOLDS = ("fixed", "gap")

KAOMOJI = frozenset("0_0 (o)_(o) +_+ +_- ._. <o>_<o> <|>_<|> =_= >_< 3_3 6_9 >_o @_@ ^_^ o_o u_u x_x |_| ||_||".split())
"""Tags whose underscore is a mouth; they keep it."""


@dataclass(frozen=True)
class TagList:
    """The names of a tagger's outputs, in order."""

    names: tuple[str, ...]
    categories: tuple[int, ...]
    """0 general, 4 character, 9 rating."""

    @classmethod
    def parse(cls, text: str, source: str = "the tag list") -> TagList:
        """From the text of a selected_tags.csv: columns name and category, one row per output. Raises ValueError."""
        try:
            rows = list(csv.DictReader(io.StringIO(text.lstrip("\ufeff"))))
            names = tuple(row["name"] for row in rows)
            categories = tuple(int(row["category"]) for row in rows)
            strange = [name for name in names if not name.isprintable() or len(name) > LONGEST_NAME]
        except (csv.Error, KeyError, TypeError, ValueError, AttributeError):
            names, strange = (), []
        if strange:
            raise ValueError(
                f"{source} names a tag {strange[0]!r:.100}, which no tagger has (line breaks, control characters, or "
                f"more than {LONGEST_NAME} letters). Download selected_tags.csv from the tagger's page."
            )
        if not names or None in names:
            raise ValueError(
                f"{source} is no list of tags: it needs the columns name and category, as selected_tags.csv of the "
                "tagger's page has them. Download that file again."
            )
        return cls(names, categories)

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class TagOptions:
    """What becomes of the probabilities."""

    threshold: float = 0.35
    """A general tag must be above it, 0..1."""
    character_threshold: float = 0.85
    """The same for characters."""
    rule: str = "fixed"
    """"fixed": the two thresholds. "gap": each picture is cut in its largest gap between sorted probabilities."""
    exclude: str = ""
    """Tags to leave out, separated by commas or line breaks; with spaces or underscores, in any case."""
    spaces: bool = True
    """Spaces in place of underscores."""
    escape: bool = True
    """A backslash before brackets, for prompts."""
    scores: bool = False
    """(tag:0.85) with the probability as weight."""
    order: str = "score"
    """"score": the most probable first; "list": as in the tagger's list."""
    keep_kaomoji: bool = True
    """Faces such as ^_^ keep their underscore."""

    def __post_init__(self) -> None:
        for name, known in (("rule", THRESHOLDS), ("order", ORDERS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}; choose one of {', '.join(known)}.")
        for name in ("threshold", "character_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it lies between 0 and 1.")


@dataclass(frozen=True)
class Tags:
    """The tags of one picture: (name as in the list, probability)."""

    characters: tuple[tuple[str, float], ...]
    general: tuple[tuple[str, float], ...]
    rating: tuple[str, float]
    """The most probable of the ratings; ("", 0) when the list has none."""


def select(probabilities: torch.Tensor, tags: TagList, options: TagOptions) -> Tags:
    """Probabilities (tags,) -> the tags that pass. Raises ValueError when the list has another length."""
    if len(probabilities) != len(tags):
        raise ValueError(
            f"The tagger answers {len(probabilities)} tags, its list has {len(tags)}. Take the selected_tags.csv of "
            "the same model."
        )
    values = probabilities.float().nan_to_num(0.0).tolist()
    excluded = {_plain(name) for part in options.exclude.splitlines() for name in part.split(",")}
    ratings = [(n, v) for n, v, c in zip(tags.names, values, tags.categories) if c == RATING]

    def passing(category: int, threshold: float, least: float) -> tuple[tuple[str, float], ...]:
        rows = [(n, v) for n, v, c in zip(tags.names, values, tags.categories) if c == category]
        if options.rule == "gap":
            threshold = max(least, _largest_gap([value for _, value in rows]))
        rows = [(name, value) for name, value in rows if value > threshold and _plain(name) not in excluded]
        return tuple(sorted(rows, key=lambda row: -row[1]) if options.order == "score" else rows)

    return Tags(
        characters=passing(CHARACTER, options.character_threshold, MCUT_CHARACTERS),
        general=passing(GENERAL, options.threshold, 0.0),
        rating=max(ratings, key=lambda row: row[1], default=("", 0.0)),
    )


def line(tags: tuple[tuple[str, float], ...], options: TagOptions) -> str:
    """Tags as a line for a prompt, in the order given."""
    return ", ".join(_spelled(name, value, options) for name, value in tags)


def _spelled(name: str, value: float, options: TagOptions) -> str:
    if options.spaces and not (options.keep_kaomoji and name in KAOMOJI):
        name = name.replace("_", " ")
    if options.escape:
        name = name.replace("(", "\\(").replace(")", "\\)")
    return f"({name}:{value:.2f})" if options.scores else name


def _plain(name: str) -> str:
    return name.strip().lower().replace(" ", "_").replace("\\", "")


def _largest_gap(values: list[float]) -> float:
    """Middle of the largest gap between the sorted values (maximum cut); 0 for fewer than two values."""
    ordered = sorted(values, reverse=True)
    gaps = [high - low for high, low in zip(ordered, ordered[1:])]
    if not gaps:
        return 0.0
    place = gaps.index(max(gaps))
    return (ordered[place] + ordered[place + 1]) / 2
