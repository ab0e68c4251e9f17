"""Scores and tags of pictures in tables of people: JSON, or CSV as any spreadsheet writes it."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from trainer.config import ConfigError
from trainer.json_file import JSON_ERRORS, no_constant
from trainer.text_file import read_text


def read_table(path: str, column: str) -> dict[str, Any]:
    """{picture: value} of a JSON object, or of a CSV file (commas, semicolons or tabs) whose first two columns are
    picture and value.

    Raises ConfigError, naming the file and the place.
    """
    try:
        text = read_text(Path(path))
        if Path(path).suffix.lower() == ".json":
            values = json.loads(text, parse_constant=no_constant)
            if not isinstance(values, dict):
                raise ConfigError(f"{path} is no JSON object {{picture: {column}}}.")
        else:
            first = text.partition("\n")[0]
            separator = max(",;\t", key=first.count)  # spreadsheets write the latter two in some countries
            rows = [row for row in csv.reader(io.StringIO(text), delimiter=separator) if row]
            if single := next((row[0] for row in rows if len(row) < 2), None):
                raise ConfigError(f"{path} has a line without a {column}: {single!r:.100}; write picture,{column}.")
            values = {row[0]: row[1] for row in rows if len(row) > 1}
            if rows and column == "score" and not _is_number(rows[0][1]):
                values.pop(rows[0][0])  # the heading
    except (OSError, csv.Error, *JSON_ERRORS) as error:
        raise ConfigError(f"{path} cannot be read ({error!s:.200}); give JSON {{picture: {column}}} or CSV.") from None
    if column == "score":
        wrong = next((name for name, value in values.items() if not _is_number(value)), None)
        if wrong is not None:
            raise ConfigError(f"{path} gives {wrong!r} the score {values[wrong]!r:.100}, which is no number.")
        return {name: float(value) for name, value in values.items()}
    return {name: ", ".join(map(str, v)) if isinstance(v, list) else str(v) for name, v in values.items()}


def _is_number(value: Any) -> bool:
    try:
        return abs(float(value)) < 1e6
    except (TypeError, ValueError, OverflowError):
        return False
