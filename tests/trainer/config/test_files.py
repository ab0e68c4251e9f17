"""Configuration files and tables as editors, spreadsheets and Windows write them."""

from __future__ import annotations

import codecs

import pytest

from trainer import config as configuration
from trainer.config import ConfigError
from trainer.json_file import read_object
from trainer.prepare.tables import read_table
from trainer.text_file import read_text

TEXT = '[data]\nfolder = "Bücher"\n'
WRITTEN = {
    "utf-8": TEXT.encode(),
    "utf-8 with mark": codecs.BOM_UTF8 + TEXT.encode(),
    "utf-16": TEXT.encode("utf-16"),
    "utf-16 of Java": codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"),
    "utf-16 without mark": TEXT.encode("utf-16-le"),
    "windows-1252": TEXT.encode("cp1252"),
}


@pytest.mark.parametrize("how", WRITTEN)
def test_a_configuration_of_any_editor_is_read(tmp_path, how):
    (tmp_path / "a.toml").write_bytes(WRITTEN[how])
    assert configuration.load(str(tmp_path / "a.toml")).data.folder == "Bücher"
    assert read_text(tmp_path / "a.toml") == TEXT


@pytest.mark.parametrize("path", ["C:\\Users\\me", "C:\\pictures", "D:\\new\\table"])
def test_a_windows_path_in_double_quotes_is_explained(tmp_path, path):
    """TOML takes the backslashes for escapes: some are errors, others become new lines and tabs."""
    (tmp_path / "a.toml").write_text(f'[data]\nfolder = "{path}"\n')
    with pytest.raises(ConfigError, match="A Windows path is written '.*' in single quotes"):
        configuration.load(str(tmp_path / "a.toml"))
    (tmp_path / "a.toml").write_text(f"[data]\nfolder = '{path}'\n")
    assert configuration.load(str(tmp_path / "a.toml")).data.folder == path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_tables_of_any_spreadsheet_are_read(tmp_path, encoding, separator):
    """Regression: a mark at the beginning became part of the first name, semicolons lost every line without a word."""
    text = f'Bär.png{separator}"rot{separator} grün"\r\nb.png{separator}blau\r\n'
    (tmp_path / "tags.csv").write_bytes(text.encode(encoding))
    assert read_table(str(tmp_path / "tags.csv"), "tags") == {"Bär.png": f"rot{separator} grün", "b.png": "blau"}
    (tmp_path / "tags.json").write_bytes('{"Bär.png": ["rot", "grün"]}'.encode(encoding))
    assert read_table(str(tmp_path / "tags.json"), "tags") == {"Bär.png": "rot, grün"}


def test_a_table_with_a_line_without_value_is_refused(tmp_path):
    (tmp_path / "scores.csv").write_text("a.png,5\nb.png\n")
    with pytest.raises(ConfigError, match="scores.csv has a line without a score: 'b.png'"):
        read_table(str(tmp_path / "scores.csv"), "score")


def test_a_json_with_a_mark_is_read(tmp_path):
    (tmp_path / "a.json").write_bytes(codecs.BOM_UTF8 + b'{"a": 1}')
    assert read_object(tmp_path / "a.json", "") == {"a": 1}
