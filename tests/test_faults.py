"""A killed run that is resumed ends as if it had never been stopped."""

import keras
import pytest
from faults import WAYS, Reference


def test_killed_in_every_way_a_run_ends_as_if_never_stopped(tmp_path):
    pytest.importorskip("sklearn")
    reference = Reference("cifar10", keras.backend.backend(), tmp_path)
    kills, different = reference.chain(WAYS, (0.05, 0.1, 0.15))
    assert [kill.way for kill in kills] == list(WAYS)
    assert not different
