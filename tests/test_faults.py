"""A killed run that is resumed ends as if it had never been stopped."""

import json

import keras
import pytest
from faults import RESULTS, WAYS, Reference, page


@pytest.mark.once
def test_the_page_in_the_docs_is_made_of_the_files_beside_it():
    paths = sorted(RESULTS.glob("*.json"))
    made = page([json.loads(path.read_text("utf-8")) for path in paths])
    assert (RESULTS / "README.md").read_text("utf-8") == made
    assert made.startswith("# Faults\n\nAll 52 chains ended bit-equal after")


def test_killed_in_every_way_a_run_ends_as_if_never_stopped(tmp_path):
    pytest.importorskip("sklearn")
    reference = Reference("cifar10", keras.backend.backend(), tmp_path)
    kills, different = reference.chain(WAYS, (0.05, 0.1, 0.15))
    assert [kill.way for kill in kills] == list(WAYS)
    assert not different
