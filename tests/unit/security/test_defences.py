"""tools/defences.toml fits the sources, so that `make test-defences` can take each defence out."""

from __future__ import annotations

import pytest
from tools import defences
from tools.defences import Defence


def test_every_defence_can_be_taken_out_and_has_its_test() -> None:
    listed = defences.load()
    assert len(listed) > 40
    assert defences.faults(listed) == []


@pytest.mark.parametrize(
    ("old", "new"), [("no such line", "x"), ("import", "x"), ("import argparse", "import argparse")]
)
def test_a_replacement_that_does_not_apply_is_a_fault(old: str, new: str) -> None:
    defence = Defence("name", "tools/defences.py", old, new, "tests/unit/security/test_defences.py::test_x")
    assert "renew tools/defences.toml" in defences.faults([defence])[0]


def test_a_test_that_is_not_there_is_a_fault() -> None:
    defence = Defence("name", "tools/defences.py", "import argparse\n", "", "tools/defences.py::test_gone")
    assert defences.faults([defence]) == ["name: there is no test tools/defences.py::test_gone"]
