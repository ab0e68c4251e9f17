"""The list of `python -m tests.mutations` fits the source: every place to change stands there, once."""

from pathlib import Path

import pytest

from tests.mutations.mutation import mutated
from tests.mutations.run import MUTATIONS, ROOT


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_mutation_changes_its_file(mutation):
    text = (ROOT / mutation.file).read_text(encoding="utf-8")
    assert mutated(text, mutation) != text
    assert Path(ROOT, mutation.tests.split(" ")[0]).is_file()


def test_names_are_told_apart():
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS)
